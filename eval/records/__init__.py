"""A run on disk: `run.json`, `generations.jsonl`, `verdicts.jsonl`.

run           the folder: append-only, resumable, one writer at a time
manifest      what `run.json` says
redaction     text kept out of a run
replacement   what took long to make, replaced
export, inspect_log   the forms that other programs read
"""
