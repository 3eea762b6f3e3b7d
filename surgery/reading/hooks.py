"""Forward hooks on transformers models: read the residual stream, or ablate it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any

from surgery.architecture.entry import Architecture
from surgery.architecture.table import entry_of
from surgery.console.errors import ModelError, ShapeError
from surgery.residual.gains import removal
from surgery.residual.layers import LayerSpec, parse_layers
from surgery.residual.operator import ablate_affine, check_alpha
from surgery.residual.sites import EDIT_SITES, RESID_POST, RESID_PRE, RESID_SITES, STREAM, WRITES
from surgery.residual.subspace import check_orthonormal

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class Capture:
    """The residual stream at the last tokens of the latest forward pass, filled in by `captured`.

    Args:
        sites: which of `RESID_SITES` are read.
        n_positions: how many of the last token positions are kept.
    """

    def __init__(self, n_layers: int, sites: Sequence[str] = (RESID_POST,), n_positions: int = 1):
        self.sites, self.n_positions = tuple(sites), n_positions
        self._resid: dict[str, list[torch.Tensor | None]] = {site: [None] * n_layers for site in self.sites}

    def record(self, site: str, layer: int, resid: "torch.Tensor") -> None:
        """Keep the last tokens of one block's stream, [batch, n_tokens, d_model]."""
        self._resid[site][layer] = resid[:, -self.n_positions :, :].detach().clone()

    def take(self) -> "torch.Tensor":
        """What was read, [n_sites, n_layers, batch, n_positions, d_model], in the model's dtype, on the CPU.

        Raises: ModelError when a block did not run; the next read needs a new forward pass.
        """
        import torch

        stacked = torch.stack([torch.stack(list(map(_on_cpu, layers, count()))) for layers in self._resid.values()])
        self._resid = {site: [None] * len(layers) for site, layers in self._resid.items()}
        return stacked


def _on_cpu(resid: "torch.Tensor | None", layer: int) -> "torch.Tensor":
    if resid is None:
        raise ModelError(f"decoder block {layer} did not run, so its residual stream was not captured")
    return resid.cpu()


@contextmanager
def captured(
    model: "torch.nn.Module", entry: Architecture, sites: Sequence[str] = (RESID_POST,), n_positions: int = 1
) -> Iterator[Capture]:
    """Capture the residual stream of every block at the last token positions while the context lasts.

    resid_pre is what enters block i, resid_mid the stream between its attention and its MLP, and resid_post its output,
    before the final norm: the last one too, which `output_hidden_states` of transformers gives only after that norm.
    Right-padded batches are not for it: the last positions must be tokens.
    Raises: ModelError when the model has no such blocks, or blocks without the site asked for.
    """
    blocks = submodule(model, entry.blocks)
    capture = Capture(len(blocks), sites, n_positions)
    handles: list[Any] = []
    with _removing(handles):
        for site in capture.sites:
            for layer, block in enumerate(blocks):
                handles.append(_reading(capture, site, layer, block, entry))
        yield capture


def _reading(capture: Capture, site: str, layer: int, block: Any, entry: Architecture) -> Any:
    """Hook one block for one site; the hook's handle."""
    if site == RESID_POST:
        return block.register_forward_hook(lambda _module, _args, output: capture.record(site, layer, _resid(output)))
    module = block if site == RESID_PRE else submodule(block, _module_fed(entry, site))
    return module.register_forward_pre_hook(
        lambda _module, args, kwargs: capture.record(site, layer, args[0] if args else kwargs["hidden_states"]),
        with_kwargs=True,
    )


def _module_fed(entry: Architecture, site: str) -> str:
    """The module of a block that is fed the stream at a site within it."""
    if site not in RESID_SITES:
        raise ModelError(f"site must be one of {', '.join(RESID_SITES)}, found {site!r}")
    if site not in entry.fed:
        raise ModelError(f"{entry.name}: its blocks have no {site} that is known here; read resid_post")
    return entry.fed[site]


