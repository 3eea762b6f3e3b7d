"""A run on disk: `run.json`, `generations.jsonl`, `verdicts.jsonl`.

run           the folder: append-only, resumable, one writer at a time
rows          its rows: a response, a verdict
manifest      what `run.json` says, typed
beginning     a new run, or one to go on with
measures      what is measured of a response: the one list
redaction, redacting   text kept out of a run, or taken out
replacement   what took long to make, replaced
export, inspect_log   the forms that other programs read
"""
