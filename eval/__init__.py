"""Bulk generation, judged scores, statistics and reports."""
