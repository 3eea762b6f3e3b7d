"""The edit of the residual stream as one Triton kernel: PyTorch operators that compiled and CUDA graphs can hold.

    vllm_refusal::edit_sum_(hidden, residual, slot, module_of_slot, bases, offsets, alpha)
    vllm_refusal::edit_single_(resid, slot, module_of_slot, bases, offsets, alpha)

The equation and the tables are those of `vllm_refusal.edit.affine`. One program edits one row in place and does nothing for a
row without an intervention, so a row never depends on the rest of the batch and an idle batch costs one launch. Slots
and strengths are read on the device: a captured graph follows the tables.
"""

import torch
import triton
import triton.language as tl

from vllm_refusal.edit.saturation import largest

TILE = 8192
"""Basis numbers that a program holds at a time: 32 registers for each thread of 8 warps."""


@triton.jit  # type: ignore[untyped-decorator]  # Triton has no types
def _edit_row(  # type: ignore[no-untyped-def]  # it reads annotations: constexpr alone has a meaning
    hidden,  # [n_tokens, d_model]; the stream, or its first addend; becomes x'
    residual,  # [n_tokens, d_model]; its second addend, becomes 0; not touched unless IS_SUM
    slot,
    module_of_slot,
    bases,
    offsets,
    alpha,
    hidden_row,  # strides
    hidden_column,
    residual_row,
    residual_column,
    IS_SUM: tl.constexpr,
    D_MODEL: tl.constexpr,
    RANK: tl.constexpr,
    RANK_BLOCK: tl.constexpr,  # the power of two from RANK on
    BLOCK: tl.constexpr,  # columns at a time
    BOUND: tl.constexpr,  # where x' saturates
):
    row = tl.program_id(0).to(tl.int64)
    own = tl.load(slot + row)
    strength = tl.load(alpha + own)
    if strength != 0:
        module = tl.load(module_of_slot + own)
        k = tl.arange(0, RANK_BLOCK)
        basis = bases + module * RANK * D_MODEL + k[:, None] * D_MODEL
        missing = tl.load(offsets + module * RANK + k, mask=k < RANK, other=0.0)
        for start in range(0, D_MODEL, BLOCK):
            column = start + tl.arange(0, BLOCK)
            inside = column < D_MODEL
            x = tl.load(hidden + row * hidden_row + column * hidden_column, mask=inside, other=0.0).to(tl.float32)
            if IS_SUM:
                addend = residual + row * residual_row + column * residual_column
                x += tl.load(addend, mask=inside, other=0.0).to(tl.float32)
            b = tl.load(basis + column[None, :], mask=(k < RANK)[:, None] & inside[None, :], other=0.0)
            missing -= tl.sum(x[None, :] * b, axis=1)
        for start in range(0, D_MODEL, BLOCK):
            column = start + tl.arange(0, BLOCK)
            inside = column < D_MODEL
            target = hidden + row * hidden_row + column * hidden_column
            x = tl.load(target, mask=inside, other=0.0).to(tl.float32)
            if IS_SUM:
                addend = residual + row * residual_row + column * residual_column
                x += tl.load(addend, mask=inside, other=0.0).to(tl.float32)
            b = tl.load(basis + column[None, :], mask=(k < RANK)[:, None] & inside[None, :], other=0.0)
            x += strength * tl.sum(missing[:, None] * b, axis=0)
            x = tl.minimum(tl.maximum(x, -BOUND), BOUND)
            tl.debug_barrier()  # another warp may hold a copy of these columns: it must have read them, here and above
            tl.store(target, x, mask=inside)  # rounds to the dtype of the stream
            if IS_SUM:
                tl.store(addend, tl.zeros([BLOCK], tl.float32), mask=inside)


def _launch(hidden: torch.Tensor, residual: torch.Tensor, *tables: torch.Tensor) -> None:
    """Edit rows in place; a stream held as one tensor is given twice."""
    slot, module_of_slot, bases, offsets, alpha = tables
    n_tokens, d_model = hidden.shape
    if n_tokens == 0:
        return
    rank = bases.shape[1]
    rank_block = triton.next_power_of_2(rank)
    _edit_row[(n_tokens,)](
        hidden,
        residual,
        slot,
        module_of_slot,
        bases,
        offsets,
        alpha,
        *hidden.stride(),
        *residual.stride(),
        IS_SUM=residual is not hidden,
        D_MODEL=d_model,
        RANK=rank,
        RANK_BLOCK=rank_block,
        BLOCK=max(32, min(triton.next_power_of_2(d_model), TILE // rank_block)),
        BOUND=largest(hidden.dtype),
        num_warps=8,
    )


def edit_sum_(
    hidden: torch.Tensor,
    residual: torch.Tensor,
    slot: torch.Tensor,
    module_of_slot: torch.Tensor,
    bases: torch.Tensor,
    offsets: torch.Tensor,
    alpha: torch.Tensor,
) -> None:
    """Edited rows of (hidden, residual), whose sum is the stream, become (x', 0); in place."""
    _launch(hidden, residual, slot, module_of_slot, bases, offsets, alpha)


def edit_single_(
    resid: torch.Tensor,
    slot: torch.Tensor,
    module_of_slot: torch.Tensor,
    bases: torch.Tensor,
    offsets: torch.Tensor,
    alpha: torch.Tensor,
) -> None:
    """Edited rows of resid become x'; in place."""
    _launch(resid, resid, slot, module_of_slot, bases, offsets, alpha)


def _register(library: torch.library.Library) -> None:
    """Thin operators without autograd: `torch.library.custom_op` would add microseconds to each call."""
    for operator, mutated in ((edit_sum_, ("hidden", "residual")), (edit_single_, ("resid",))):
        name = operator.__name__
        library.define(name + torch.library.infer_schema(operator, mutates_args=mutated))
        library.impl(name, operator, "CompositeExplicitAutograd")
        torch.library.register_fake(f"vllm_refusal::{name}", lambda *_: None, lib=library)


LIBRARY = torch.library.Library("vllm_refusal", "FRAGMENT")
"""Keeps the operators registered."""
_register(LIBRARY)
