"""Checkpoints of architectures that current transformers and vLLM no longer run, rewritten as ones that they do.

Each module is one noun: `qwen` (the architecture of Qwen v1 and its counterpart in Qwen2), `tensors` (where each
rewritten tensor's bytes lie in the source, and the files they are copied to), `tiktoken_vocabulary` (the vocabulary as
a byte-level BPE tokenizer), `chatml` (chat format and generation settings), `checkpoint` (the folder as a whole).
"""
