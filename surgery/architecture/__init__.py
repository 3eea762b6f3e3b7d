"""Model families as data: where blocks are and what writes to the residual stream, in modules (`families`) and in
stored tensors (`writers`)."""
