"""The engine's ablation settings: `--additional-config '{"ablation": {...}}'`, read, checked against the model, loaded."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from surgery.ablation import check_alpha
from surgery.artifacts import file_sha256, load_artifact, shortened
from surgery.errors import AlphaError, MismatchError, RefusalError, ShapeError
from surgery.layers import parse_layers
from surgery.models import ModelInfo, check_same_model, describe_model
from surgery.subspace import Subspace, check_orthonormal
from surgery.vectors import RefusalVectors

if TYPE_CHECKING:
    import torch

KEY = "ablation"
NONE = "none"
SITES = STREAM, WRITES = "stream", "writes"
MAX_RANK = 64
MAX_MODULES = 1024
ROOM_RANK = 8
"""Rank that an engine keeps room for when it is to load modules later and is told no other."""
MAX_ALPHA = 4.0
"""The largest |alpha| that an engine admits unless its settings say otherwise."""
LARGEST_ALPHA = 1e6
"""The largest that the setting max_alpha may be: the edit's float32 products then stay finite."""
LARGEST_OFFSET = 1e6
"""The largest reference projection; no residual stream comes near it."""
_SETTINGS = {"modules", "default", "max_rank", "max_slots", "max_modules", "sites", "max_alpha"}
_MODULE_SETTINGS = {"path", "alpha", "layers", "site", "source_layer", "source_layers", "allow_other_model"}


class ConfigError(RefusalError):
    """The engine's ablation settings cannot be used; the engine does not start, or does not load the module."""


class NoRoomError(ConfigError):
    """All the modules that an engine has room for are loaded."""


@dataclass(frozen=True)
class AblationModule:
    """One named intervention of the engine.

    Attributes:
        name: what a request asks for.
        path: the safetensors file that it came from.
        basis: [rank, d_model] float32, orthonormal rows.
        offset: [rank] float32 reference projection (affine ablation), or None for zero.
        alpha, layers: defaults of a request that gives none; layers are decoder block indices, ascending.
        site: "stream" (block outputs) or "writes" (attention and MLP outputs before they are added).
        sha256: of basis and offset, hexadecimal; part of every cache key.
        file_sha256: of the file.
    """

    name: str
    path: str
    basis: "torch.Tensor"
    offset: "torch.Tensor | None"
    alpha: float
    layers: tuple[int, ...]
    site: str
    sha256: str
    file_sha256: str

    @property
    def rank(self) -> int:
        """Dimension of the subspace."""
        return self.basis.shape[0]


@dataclass(frozen=True)
class Room:
    """What an engine has room for, fixed when it starts: its graphs are compiled for tables of these shapes.

    Attributes:
        n_modules: modules at one time.
        rank: the largest rank of a module; every token of the engine pays for it.
        sites: where blocks are edited, in the order of SITES.
    """

    n_modules: int
    rank: int
    sites: tuple[str, ...]

    def including(self, modules: Collection[AblationModule]) -> "Room":
        """This room, made large enough for these modules."""
        used = {*self.sites, *(module.site for module in modules)}
        rank = max((self.rank, *(module.rank for module in modules)))
        return Room(max(self.n_modules, len(modules)), rank, tuple(site for site in SITES if site in used))


