"""An engine's settings, read, checked against the engine and its model, and loaded."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from surgery.architecture.table import ARCHITECTURES
from surgery.model.models import ModelInfo, describe_model
from surgery.residual.operator import check_alpha
from surgery.residual.sites import EDIT_SITES, STREAM, WRITES
from vllm_refusal.settings.engine_parts import check_parts
from vllm_refusal.settings.module_files import check_architecture, load_module
from vllm_refusal.settings.modules import (
    KEY,
    MAX_ALPHA,
    MAX_MODULES,
    MAX_RANK,
    AblationConfig,
    AblationModule,
    ConfigError,
    Room,
    check_default,
    check_keys,
)

ROOM_RANK = 8
"""Rank that an engine keeps room for when it is to load modules later and is told no other."""
LARGEST_ALPHA = 1e6
"""The largest that the setting max_alpha may be: the edit's float32 products then stay finite."""
_SETTINGS = {"modules", "default", "max_rank", "max_slots", "max_modules", "sites", "max_alpha"}


def settings_of(vllm_config: Any, what: str = KEY) -> dict[str, Any] | None:
    """The raw settings of one kind in a vLLM config, or None when the engine was started without."""
    additional = getattr(vllm_config, "additional_config", None)
    return additional.get(what) if isinstance(additional, dict) else None


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


def check_engine(vllm_config: Any, what: str = KEY) -> None:
    """Raises: ConfigError naming the part of the engine together with which `what` does not work."""
    check_architecture(vllm_config.model_config.architecture, what)
    check_parts(vllm_config, what)


def _check_partial_writes(modules: Iterable[AblationModule], architecture: str, parallel: Any) -> None:
    """Raises: ConfigError where every tensor-parallel rank would add an offset to its share of a write."""
    if not ARCHITECTURES[architecture].vllm.partial_writes or parallel.tensor_parallel_size == 1:
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
    if type(largest) is not int or not 1 <= largest <= MAX_RANK:
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
    if type(n_modules) is not int or not least <= n_modules <= MAX_MODULES:
        raise ConfigError(f"max_modules must be a whole number from {least} to {MAX_MODULES}, found {n_modules!r}")
    if not isinstance(sites, list) or not sites or any(site not in EDIT_SITES for site in sites):
        raise ConfigError(f"sites must be a list of {', '.join(EDIT_SITES)}, found {sites!r}")
    return Room(n_modules, settings.get("max_rank", ROOM_RANK), tuple(sites))


def _max_slots(settings: Mapping[str, Any], vllm_config: Any) -> int:
    needed = vllm_config.scheduler_config.max_num_seqs
    slots = settings.get("max_slots", needed)
    if type(slots) is not int or slots < needed:
        raise ConfigError(f"max_slots must be a whole number of at least max_num_seqs ({needed}), found {slots!r}")
    return slots


def _max_alpha(settings: Mapping[str, Any]) -> float:
    bound = check_alpha(settings.get("max_alpha", MAX_ALPHA))
    if not 0 < bound <= LARGEST_ALPHA:
        raise ConfigError(f"max_alpha must be above 0 and at most {LARGEST_ALPHA:g}, found {bound:g}")
    return bound
