"""One module, read from its file and checked against the model."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from surgery.architecture.table import ARCHITECTURES, entry_of
from surgery.console.errors import MismatchError, RefusalError, ShapeError
from surgery.files.artifacts import file_sha256, load_artifact, shortened
from surgery.model.models import ModelInfo, check_same_model
from surgery.residual.layers import parse_layers
from surgery.residual.operator import check_alpha
from surgery.residual.sites import EDIT_SITES, STREAM, WRITES
from surgery.residual.subspace import Subspace, check_orthonormal
from surgery.residual.vectors import RefusalVectors
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
    basis, offset, header = _read_basis(spec, model.n_layers)
    if basis.shape[1] != model.d_model:
        raise ShapeError(
            f"{spec['path']} has d_model {basis.shape[1]} but {model.model} has {model.d_model}; extract vectors "
            "from this model"
        )
    check_same_model(header, model, spec["path"], allow_other=_allows_other_model(spec))
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
        file_sha256=file_sha256(spec["path"]),
    )


def _allows_other_model(spec: Mapping[str, Any]) -> bool:
    allowed = spec.get("allow_other_model", False)
    if not isinstance(allowed, bool):
        raise ConfigError(f"allow_other_model must be true or false, found {allowed!r}")
    return allowed


def _read_basis(spec: Mapping[str, Any], n_layers: int) -> tuple["torch.Tensor", "torch.Tensor | None", dict[str, Any]]:
    header, tensors = load_artifact(spec["path"], ("subspace", "refusal_vectors"))
    if "source_layer" in spec and "source_layers" in spec:
        raise ConfigError("give source_layer or source_layers, not both")
    source = spec.get("source_layers", spec.get("source_layer"))
    if "basis" in tensors:
        if source is not None:
            raise ConfigError(f"{spec['path']} already holds a basis; source_layer is for files of RVs")
        basis, offset = tensors["basis"].float().contiguous(), tensors.get("offset")
    elif "vectors" in tensors:
        rvs = RefusalVectors.from_tensors(tensors, header, spec["path"])
        basis, offset = _basis_of_vectors(spec["path"], rvs, source, n_layers), None
    else:
        raise ConfigError(f"{spec['path']} holds neither 'basis' nor 'vectors', but {shortened(sorted(tensors))}")
    check_orthonormal(basis)
    return basis, None if offset is None else _checked_offset(offset, basis.shape[0]), header


def _basis_of_vectors(path: str, rvs: RefusalVectors, source: Any, n_layers: int) -> "torch.Tensor":
    if source is None:
        raise ConfigError(f"{path} holds one RV per layer; name the one to ablate with source_layer")
    if rvs.n_layers != n_layers:
        raise MismatchError(
            f"{path} has RVs of {rvs.n_layers} layers but the model has {n_layers}; extract vectors from this model"
        )
    return Subspace.from_vectors(rvs, source).basis


def _checked_offset(offset: "torch.Tensor", rank: int) -> "torch.Tensor":
    if tuple(offset.shape) != (rank,) or not offset.isfinite().all():
        raise ShapeError(f"offset must be [rank={rank}], finite; found {list(offset.shape)}")
    if offset.abs().max() > LARGEST_OFFSET:
        raise ConfigError(
            f"offset {float(offset.abs().max()):g} is beyond {LARGEST_OFFSET:g}, further out than any residual stream; "
            "make the file again from this model"
        )
    return offset.float().contiguous()


def _tensors_sha256(basis: "torch.Tensor", offset: "torch.Tensor | None") -> str:
    import hashlib

    digest = hashlib.sha256(basis.numpy().tobytes())
    if offset is not None:
        digest.update(b"offset" + offset.numpy().tobytes())
    return digest.hexdigest()
