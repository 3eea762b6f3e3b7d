"""What writes to the residual stream: the stored weights of attention and MLP, dense or of experts."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from surgery.architecture.entry import Architecture, Experts
from surgery.console.errors import ModelError
from surgery.files.shards import StoredTensor


@dataclass(frozen=True)
class Writer:
    """One stored weight whose outputs are added to the residual stream.

    Attributes:
        name: of the tensor in the files.
        output_axis: the axis that runs along the residual stream.
        norm: name of the norm that the output passes before it is added; None without one.
        parameter: name of the parameter in transformers that it is, or is a part of.
        modules: the linear maps that it holds, by the names of the released files: one, or one for each expert.
        inputs: an expert's other maps, beside `modules`; empty for anything but a routed expert.
        stacked: whether it holds the matrices of all experts, [n_experts, ...].
    """

    name: str
    output_axis: int
    norm: str | None
    parameter: str
    modules: tuple[str, ...]
    inputs: tuple[str, ...] = ()
    stacked: bool = False


def writers(entry: Architecture, tensors: Mapping[str, StoredTensor], layers: Iterable[int]) -> list[Writer]:
    """What writes to the residual stream in the chosen blocks; biases where there are any.

    A block's MLP is dense or of experts. Which, the names say: a router stands in the one and not in the other, so
    architectures that mix both need no rule. Experts are held a matrix each, or all in one tensor.

    Args:
        tensors: everything that the model's files hold, by name.
    Returns: block by block. A matrix that every such block has is listed even where `tensors` lacks it.
    Raises: ModelError when an expert is missing or held twice, or when there are tensors of experts in a layout that the
        architecture is not known to have: nothing that may write is passed over.
    """
    return [writer for layer in layers for writer in _block_writers(entry, tensors, layer)]


def _block_writers(entry: Architecture, tensors: Mapping[str, StoredTensor], layer: int) -> Iterator[Writer]:
    block, experts = entry.block(layer), entry.experts
    yield from _linear(entry, tensors, f"{block}.{entry.attention.module}", _after(block, entry.attention.norm))
    norm = _after(block, entry.mlp.norm)
    stem = _stem(experts, tensors, block) if experts else None
    _check_known(entry, tensors, block, stem)
    if experts is None or stem is None:
        yield from _linear(entry, tensors, f"{block}.{entry.mlp.module}", norm)
        return
    if f"{block}.{entry.mlp.module}.weight" in tensors:
        raise ModelError(f"{block} has experts and a dense {entry.mlp.module}.weight as well; expected one of them")
    yield from _routed(entry, experts, tensors, block, stem)
    if experts.shared:
        yield from _linear(entry, tensors, f"{stem}.{experts.shared}.{experts.out}", norm)


def _routed(
    entry: Architecture, experts: Experts, tensors: Mapping[str, StoredTensor], block: str, stem: str
) -> Iterator[Writer]:
    """All experts of one block that its router chooses from, each in a tensor of its own or all in one."""
    n_experts, fused = _n_experts(experts, tensors, stem), f"{stem}.{experts.fused_out}"
    names = [f"{stem}.experts.{number}.{experts.out}.weight" for number in range(n_experts)]
    modules = tuple(f"{block}.{experts.stored_block}.experts.{number}.{experts.out}" for number in range(n_experts))
    norm, parameter = _after(block, entry.mlp.norm), f"{block}.{experts.block}.{experts.fused_out}"
    missing = [name for name in names if name not in tensors]
    if fused not in tensors:
        _check_complete(stem, n_experts, missing)
        for name, module in zip(names, modules, strict=True):
            yield Writer(name, entry.output_axis, norm, parameter, (module,), experts.inputs)
        return
    if len(missing) < n_experts:
        raise ModelError(f"{stem} has experts in {fused} and also in tensors of their own; expected one of them")
    if len(tensors[fused].shape) != 3 or tensors[fused].shape[0] != n_experts:
        raise ModelError(
            f"{fused} has shape {list(tensors[fused].shape)}; expected {n_experts} matrices, as {stem}'s router counts"
        )
    yield Writer(fused, entry.output_axis + 1, norm, parameter, modules, experts.inputs, stacked=True)


def _check_complete(stem: str, n_experts: int, missing: list[str]) -> None:
    if missing:
        raise ModelError(
            f"{stem}: its router counts {n_experts} experts, but {len(missing)} of their output matrices are not there, "
            f"e.g. {missing[0]}; download the model again"
        )


def _linear(entry: Architecture, tensors: Mapping[str, StoredTensor], name: str, norm: str | None) -> Iterator[Writer]:
    """A linear map's matrix, and its bias if there is one."""
    yield Writer(f"{name}.weight", entry.output_axis, norm, f"{name}.weight", (name,))
    if f"{name}.bias" in tensors:
        yield Writer(f"{name}.bias", 0, norm, f"{name}.bias", (name,))


def _after(block: str, norm: str | None) -> str | None:
    return norm and f"{block}.{norm}"


def _stem(experts: Experts, tensors: Mapping[str, StoredTensor], block: str) -> str | None:
    """What the names of a block's experts begin with; None for a dense block, which has no router."""
    stems = (f"{block}.{name}" for name in (experts.stored_block, experts.block))
    return next((stem for stem in stems if f"{stem}.{experts.router}.weight" in tensors), None)


def _n_experts(experts: Experts, tensors: Mapping[str, StoredTensor], stem: str) -> int:
    return tensors[f"{stem}.{experts.router}.weight"].shape[0]


def _check_known(entry: Architecture, tensors: Mapping[str, StoredTensor], block: str, stem: str | None) -> None:
    """Refuse experts in a layout of which it is not known what writes to the stream."""
    known = _known(entry.experts, stem, _n_experts(entry.experts, tensors, stem)) if stem and entry.experts else ()
    strange = sorted(
        name
        for name, tensor in tensors.items()
        if name.startswith(f"{block}.") and ("expert" in name or len(tensor.shape) > 2) and name not in known
    )
    if strange:
        where = f"the experts that {stem}'s router counts" if stem else "a block without a router"
        raise ModelError(
            f"{strange[0]} is not a tensor that {entry.name} is known to have in {where}; it may write to the "
            "residual stream, so the model is not edited"
        )


def _known(experts: Experts, stem: str, n_experts: int) -> set[str]:
    """Every name with which a block's experts may be held."""
    maps = (experts.out, *experts.inputs)
    names = {f"{stem}.{name}" for name in (experts.fused_out, *experts.fused_inputs)}
    names |= {f"{stem}.experts.{number}.{name}.weight" for number in range(n_experts) for name in maps}
    if experts.shared:
        names |= {f"{stem}.{experts.shared}.{name}.weight" for name in maps} | {f"{stem}.{experts.shared_gate}.weight"}
    return names
