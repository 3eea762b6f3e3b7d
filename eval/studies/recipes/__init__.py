"""Recipes: a whole study of one model, from its refusal vectors to a verdict on each claim of the write-up."""