@dataclass(frozen=True)
class AblationConfig:
    """All modules of an engine. A module loaded or unloaded while it runs makes another config with the same room.

    Attributes:
        modules: by name, in the order of the settings.
        default: the module applied to a request that names none, or None.
        n_layers, d_model: of the served model.
        max_slots: distinct interventions in flight at one time.
        room: at least what the modules need.
        max_alpha: the largest |alpha| of a request or a module.
        narrow: the stream is float16.
    """

    modules: Mapping[str, AblationModule]
    default: str | None
    n_layers: int
    d_model: int
    max_slots: int
    room: Room = Room(0, 0, ())
    max_alpha: float = MAX_ALPHA
    narrow: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "room", self.room.including(self.modules.values()))
        for name, module in self.modules.items():
            try:
                self.check_alpha(module.alpha, module.site)
            except AlphaError as err:
                raise AlphaError(f"ablation {name!r}: {err}") from err

    def check_alpha(self, alpha: float, site: str) -> None:
        """Raises: AlphaError when a strength is beyond what the engine admits at a site.

        A strength outside 0 to 2 makes a component longer, at site stream in every block anew. In float16 the sum of
        such writes could leave the dtype's range; a stream is kept inside it by the edit itself.
        """
        low, high = (
            (0.0, min(2.0, self.max_alpha)) if self.narrow and site == WRITES else (-self.max_alpha, self.max_alpha)
        )
        if not low <= alpha <= high:
            where = f" at site {site} in float16" if self.narrow and site == WRITES else ""
            raise AlphaError(
                f"alpha {alpha:g} is outside {low:g} to {high:g}, what this engine admits{where}; use a smaller one"
                + ("" if where else ", or start with another max_alpha")
            )

    @property
    def rank(self) -> int:
        """The largest rank that there is room for."""
        return self.room.rank

    @property
    def sites(self) -> tuple[str, ...]:
        """Sites where blocks are edited, in the order of SITES."""
        return self.room.sites

    def with_module(self, module: AblationModule) -> "AblationConfig":
        """The config with one module more, in the room that there is.

        Raises: NoRoomError, ConfigError when the name is taken or the module does not fit the room.
        """
        if module.name in self.modules:
            raise ConfigError(f"ablation {module.name!r} is loaded already; unload it first, or use another name")
        if len(self.modules) >= self.room.n_modules:
            raise NoRoomError(
                f"ablation {module.name!r}: all {self.room.n_modules} ablations that there is room for are loaded; "
                "unload one, or start with a larger max_modules"
            )
        if module.rank > self.room.rank:
            raise ConfigError(
                f"ablation {module.name!r}: {module.path} has rank {module.rank} but the engine has room for rank "
                f"{self.room.rank}; use a smaller subspace, or start with a larger max_rank"
            )
        if module.site not in self.room.sites:
            raise ConfigError(
                f"ablation {module.name!r}: site {module.site} was not set up when the engine started (it has "
                f"{', '.join(self.room.sites)}); name it in the setting sites at the start"
            )
        return replace(self, modules={**self.modules, module.name: module})

    def without(self, name: str) -> "AblationConfig":
        """The config with one module less; its room stays."""
        return replace(self, modules={other: one for other, one in self.modules.items() if other != name})


def settings_of(vllm_config: Any) -> dict[str, Any] | None:
    """The raw "ablation" settings of a vLLM config, or None when the engine was started without."""
    additional = getattr(vllm_config, "additional_config", None)
    return additional.get(KEY) if isinstance(additional, dict) else None


def load_config(vllm_config: Any) -> AblationConfig | None:
    """Read, check and load the ablation settings of an engine.

    Returns: None when the engine was started without "ablation" settings.
    Raises: ConfigError, ArtifactError, MismatchError, ShapeError, LayerRangeError, AlphaError: one line each.
    """
    settings = settings_of(vllm_config)
    if settings is None:
        return None
    check_engine(vllm_config)
    check_keys(settings, _SETTINGS, "additional_config['ablation']")
    named = settings.get("modules", {})
    if not isinstance(named, dict) or not (named or "max_modules" in settings):
        raise ConfigError("additional_config['ablation'] names no modules; give {'modules': {NAME: {'path': FILE}}}")
    model = _served_model(vllm_config.model_config)
    modules = {name: load_module(name, spec, model) for name, spec in named.items()}
    _check_ranks(modules.values(), settings.get("max_rank", MAX_RANK))
    room = _room(settings, modules)
    default = check_default(settings.get("default"), modules)
    _check_partial_writes(modules.values(), model.architecture, vllm_config.parallel_config)
    return AblationConfig(
        modules,
        default,
        model.n_layers,
        model.d_model,
        _max_slots(settings, vllm_config),
        room,
        _max_alpha(settings),
        str(getattr(vllm_config.model_config, "dtype", "")) == "torch.float16",
    )


