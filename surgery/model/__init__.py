"""A model before it runs: where it is, its shape, its files, its chat template and the float type it runs in.

models         a folder or hub id as everything that the rest needs to know of it
config         config.json as data
quantization   quantized weights, recognized
chat           a user's prompt as token ids; dates that templates ask for
dtypes         which float type, where that is left open
threads        torch on one thread
"""
