"""Architectures as data: where blocks are and what writes to the residual stream.

entry     what is known of one: names in transformers, in files and in vLLM
table     all that are supported, the one place to add another
writers   what writes to the stream among the tensors of a model
"""
