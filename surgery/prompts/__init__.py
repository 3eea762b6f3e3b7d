"""Prompts and matched prompt pairs: where they come from, how they are read, and what is checked about them."""

from surgery.prompts.loading import load_pairs, load_prompts, load_set
from surgery.prompts.prompt_set import Pair, Prompt, PromptSet, prompts_sha256

__all__ = ["Pair", "Prompt", "PromptSet", "load_pairs", "load_prompts", "load_set", "prompts_sha256"]
