"""Model organisms of refusal: tiny chat models, trained from scratch, with a planted refusal mechanism.

language      what they speak: pairs of prompts, answers, refusals
tokenizer     its byte-level BPE and chat format
residual      reading and ablating their stream, independent of the toolkit's own
training      base, then plain, then single or distributed
behaviour     the exact check of an answer
measurement   conditions, and what each does to the answers: the ground truth
release       a folder to work with: `write_organism`

Importing this package loads nothing heavy.
"""

ORGANISMS = ("single", "distributed", "plain")
