"""Judges on trial: against human labels, clear cases, injections, and each other."""
