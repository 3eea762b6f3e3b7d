"""Forward hooks on transformers models: read the residual stream, or ablate it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from surgery.ablation import ablate_affine, check_alpha
from surgery.errors import ModelError, ShapeError
from surgery.families import Family, family_of
from surgery.layers import LayerSpec, parse_layers
from surgery.subspace import check_orthonormal

if TYPE_CHECKING:
    import torch

SITES = ("stream", "writes")


class Capture:
    """The residual stream at the last token of the latest forward pass, filled in by `captured`."""

    def __init__(self, n_layers: int):
        self._resid: list[torch.Tensor | None] = [None] * n_layers

    def record(self, layer: int, resid: "torch.Tensor") -> None:
        """Keep the last token of one block's output, [batch, n_tokens, d_model]."""
        self._resid[layer] = resid[:, -1, :].detach().clone()

    def resid_post(self) -> "torch.Tensor":
        """The output of every block, [n_layers, batch, d_model], in the model's dtype, on the CPU.

        Raises: ModelError when a block did not run; the next read needs a new forward pass.
        """
        import torch

        missing = [layer for layer, resid in enumerate(self._resid) if resid is None]
        if missing:
            raise ModelError(f"decoder block {missing[0]} did not run, so its residual stream was not captured")
        stacked = torch.stack([resid.cpu() for resid in self._resid])
        self._resid = [None] * len(self._resid)
        return stacked


@contextmanager
def captured(model: "torch.nn.Module", family: Family) -> Iterator[Capture]:
    """Capture resid_post of every block at the last token position while the context lasts.

    Layer i is the output of block i, before the final norm: the last one too, which `output_hidden_states` of
    transformers gives only after that norm. Right-padded batches are not for it: the last position must be a token.
    Raises: ModelError when the model has no such blocks.
    """
    blocks = _submodule(model, family.layers)
    capture = Capture(len(blocks))
    handles = [
        block.register_forward_hook(lambda _module, _args, output, layer=layer: capture.record(layer, _resid(output)))
        for layer, block in enumerate(blocks)
    ]
    with _removing(handles):
        yield capture


@contextmanager
def ablated(
    model: "torch.nn.Module",
    basis: "torch.Tensor",
    alpha: float = 1.0,
    layers: LayerSpec = "all",
    site: str = "stream",
    offset: "torch.Tensor | None" = None,
) -> Iterator[int]:
    """Ablate a subspace in every forward pass while the context lasts; yields the number of modules hooked.

    Args:
        basis: [rank, d_model], float32, orthonormal rows.
        layers: the decoder blocks acted on.
        site: "stream": the output of each block (resid_post); "writes": the outputs of its attention and MLP, biases
            included, before they are added, which equals editing the matrices offline.
        offset: [rank], float32: reference coordinates of the affine ablation; None for zero.
    Raises: ModelError (unknown architecture or a module missing), ShapeError, AlphaError, LayerRangeError,
        ArtifactError (basis not orthonormal).
    """
    check_alpha(alpha)
    check_orthonormal(basis)
    modules = _sites(model, layers, site)
    _check_width(model, basis)
    handles = [module.register_forward_hook(_ablating(basis, offset, alpha)) for module in modules]
    with _removing(handles):
        yield len(handles)


def _sites(model: "torch.nn.Module", layers: LayerSpec, site: str) -> list["torch.nn.Module"]:
    if site not in SITES:
        raise ModelError(f"site must be one of {', '.join(SITES)}, found {site!r}")
    family = family_of(type(model).__name__)
    chosen = parse_layers(layers, len(_submodule(model, family.layers)))
    names = family.writers(chosen) if site == "writes" else [family.block(layer) for layer in chosen]
    return [_submodule(model, name) for name in names]


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


def _check_width(model: "torch.nn.Module", basis: "torch.Tensor") -> None:
    d_model = model.config.get_text_config().hidden_size
    if basis.shape[1] != d_model:
        raise ShapeError(f"basis has d_model {basis.shape[1]} but {type(model).__name__} has {d_model}")


def _submodule(model: "torch.nn.Module", name: str) -> Any:
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
