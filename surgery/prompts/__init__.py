"""Prompts and matched prompt pairs: where they come from, how they are read, and what is checked about them.

loading               a source in, a set of pairs or prompts with its origin out
table, hub, builtin   the files, splits or built-in sets that a source names
rows, layouts         their rows, and what the columns mean
inspection, similarity, export   a set described, near-duplicates, the built-in sets as files
"""

from surgery.prompts.loading import load_pairs, load_prompts, load_set
from surgery.prompts.prompt_set import Pair, Prompt, PromptSet, prompts_sha256

__all__ = ["Pair", "Prompt", "PromptSet", "load_pairs", "load_prompts", "load_set", "prompts_sha256"]
