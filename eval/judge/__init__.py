"""Judges: compliance and coherence of responses, scored by rules (heuristic) or by a language model."""
