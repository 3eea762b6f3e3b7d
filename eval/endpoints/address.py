"""What is known of a server before it is asked, where a user says nothing else."""

BASE_URL = "https://api.openai.com/v1"
KEY_ENV = "OPENAI_API_KEY"
CONCURRENCY = 128
"""Requests in flight at each server that answers prompts."""
