"""GGUF files as Hugging Face folders: the weights dequantized, everything else as transformers reads it from the file.

source     the file, or the parts of a split one: what it says of itself, its tensors and how each is quantized
settings   the configuration
names      what each tensor is called in a Hugging Face folder, and what its values are there
writing    tensors dequantized a block of rows at a time and written as safetensors
folder     the whole: checked first, written whole or not at all, with its record and card
"""
