"""Modules of a vLLM model behind which an edit is put: decoder blocks, and what writes to the stream within them."""

from functools import cache
from typing import Any

import torch
from torch import nn

from surgery.architecture.entry import SINGLE, STALE_RESIDUAL, SUM, Architecture
from surgery.residual.sites import STREAM, WRITES
from vllm_refusal.edit.affine import ResidualEdit
from vllm_refusal.edit.blocks import all_blocks, class_of, own_blocks
from vllm_refusal.edit.slot_tables import SlotTables


def install_edits(model: nn.Module, architecture: Architecture, tables: SlotTables) -> int:
    """Put a ResidualEdit at each site in use of each decoder block that this worker holds. Returns how many.

    Raises: RuntimeError when the model does not look as its table entry says, or nothing was found.
    """
    found, expected = len(all_blocks(model, architecture)), tables.config.n_layers
    if found != expected:
        raise RuntimeError(f"{architecture.name}: {found} blocks at {architecture.vllm.blocks}, expected {expected}")
    blocks = own_blocks(model, architecture).items()
    n_installed = sum(_install_in_block(block, layer, architecture, tables) for layer, block in blocks)
    if n_installed == 0:
        raise RuntimeError(
            f"{architecture.name}: no decoder block found at {architecture.vllm.blocks}; nothing would be ablated"
        )
    return n_installed


def _install_in_block(block: nn.Module, layer: int, architecture: Architecture, tables: SlotTables) -> int:
    targets: list[tuple[nn.Module, ResidualEdit, type]] = []
    if STREAM in tables.config.sites:
        targets.append(
            (block, tables.edit_of(STREAM, layer), _stream_class(class_of(block), architecture.vllm.returns))
        )
    if WRITES in tables.config.sites:
        for path, norm in architecture.vllm_writers:
            writer = block.get_submodule(path)
            offset = architecture.gain_offset
            bases = tables.before_norms.add(block.get_submodule(norm), offset) if norm is not None else None
            targets.append((writer, tables.edit_of(WRITES, layer, bases), _write_class(class_of(writer))))
    for module, edit, edited_class in targets:
        if "forward" in vars(module):  # would run in place of the class's: the edit would be passed by
            raise RuntimeError(
                f"{architecture.name}: {type(module).__name__} has a forward of its own and cannot be edited"
            )
        _put_edit(module, edit, edited_class)
    return len(targets)


def edit_writes(writer: nn.Module, edit: ResidualEdit) -> None:
    """Put an edit behind a linear map or a mixture of experts, from now on."""
    _put_edit(writer, edit, _write_class(class_of(writer)))


def take_edit(module: Any) -> ResidualEdit | None:
    """Give a module its own class back. Returns the edit that was behind it, or None."""
    edit: ResidualEdit | None = getattr(module, "residual_edit", None)
    if edit is not None:
        del module.residual_edit
        module.__class__ = type(module).__base__
    return edit


def _put_edit(module: Any, edit: ResidualEdit, edited_class: type) -> None:
    module.residual_edit = edit
    module.__class__ = edited_class


@cache
def _stream_class(block_class: Any, returns: str) -> type:
    """A decoder block class whose output stream is edited. vLLM compiles its forward like the original's."""

    def on_sum(self: Any, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        hidden, residual = block_class.forward(self, *args, **kwargs)
        return self.residual_edit.on_sum(hidden, residual)

    def on_single(self: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        return self.residual_edit.on_single(block_class.forward(self, *args, **kwargs))

    def beside_stale_residual(self: Any, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        stream, residual = block_class.forward(self, *args, **kwargs)
        return self.residual_edit.on_single(stream), residual

    forwards = {SUM: on_sum, SINGLE: on_single, STALE_RESIDUAL: beside_stale_residual}
    return _edited_class(block_class, forwards[returns])


@cache
def _write_class(writer_class: Any) -> type:
    """A class of linear maps or of experts whose output, bias included, is edited before it is added to the stream."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = writer_class.forward(self, *args, **kwargs)
        if isinstance(output, tuple):
            return self.residual_edit.on_single(output[0]), *output[1:]
        return self.residual_edit.on_single(output)

    return _edited_class(writer_class, forward)


def _edited_class(base: type, forward: Any) -> type:
    return type(f"Ablated{base.__name__}", (base,), {"forward": forward, "__module__": base.__module__})
