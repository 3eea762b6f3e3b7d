"""Asked, answered, judged, counted, told. Rooms, in the order in which data flow; each imports only those before it:

plan         what is compared: conditions
endpoints    servers that answer or judge
records      a run on disk
judge        verdicts: rules, rubrics, guards; their trial on labelled answers
generation   every prompt under every condition
statistics   scores, intervals, comparisons
power        how many prompts a difference takes
cost         what an edit costs: damage and benchmarks
report       tables, figures, sentences, pages
studies      audit, recipes, the demo
commands     the commands, one file a noun; `cli` names them
"""
