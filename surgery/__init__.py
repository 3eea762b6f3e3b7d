"""Offline half: refusal vectors, their analysis, and orthogonalized checkpoints."""
