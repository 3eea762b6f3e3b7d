"""Whole studies made of the rest: the audit, recipes, and the demo, with their files (`workplace`) and their stages that
are recorded when they are done (`study`)."""
