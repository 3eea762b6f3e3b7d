"""From a basis to edited weights, and their proof.

edits        which stored tensors write to the residual stream, along which axis
edit         the edit of one tensor
matrices     stored tensors as matrices, a block of rows at a time
checkpoint   a whole orthogonalized checkpoint, streamed
adapter      a LoRA adapter of the same effect
manifest     what an edited folder says of itself
measure, verify, verify_adapter   every claim of a manifest, recomputed from bytes
"""
