"""A loaded model whose weights are orthogonalized for a while, and then exactly what they were."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from surgery.architecture.entry import Architecture
from surgery.architecture.table import entry_of
from surgery.architecture.writers import writers
from surgery.console.errors import ModelError
from surgery.reading.hooks import check_width, gain_of, submodule
from surgery.residual.gains import Removal, removal
from surgery.residual.layers import LayerSpec, parse_layers
from surgery.residual.operator import check_alpha
from surgery.residual.subspace import check_orthonormal
from surgery.weights.edit import edit_rows

if TYPE_CHECKING:
    import torch

_DTYPES = ("torch.float32", "torch.bfloat16", "torch.float16")


@contextmanager
def orthogonalized(
    model: "torch.nn.Module",
    basis: "torch.Tensor",
    alpha: float = 1.0,
    layers: LayerSpec = "all",
    embeddings: bool = False,
) -> Iterator[int]:
    """Orthogonalize a loaded transformers model in place while the context lasts; yields the number of tensors edited.

    W' = W - alpha * Q^T (Q W), as `surgery.weights.checkpoint` writes it. On exit every weight has its old bits again, after
    an exception too. Copies of the edited weights are kept meanwhile, on their device.

    Args:
        basis: [rank, d_model], float32, orthonormal rows.
        embeddings: edit the token embedding too. A tied unembedding keeps the original values and is tied again on exit.
    Raises: ModelError (unknown architecture, a module missing, weights quantized or not in memory), ShapeError,
        AlphaError, LayerRangeError, ArtifactError (basis not orthonormal).
    """
    check_alpha(alpha)
    check_orthonormal(basis)
    entry = entry_of(type(model).__name__)
    check_width(model, basis)
    chosen = parse_layers(layers, len(submodule(model, entry.blocks)))
    edits = _parameters(model, entry, basis, chosen, embeddings)
    for name, (parameter, _, _) in edits.items():
        _check_editable(name, parameter)
    with _untied(model, entry) if embeddings else nullcontext():
        originals = [(parameter, parameter.detach().clone()) for parameter, _, _ in edits.values()]
        try:
            for name, (parameter, output_axis, removed) in edits.items():
                _edit(name, parameter, output_axis, removed, alpha)
            yield len(edits)
        finally:
            for parameter, original in originals:
                parameter.data.copy_(original)


def _parameters(
    model: "torch.nn.Module", entry: Architecture, basis: "torch.Tensor", layers: tuple[int, ...], embeddings: bool
) -> "dict[str, tuple[torch.nn.Parameter, int, Removal]]":
    """Name -> (parameter, axis that runs along the residual stream, what is removed) of everything to edit."""
    parameters, found = dict(model.named_parameters()), {}
    for writer in writers(entry, parameters, layers):
        if writer.name not in parameters:
            raise ModelError(f"{type(model).__name__} has no parameter {writer.name}; it cannot be edited in place")
        removed = removal(basis, gain_of(model, entry, writer.norm))
        found[writer.name] = (parameters[writer.name], writer.output_axis, removed)
    if embeddings:
        found[f"{entry.embedding}.weight"] = (submodule(model, entry.embedding).weight, 1, removal(basis))
    return found


def _check_editable(name: str, parameter: "torch.nn.Parameter") -> None:
    if str(parameter.dtype) not in _DTYPES:
        raise ModelError(f"{name} is {parameter.dtype}; only float32, bfloat16 and float16 weights can be edited")
    if parameter.is_meta:
        raise ModelError(f"{name} is not in memory (offloaded); load the model without offloading, or edit its files")


def _edit(name: str, parameter: "torch.nn.Parameter", output_axis: int, removed: Removal, alpha: float) -> None:
    values = parameter.data
    if alpha != 0:
        basis = removed.basis.to(values.device)
        probe = basis if removed.probe is removed.basis else removed.probe.to(values.device)
        for rows in _output_vectors(values, output_axis):
            edit_rows(rows, Removal(basis, probe), alpha)
    if not values.isfinite().all():
        raise ModelError(f"{name} holds values that are not finite, in the model or after an edit with alpha {alpha:g}")


def _output_vectors(values: "torch.Tensor", output_axis: int) -> "Iterator[torch.Tensor]":
    """Views [n, d_model] of a bias, a matrix, or the matrix of every expert, one by one."""
    if values.ndim == 1:
        yield values.unsqueeze(0)
    elif values.ndim == 2:
        yield values.T if output_axis == 0 else values
    else:
        for matrix in values:
            yield matrix.T if output_axis == 1 else matrix


@contextmanager
def _untied(model: "torch.nn.Module", entry: Architecture) -> Iterator[None]:
    """Give a tied unembedding a copy of its own while the context lasts."""
    import torch

    head, embedding = submodule(model, entry.unembedding), submodule(model, entry.embedding)
    shared = head.weight
    if shared is not embedding.weight:
        yield
        return
    head.weight = torch.nn.Parameter(shared.detach().clone(), requires_grad=shared.requires_grad)
    try:
        yield
    finally:
        head.weight = shared
