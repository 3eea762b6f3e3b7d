"""Sampling plans: how many prompts a difference takes (`power`), from a pilot (`pilot`), at what price (`sampling_plan`)."""
