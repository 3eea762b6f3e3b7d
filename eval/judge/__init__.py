"""Judges: compliance and coherence of responses, a score of 0, 0.5 or 1 or a reason why there is none.

protocol    what a judge is
choice      the one that options choose
docket      what is still to be judged in a run
judging, overlap   judging a run, after or beside its generation
rules/      the heuristic judge
endpoint/   judges behind an endpoint: rubrics and guards
trial/      judges held against labels, clear cases, injections and each other
"""
