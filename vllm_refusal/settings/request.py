"""One request's intervention: from the client's keys to what the workers apply."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from surgery.console.errors import RefusalError
from surgery.files.artifacts import json_sha256
from surgery.residual.layers import parse_layers
from surgery.residual.operator import check_alpha
from vllm_refusal.settings.modules import NONE, AblationConfig

NAME, ALPHA, LAYERS = "ablation", "ablation_alpha", "ablation_layers"
RESOLVED = "ablation_resolved"
_KEYS = (NAME, ALPHA, LAYERS)


class RequestError(RefusalError):
    """A request's ablation keys cannot be honoured."""


class UnknownAblationError(RequestError):
    """A request names an ablation that the engine does not have."""


@dataclass(frozen=True)
class Intervention:
    """What is done to one request's tokens.

    Attributes:
        module: name of the engine's module.
        alpha: strength, not 0.
        layers: decoder blocks, ascending.
        digest: identifies module content, site, alpha and layers; equal digests may share cached blocks.
    """

    module: str
    alpha: float
    layers: tuple[int, ...]
    digest: str

    def to_wire(self) -> dict[str, Any]:
        """Plain types, carried in extra_args to the engine core and its workers."""
        return {"module": self.module, "alpha": self.alpha, "layers": list(self.layers), "digest": self.digest}

    @classmethod
    def from_wire(cls, record: Mapping[str, Any]) -> "Intervention":
        """Read what `to_wire` wrote."""
        return cls(record["module"], record["alpha"], tuple(record["layers"]), record["digest"])


def resolve(extra_args: Mapping[str, Any] | None, config: AblationConfig | None) -> Intervention | None:
    """The intervention that a request asks for, the engine's default applied.

    Args:
        extra_args: a request's extra_args (`vllm_xargs` over HTTP); keys of others are ignored.
        config: the engine's modules; None when it was started without.
    Returns: None for no intervention ("none", alpha 0, or nothing asked and no default).
    Raises: RequestError, UnknownAblationError, LayerRangeError, AlphaError.
    """
    asked = {key: value for key, value in (extra_args or {}).items() if key.startswith(NAME)}
    unknown = sorted(set(asked) - set(_KEYS))
    if unknown:
        raise RequestError(f"unknown request key {', '.join(unknown)}; known: {', '.join(_KEYS)}")
    if config is None:
        if asked:
            raise RequestError("this engine was started without ablation; pass --additional-config with 'ablation'")
        return None
    name = asked.get(NAME, config.default)
    if name is None and not asked:
        return None
    if name is None or name == NONE:
        _check_nothing_else(asked)
        return None
    return _intervention(name, asked, config)


def make_intervention(config: AblationConfig, name: str, alpha: float, layers: tuple[int, ...]) -> Intervention:
    """An intervention with its digest."""
    module = config.modules[name]
    return Intervention(name, alpha, layers, json_sha256([module.sha256, module.site, alpha, list(layers)])[:32])


def ablation_of(request: Any) -> str:
    """The name of the ablation that an admitted request runs under, the default applied; "none" for none."""
    extra_args = getattr(request.sampling_params, "extra_args", None) or {}
    return extra_args[RESOLVED]["module"] if RESOLVED in extra_args else NONE


def digest_of(extra_args: Mapping[str, Any] | None) -> str:
    """The digest of the intervention that an admitted request carries; "" for none."""
    return extra_args[RESOLVED]["digest"] if extra_args and RESOLVED in extra_args else ""


def _check_nothing_else(asked: Mapping[str, Any]) -> None:
    conflicting = sorted(set(asked) - {NAME})
    if conflicting:
        raise RequestError(f"{', '.join(conflicting)} given, but the request names no ablation; add {NAME!r}")


def _intervention(name: Any, asked: Mapping[str, Any], config: AblationConfig) -> Intervention | None:
    if not isinstance(name, str) or name not in config.modules:
        raise UnknownAblationError(f"ablation {name!r} is not loaded; loaded: {', '.join(config.modules)}")
    module = config.modules[name]
    alpha = check_alpha(asked[ALPHA]) if ALPHA in asked else module.alpha
    config.check_alpha(alpha, module.site)
    layers = parse_layers(asked[LAYERS], config.n_layers) if LAYERS in asked else module.layers
    return None if alpha == 0 else make_intervention(config, name, alpha, layers)
