"""Judges behind an endpoint: what a model is asked (rubric, guard), on which scale, and how its answer is read."""
