"""From prompts to activations: what is read of every prompt, and by which hooks.

contrast              harmful prompts and what they are held against
positions             end-of-instruction tokens
readings              token ids, sites and positions of every prompt
hooks                 forward hooks that read the residual stream, or ablate it
shared_prefix         tokens that all prompts begin with, run once
sources               what extraction asks of whatever runs the model
transformers_source   that, from transformers (vLLM's is in vllm_refusal.engine.engine)
activations           what was read, one layer at a time, in memory or spilled
"""
