"""The edit of the residual stream on a worker.

affine        the edit inside the compiled graph
triton        the same as one kernel
slot_tables   which slot holds which intervention, which token belongs to which slot
staging       device tensors written from the host before every step
post_norms    bases mapped through the gain of norms behind writers
blocks        the decoder blocks that a worker holds
reader        activations read in a step, held until fetched
"""
