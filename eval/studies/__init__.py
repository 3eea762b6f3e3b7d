"""Whole studies made of the rest: the audit, recipes, and the demo, with their files (`workplace`) and commands run in
this process (`shell`)."""