def load_another(name: str, spec: Any, vllm_config: Any) -> AblationModule:
    """Read a module for an engine that runs, checked as at its start; `AblationConfig.with_module` adds it.

    Raises: as `load_config`.
    """
    model = _served_model(vllm_config.model_config)
    module = load_module(name, spec, model)
    _check_partial_writes([module], model.architecture, vllm_config.parallel_config)
    return module


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


def check_default(default: str | None, modules: Collection[str]) -> str | None:
    """The default module's name, None for no intervention. Raises: ConfigError when there is no such module."""
    if default in (None, NONE):
        return None
    if default not in modules:
        raise ConfigError(
            f"default ablation {default!r} is not among the modules: {', '.join(modules) or 'none given'}"
        )
    return default


def check_architecture(architecture: str, what: str = KEY) -> None:
    """Raises: ConfigError when this architecture's blocks are not known to the plugin; `what` cannot be done then."""
    from vllm_refusal.architectures import ARCHITECTURES

    if architecture not in ARCHITECTURES:
        raise ConfigError(
            f"{what} is not supported for architecture {architecture}; supported: {', '.join(ARCHITECTURES)}"
        )


def check_engine(vllm_config: Any, what: str = KEY) -> None:
    """Raises: ConfigError naming the part of the engine together with which `what` does not work."""
    from vllm_refusal.engine_parts import check_parts
    from vllm_refusal.speculation import check_speculation

    check_architecture(vllm_config.model_config.architecture, what)
    check_parts(vllm_config, what)
    check_speculation(vllm_config, what)


def check_keys(settings: Any, known: set[str], where: str) -> None:
    """Raises: ConfigError when settings are not an object, or have a key that is not known."""
    if not isinstance(settings, dict):
        raise ConfigError(f"{where}: expected a JSON object, found {settings!r}")
    unknown = sorted(set(settings) - known)
    if unknown:
        raise ConfigError(f"{where}: unknown setting {', '.join(unknown)}; known: {', '.join(sorted(known))}")


def _read_module(name: str, spec: Any, model: ModelInfo) -> AblationModule:
    if not isinstance(spec, dict) or not isinstance(spec.get("path"), str):
        raise ConfigError(f"expected {{'path': FILE, ...}}, found {spec!r}")
    check_keys(spec, _MODULE_SETTINGS, "module")
    site = spec.get("site", STREAM)
    if site not in SITES:
        raise ConfigError(f"site must be one of {', '.join(SITES)}, found {site!r}")
    basis, offset, header = _read_basis(spec, model.n_layers)
    if basis.shape[1] != model.d_model:
        raise ShapeError(
            f"{spec['path']} has d_model {basis.shape[1]} but {model.model} has {model.d_model}; extract vectors "
            "from this model"
        )
    check_same_model(header, model, spec["path"], allow_other=_allows_other_model(spec))
    if offset is not None and site == WRITES:
        _check_offset_of_writes(model.architecture)
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


def _check_offset_of_writes(architecture: str) -> None:
    """Raises: ConfigError where what is written is scaled before it is added, so that no reference point is defined."""
    from vllm_refusal.architectures import ARCHITECTURES

    check_architecture(architecture)
    known = ARCHITECTURES[architecture]
    normed = any(norm is not None for _, norm in known.writers)
    if normed or known.family.scales_writes:
        what = "passes a norm" if normed else "is multiplied by residual_multiplier"
        raise ConfigError(
            f"an offset is not defined at site writes of {architecture}, where what is written {what} before it is added; "
            "use site stream"
        )


