"""Answering every prompt of a run under every condition.

engine_arguments   flags of vLLM's
job            one command's work, chosen and checked before an engine starts
answering      the work, resumable at any moment
beside         judging while it goes on
study_date     the date that chat templates are told
progress, interruption   signs of life, and the end by a signal
"""
