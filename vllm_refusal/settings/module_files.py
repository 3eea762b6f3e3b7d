"""One module, read from its file and checked against the model."""

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from surgery.architecture.table import ARCHITECTURES, entry_of
from surgery.console.errors import RefusalError
from surgery.model.models import ModelInfo, check_fits
from surgery.residual.layers import parse_layers
from surgery.residual.operator import check_alpha
from surgery.residual.sites import EDIT_SITES, STREAM, WRITES
from surgery.residual.subspace import load_basis
from vllm_refusal.settings.modules import KEY, NONE, AblationModule, ConfigError, check_keys

if TYPE_CHECKING:
    import torch

LARGEST_OFFSET = 1e6
"""The largest reference projection; no residual stream comes near it."""
_SETTINGS = {"path", "alpha", "layers", "site", "source_layer", "source_layers", "allow_other_model"}


def load_module(name: str, spec: Any, model: ModelInfo) -> AblationModule:
    """Read one module and check it against the model: by an engine as it starts, and by a command before it starts one.

    Args:
        spec: {"path": FILE} with any of alpha, layers, site, source_layer, source_layers, allow_other_model.
    Raises: as `load_config`, naming the module.
    """
    if name == NONE or not name:
        raise ConfigError(f"an ablation cannot be named {name!r}: that word means no intervention")
    try:
        return _read_module(name, spec, model)
    except RefusalError as err:
        raise type(err)(f"ablation {name!r}: {err}") from err


def check_architecture(architecture: str, what: str = KEY) -> None:
    """Raises: ConfigError when this architecture's blocks are not known to the plugin; `what` cannot be done then."""
    if architecture not in ARCHITECTURES:
        raise ConfigError(
            f"{what} is not supported for architecture {architecture}; supported: {', '.join(ARCHITECTURES)}"
        )


def _read_module(name: str, spec: Any, model: ModelInfo) -> AblationModule:
    if not isinstance(spec, dict) or not isinstance(spec.get("path"), str):
        raise ConfigError(f"expected {{'path': FILE, ...}}, found {spec!r}")
    check_keys(spec, _SETTINGS, "module")
    site = spec.get("site", STREAM)
    if site not in EDIT_SITES:
        raise ConfigError(f"site must be one of {', '.join(EDIT_SITES)}, found {site!r}")
    if "source_layer" in spec and "source_layers" in spec:
        raise ConfigError("give source_layer or source_layers, not both")
    subspace, source = load_basis(spec["path"], spec.get("source_layers", spec.get("source_layer")), affine=True)
    check_fits(source, model, _allows_other_model(spec))
    basis, offset = subspace.basis, subspace.offset
    _check_reach(offset)
    if offset is not None and site == WRITES:
        entry_of(model.architecture).check_offset_of_writes()
    return AblationModule(
        name=name,
        path=spec["path"],
        basis=basis,
        offset=offset,
        alpha=check_alpha(spec.get("alpha", 1.0)),
        layers=parse_layers(spec.get("layers", "all"), model.n_layers),
        site=site,
        sha256=_tensors_sha256(basis, offset),
        file_sha256=source["sha256"],
    )


def _allows_other_model(spec: Mapping[str, Any]) -> bool:
    allowed = spec.get("allow_other_model", False)
    if not isinstance(allowed, bool):
        raise ConfigError(f"allow_other_model must be true or false, found {allowed!r}")
    return allowed


def _check_reach(offset: "torch.Tensor | None") -> None:
    if offset is not None and offset.abs().max() > LARGEST_OFFSET:
        raise ConfigError(
            f"offset {float(offset.abs().max()):g} is beyond {LARGEST_OFFSET:g}, further out than any residual stream; "
            "make the file again from this model"
        )


def _tensors_sha256(basis: "torch.Tensor", offset: "torch.Tensor | None") -> str:
    digest = hashlib.sha256(basis.numpy().tobytes())
    if offset is not None:
        digest.update(b"offset" + offset.numpy().tobytes())
    return digest.hexdigest()
