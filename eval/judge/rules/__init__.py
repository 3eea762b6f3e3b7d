"""The heuristic judge: phrase tables and text statistics, no model. Its version is a digest of what is in here."""
