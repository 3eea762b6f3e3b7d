"""What is left of a subspace where it was removed, read off the running model: the worker's half of the proof."""

from collections import defaultdict
from typing import Any

import torch
from torch import nn

from surgery.architecture.entry import SUM, Architecture
from surgery.residual.sites import STREAM, WRITES
from vllm_refusal.edit.blocks import all_blocks
from vllm_refusal.edit.slot_tables import SlotTables


class Watch:
    """Hooks that read the stream as the next block receives it, and writes as they are added, behind their norms.

    They see what runs uncompiled. Sums of squares are kept by module, site and layer: |x B^T - c|^2 and |x|^2, of rows
    under the module at strength 1 and of rows without an intervention, the control.
    """

    def __init__(self, model: nn.Module, architecture: Architecture, tables: SlotTables):
        self._tables, self._returns = tables, architecture.vllm.returns
        self._sums: dict[tuple[int, str, int], torch.Tensor] = defaultdict(lambda: torch.zeros(4, dtype=torch.float64))
        self._handles: list[Any] = []
        blocks = all_blocks(model, architecture)
        for layer, block in enumerate(blocks):
            if not hasattr(block, "residual_edit") and WRITES not in tables.config.sites:
                continue  # another worker's
            self._watch_block(layer, block, blocks[layer + 1 :], architecture)

    def _watch_block(self, layer: int, block: nn.Module, later: list[nn.Module], architecture: Architecture) -> None:
        if hasattr(block, "residual_edit"):
            following = later[0] if later and hasattr(later[0], "residual_edit") else None
            if following is None:
                hook = block.register_forward_hook(lambda _, __, output: self._stream(layer, as_tuple(output)))
            else:
                hook = following.register_forward_pre_hook(
                    lambda _, args, kwargs: self._stream(layer, (*args, *kwargs.values())), with_kwargs=True
                )
            self._handles.append(hook)
        if WRITES in self._tables.config.sites:
            self._watch_writes(layer, block, architecture)

    def _watch_writes(self, layer: int, block: nn.Module, architecture: Architecture) -> None:
        for path, norm in architecture.vllm_writers:
            try:
                writer = block.get_submodule(norm or path)
            except AttributeError:  # a block of another worker
                continue
            hook = writer.register_forward_hook(
                lambda _, __, output: self._add(WRITES, layer, as_tuple(output)[0])  # behind its norm, where it has one
            )
            self._handles.append(hook)

    def _stream(self, layer: int, values: tuple[Any, ...]) -> None:
        width = self._tables.config.d_model
        addends = [
            value
            for value in values
            if isinstance(value, torch.Tensor) and value.is_floating_point() and value.shape[-1] == width
        ]
        if addends:
            resid = addends[0].float()
            if self._returns == SUM and len(addends) > 1:
                resid = resid + addends[1].float()
            self._add(STREAM, layer, resid)

    def _add(self, site: str, layer: int, resid: torch.Tensor) -> None:
        tables = self._tables
        x = resid.detach().float().view(-1, resid.shape[-1])[: tables.n_tokens]
        slot = tables.slot[: len(x)]
        whole, module, plain = tables.alpha[site][layer][slot] == 1, tables.module_of_slot[slot], slot == 0
        for row in tables.rows.values():
            under = whole & (module == row)
            basis, offset = tables.bases[row], tables.offsets[row]
            self._sums[row, site, layer] += torch.stack(
                [part for rows in (x[under], x[plain]) for part in squares(rows, basis, offset)]
            ).cpu()

    def take(self) -> list[tuple[str, str, int, float, float]]:
        """(module, site, layer, what is left, control) of all that was seen, both |x B^T - c| / |x|; takes the hooks off."""
        for handle in self._handles:
            handle.remove()
        names = {row: name for name, row in self._tables.rows.items()}
        found = []
        for (row, site, layer), sums in self._sums.items():
            if not sums[1]:  # no row was under it here
                continue
            left, total, control, control_total = sums.tolist()
            found.append((names[row], site, layer, _ratio(left, total), _ratio(control, control_total)))
        return found


def _ratio(squared: float, total: float) -> float:
    return float((squared / total) ** 0.5) if total else 0.0


def squares(rows: torch.Tensor, basis: torch.Tensor, offset: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """|x B^T - c|^2 and |x|^2, each summed over rows, float64."""
    return (rows @ basis.T - offset).double().square().sum(), rows.double().square().sum()


def as_tuple(output: Any) -> tuple[Any, ...]:
    """What a module returns, as a tuple."""
    return output if isinstance(output, tuple) else (output,)