def _check_partial_writes(modules: Iterable[AblationModule], architecture: str, parallel: Any) -> None:
    """Raises: ConfigError where every tensor-parallel rank would add an offset to its share of a write."""
    from vllm_refusal.architectures import ARCHITECTURES

    if not ARCHITECTURES[architecture].partial_writes or parallel.tensor_parallel_size == 1:
        return
    for module in modules:
        if module.site == WRITES and module.offset is not None:
            raise ConfigError(
                f"ablation {module.name!r}: an offset at site writes of {architecture} is not supported under tensor "
                "parallelism, where each rank holds a partial sum of what is written; use site stream"
            )


def _served_model(config: Any) -> ModelInfo:
    """The model in the shape that the engine gives it (its --hf-overrides may differ from the files).

    Found once, as the engine starts, and carried by its config into every worker: a branch may move while it runs.
    """
    if not hasattr(config, "vllm_refusal_model"):
        config.vllm_refusal_model = describe_model(config.model, config.revision)
    layers, width = config.get_total_num_hidden_layers(), config.get_hidden_size()
    return replace(config.vllm_refusal_model, n_layers=layers, d_model=width, architecture=config.architecture)


def _check_ranks(modules: Iterable[AblationModule], largest: Any) -> None:
    """Every token of an engine pays for the largest rank among its modules, so the operator may bound it."""
    if isinstance(largest, bool) or not isinstance(largest, int) or not 1 <= largest <= MAX_RANK:
        raise ConfigError(f"max_rank must be a whole number from 1 to {MAX_RANK}, found {largest!r}")
    for module in modules:
        if module.rank > largest:
            raise ConfigError(
                f"ablation {module.name!r}: {module.path} has rank {module.rank} but max_rank is {largest}; "
                f"use a smaller subspace{' or raise max_rank' if module.rank <= MAX_RANK else ''}"
            )


def _room(settings: Mapping[str, Any], modules: Collection[str]) -> Room:
    """The room that the settings reserve for modules loaded later; none without max_modules."""
    n_modules, sites = settings.get("max_modules"), settings.get("sites", [STREAM])
    if n_modules is None:
        if "sites" in settings:
            raise ConfigError("sites are reserved for modules loaded later; give max_modules with them")
        return Room(0, 0, ())
    least = max(1, len(modules))
    if isinstance(n_modules, bool) or not isinstance(n_modules, int) or not least <= n_modules <= MAX_MODULES:
        raise ConfigError(f"max_modules must be a whole number from {least} to {MAX_MODULES}, found {n_modules!r}")
    if not isinstance(sites, list) or not sites or any(site not in SITES for site in sites):
        raise ConfigError(f"sites must be a list of {', '.join(SITES)}, found {sites!r}")
    return Room(n_modules, settings.get("max_rank", ROOM_RANK), tuple(sites))


def _max_slots(settings: Mapping[str, Any], vllm_config: Any) -> int:
    needed = vllm_config.scheduler_config.max_num_seqs
    slots = settings.get("max_slots", needed)
    if isinstance(slots, bool) or not isinstance(slots, int) or slots < needed:
        raise ConfigError(f"max_slots must be a whole number of at least max_num_seqs ({needed}), found {slots!r}")
    return slots


def _max_alpha(settings: Mapping[str, Any]) -> float:
    bound = check_alpha(settings.get("max_alpha", MAX_ALPHA))
    if not 0 < bound <= LARGEST_ALPHA:
        raise ConfigError(f"max_alpha must be above 0 and at most {LARGEST_ALPHA:g}, found {bound:g}")
    return bound


def _tensors_sha256(basis: "torch.Tensor", offset: "torch.Tensor | None") -> str:
    import hashlib

    digest = hashlib.sha256(basis.numpy().tobytes())
    if offset is not None:
        digest.update(b"offset" + offset.numpy().tobytes())
    return digest.hexdigest()
