"""Sites of a decoder block: where the residual stream is read, and where it is edited."""

RESID_SITES = RESID_PRE, RESID_MID, RESID_POST = "resid_pre", "resid_mid", "resid_post"
"""What enters the block, the stream between its attention and its MLP, and what it gives to the next block."""
EDIT_SITES = STREAM, WRITES = "stream", "writes"
"""The block's output (resid_post); what its attention and its MLP put out, before it is added."""