@contextmanager
def ablated(
    model: "PreTrainedModel",
    basis: "torch.Tensor",
    alpha: float = 1.0,
    layers: LayerSpec = "all",
    site: str = STREAM,
    offset: "torch.Tensor | None" = None,
) -> Iterator[int]:
    """Ablate a subspace in every forward pass while the context lasts; yields the number of modules hooked.

    Args:
        basis: [rank, d_model], float32, orthonormal rows.
        layers: the decoder blocks acted on.
        site: "stream": the output of each block (resid_post); "writes": the outputs of its attention and MLP, biases
            included, before they are added, which equals editing the matrices offline. Where a post-norm stands
            between, what is removed from the raw output is mapped through its gain (`gains.removal`).
        offset: [rank], float32: reference coordinates of the affine ablation; None for zero.
    Raises: ModelError (unknown architecture or a module missing), ShapeError, AlphaError, LayerRangeError,
        ArtifactError (basis not orthonormal).
    """
    check_alpha(alpha)
    check_orthonormal(basis)
    sites = _sites(model, basis, layers, site)
    if offset is not None and site == WRITES:
        entry_of(type(model).__name__).check_offset_of_writes()
    handles = [module.register_forward_hook(_ablating(removed, offset, alpha)) for module, removed in sites]
    with _removing(handles):
        yield len(handles)


@contextmanager
def added(model: "PreTrainedModel", vector: "torch.Tensor", layer: int) -> Iterator[int]:
    """Add a vector to one block's output at every token while the context lasts; yields the number of modules hooked.

    x' = x + r            (activation addition: Arditi et al. 2024, arXiv:2406.11717, eq. 3)

    Args:
        vector: [d_model], float32, with its length.
    Raises: ModelError, ShapeError, LayerRangeError.
    """
    ((block, _),) = _sites(model, vector[None], layer, STREAM)

    def hook(_module: "torch.nn.Module", _args: Any, output: Any) -> Any:
        resid = _resid(output)
        changed = (resid.float() + vector.to(resid.device)).to(resid.dtype)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    with _removing([block.register_forward_hook(hook)]):
        yield 1


def _sites(
    model: "PreTrainedModel", basis: "torch.Tensor", layers: LayerSpec, site: str
) -> "list[tuple[torch.nn.Module, torch.Tensor]]":
    """The modules to hook, each with the orthonormal basis to remove from its output."""
    if site not in EDIT_SITES:
        raise ModelError(f"site must be one of {', '.join(EDIT_SITES)}, found {site!r}")
    entry = entry_of(type(model).__name__)
    _check_width(model, basis)
    chosen = parse_layers(layers, len(submodule(model, entry.blocks)))
    if site == STREAM:
        return [(submodule(model, entry.block(layer)), basis) for layer in chosen]
    return [
        (submodule(model, name), removal(basis, _gain_of(model, entry, norm)).basis)
        for name, norm in entry.post_norms(chosen).items()
    ]


def _gain_of(model: "torch.nn.Module", entry: Architecture, norm: str | None) -> "torch.Tensor | None":
    """What a post-norm of a model multiplies with, [d_model] float32 on the CPU; None for no norm."""
    return None if norm is None else submodule(model, norm).weight.detach().float().cpu() + entry.gain_offset


def _ablating(basis: "torch.Tensor", offset: "torch.Tensor | None", alpha: float) -> Callable[..., Any]:
    copies: dict[Any, tuple[Any, Any]] = {}  # one of basis and offset per device the model lies on

    def hook(_module: "torch.nn.Module", _args: Any, output: Any) -> Any:
        resid = _resid(output)
        if resid.device not in copies:
            copies[resid.device] = (basis.to(resid.device), None if offset is None else offset.to(resid.device))
        changed = ablate_affine(resid, *copies[resid.device], alpha)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    return hook


def _resid(output: Any) -> "torch.Tensor":
    """The hidden states of a module's output, which is a tensor or a tuple that begins with one."""
    return output[0] if isinstance(output, tuple) else output


def _check_width(model: "PreTrainedModel", basis: "torch.Tensor") -> None:
    """Check that a basis fits a model. Raises: ShapeError."""
    d_model = model.config.get_text_config().hidden_size
    if basis.shape[1] != d_model:
        raise ShapeError(f"basis has d_model {basis.shape[1]} but {type(model).__name__} has {d_model}")


def submodule(model: "torch.nn.Module", name: str) -> Any:
    """A part of a model by its name. Raises: ModelError when there is none."""
    try:
        return model.get_submodule(name)
    except AttributeError as err:
        raise ModelError(f"{type(model).__name__} has no module {name}; it cannot be hooked") from err


@contextmanager
def _removing(handles: list[Any]) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
