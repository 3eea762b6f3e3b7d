"""Which stored tensors write to the residual stream, and along which axis."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from surgery.architecture.entry import Architecture
from surgery.architecture.writers import Writer, writers
from surgery.console.errors import ModelError
from surgery.files.shards import FLOAT_DTYPES, StoredTensor

_DRAFT_PARTS = re.compile(r"(mtp|nextn|medusa|eagle|draft)")  # what publishers name a head that drafts tokens


@dataclass(frozen=True)
class Edit:
    """A tensor to be edited.

    Attributes:
        output_axis: the axis that runs along the residual stream: 0 for a torch.nn.Linear weight [d_model, in] and for
            a bias, 1 for an embedding [vocab_size, d_model] and for Conv1D [in, d_model]; one more in a tensor that holds
            the matrix of every expert, [n_experts, d_model, in].
        gain: weight of the norm that the output passes before it is added; None without one.
        gain_offset: added to that weight to give the gain.
        stacked: whether it holds the matrices of all experts.
    """

    tensor: StoredTensor
    output_axis: int
    gain: StoredTensor | None = None
    gain_offset: float = 0.0
    stacked: bool = False


def plan_edits(
    entry: Architecture, tensors: Mapping[str, StoredTensor], layers: tuple[int, ...], d_model: int, embeddings: bool
) -> dict[str, Edit]:
    """The tensors to edit: in each chosen block what attention and MLP write with, every expert's matrix and biases where
    stored; embeddings if asked.

    Names are matched whole, so layer 1 is not layer 10. The axis comes from the entry's declared layout, never from the
    shape: o_proj is often square.
    Raises: ModelError naming the first matrix that is not there, has another shape, or is not float32/bf16/fp16; for
        experts as `writers`.
    """
    wanted = writers(entry, tensors, layers)
    embedding = [f"{entry.embedding}.weight"] if embeddings else []
    needed = {*embedding, *(writer.name for writer in wanted), *(f"{one.norm}.weight" for one in wanted if one.norm)}
    missing = sorted(needed - tensors.keys())
    if missing:
        raise ModelError(
            f"{len(missing)} of {len(needed)} tensors that the edit needs are not in the model's files, e.g. {missing[0]}; "
            f"expected the names of {entry.name}"
        )
    edits = {writer.name: _edit(entry, tensors, writer) for writer in wanted}
    edits |= {name: Edit(tensors[name], output_axis=1) for name in embedding}
    for edit in edits.values():
        _check_editable(edit, d_model)
        if edit.gain is not None:
            _check_editable(Edit(edit.gain, 0), d_model)
    return edits


def draft_tensors(entry: Architecture, names: Iterable[str], n_layers: int) -> list[str]:
    """Names of the tensors of a draft head (multi-token prediction), which is no part of the model and is never edited.

    It is named so in some part of the name (`mtp.`, `mtp_block.`), or is a block after the last (DeepSeek, GLM).
    """
    block = re.compile(rf"{re.escape(entry.blocks)}\.(\d+)\.")
    return sorted(
        name
        for name in names
        if any(_DRAFT_PARTS.match(part) for part in name.split("."))
        or ((found := block.match(name)) and int(found[1]) >= n_layers)
    )


def draft_notes(drafts: list[str]) -> list[str]:
    """What a user of an edited model with a draft head must know."""
    if not drafts:
        return []
    return [
        f"{len(drafts)} tensors of a draft head are as in the original model and not edited (e.g. {drafts[0]}): in "
        "speculative decoding it proposes the original's refusals, which the edited model rejects, so answers stay the "
        "edited model's but come more slowly"
    ]


def _edit(entry: Architecture, tensors: Mapping[str, StoredTensor], writer: Writer) -> Edit:
    gain = tensors[f"{writer.norm}.weight"] if writer.norm else None
    return Edit(tensors[writer.name], writer.output_axis, gain, entry.gain_offset, writer.stacked)


def _check_editable(edit: Edit, d_model: int) -> None:
    tensor = edit.tensor
    if tensor.dtype not in FLOAT_DTYPES:
        raise ModelError(
            f"{tensor.name} is stored as {tensor.dtype}; only {', '.join(FLOAT_DTYPES)} can be edited, not quantized weights"
        )
    n_axes = 3 if edit.stacked else min(len(tensor.shape), 2)
    if len(tensor.shape) != n_axes or tensor.shape[edit.output_axis] != d_model:
        raise ModelError(
            f"{tensor.name} has shape {list(tensor.shape)}; expected {d_model} (d_model) along axis {edit.output_axis}"
        )
