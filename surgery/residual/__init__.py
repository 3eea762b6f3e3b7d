"""The residual stream, in numbers: what is removed from it, where, and by which basis.

operator    the reference edit x - (x - c) B^T B, which every implementation must equal
layers      lists of 0-based decoder blocks
sites       where in a block the stream is read, and where it is edited
vectors     refusal vectors, one [d_model] per layer, with their statistics
subspace    orthonormal bases [k, d_model] and the files that hold them
gains       bases mapped through the gain of a norm behind a writer
"""
