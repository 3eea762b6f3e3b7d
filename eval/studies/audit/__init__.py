"""The audit: how robust a model's refusal is to linear edits."""
