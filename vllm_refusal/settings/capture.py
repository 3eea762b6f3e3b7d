"""Capture of the residual stream: the engine's settings and what one request may ask for.

An engine that captures is started offline with `LLM(MODEL, **capture_arguments())`. A request asks by
`SamplingParams(extra_args={"capture_layers": "all" | "7-10" | [7, 8], "capture_sites": "resid_post" | [...] | "all"})`,
and `vllm_refusal.engine.captured.take_captured` fetches what was read at the last token of its prompt.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from surgery.architecture.table import ARCHITECTURES
from surgery.console.errors import RefusalError
from surgery.residual.layers import parse_layers
from surgery.residual.sites import RESID_POST, RESID_SITES
from vllm_refusal.settings.engine_settings import check_engine, settings_of
from vllm_refusal.settings.modules import ConfigError, check_keys

KEY = "capture"
LAYERS, SITES = "capture_layers", "capture_sites"
RESOLVED = "capture_resolved"
WORKER_EXTENSION = "vllm_refusal.engine.captured.CaptureWorker"
MAX_BYTES = 2**30
_SETTINGS = {"max_bytes"}
_KEYS = (LAYERS, SITES)


class CaptureError(RefusalError):
    """A request's capture cannot be honoured, or its activations cannot be fetched."""


@dataclass(frozen=True)
class CaptureConfig:
    """An engine that captures.

    Attributes:
        n_layers, d_model: of the served model.
        max_bytes: most that a worker holds until it is fetched.
        sites: those that the model's blocks have.
    """

    n_layers: int
    d_model: int
    max_bytes: int = MAX_BYTES
    sites: tuple[str, ...] = RESID_SITES

    def n_bytes(self, capture: "CaptureRequest") -> int:
        """Size of one request's activations in float32."""
        return len(capture.sites) * len(capture.layers) * self.d_model * 4


@dataclass(frozen=True)
class CaptureRequest:
    """What is read for one request.

    Attributes:
        id: the caller's request id, under which it is fetched.
        layers: decoder blocks, ascending.
        sites: of RESID_SITES, in their order.
    """

    id: str
    layers: tuple[int, ...]
    sites: tuple[str, ...]

    def to_wire(self) -> dict[str, Any]:
        """Plain types, carried in extra_args to the workers."""
        return {"id": self.id, "layers": list(self.layers), "sites": list(self.sites)}

    @classmethod
    def from_wire(cls, record: Mapping[str, Any]) -> "CaptureRequest":
        """Read what `to_wire` wrote."""
        return cls(record["id"], tuple(record["layers"]), tuple(record["sites"]))


def capture_arguments(max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Keyword arguments of `vllm.LLM` for an engine that captures.

    Args:
        max_bytes: most that a worker holds until `take_captured` fetches it; what comes beyond is refused, not dropped.
    """
    return {"additional_config": {KEY: {"max_bytes": max_bytes}}, "worker_extension_cls": WORKER_EXTENSION}


def load_capture(vllm_config: Any) -> CaptureConfig | None:
    """Read and check the capture settings of an engine.

    Returns: None when the engine was started without "capture" settings.
    Raises: ConfigError: one line that names what cannot work together with capture.
    """
    settings = settings_of(vllm_config, KEY)
    if settings is None:
        return None
    check_engine(vllm_config, KEY)
    _check_parts(vllm_config)
    check_keys(settings, _SETTINGS, f"additional_config[{KEY!r}]")
    max_bytes = settings.get("max_bytes", MAX_BYTES)
    if type(max_bytes) is not int or max_bytes < 1:
        raise ConfigError(f"max_bytes must be a whole number of at least 1, found {max_bytes!r}")
    model = vllm_config.model_config
    sites = ARCHITECTURES[model.architecture].resid_sites
    return CaptureConfig(model.get_total_num_hidden_layers(), model.get_hidden_size(), max_bytes, sites)


def resolve_capture(
    request_id: str, extra_args: Mapping[str, Any] | None, config: CaptureConfig | None
) -> CaptureRequest | None:
    """What a request asks to be read; None when it asks for nothing.

    Raises: CaptureError, LayerRangeError.
    """
    asked = {key: value for key, value in (extra_args or {}).items() if key.startswith(f"{KEY}_")}
    if not asked:
        return None
    unknown = sorted(set(asked) - set(_KEYS))
    if unknown:
        raise CaptureError(f"unknown request key {', '.join(unknown)}; known: {', '.join(_KEYS)}")
    if config is None:
        raise CaptureError(
            f"{sorted(asked)[0]}: this engine was started without capture, which is offline only; start it by "
            "LLM(MODEL, **vllm_refusal.settings.capture.capture_arguments())"
        )
    if LAYERS not in asked:
        raise CaptureError(f"{SITES} given without {LAYERS}; add it, e.g. 'all'")
    capture = CaptureRequest(
        request_id, parse_layers(asked[LAYERS], config.n_layers), _sites(asked.get(SITES), config.sites)
    )
    if config.n_bytes(capture) > config.max_bytes:
        raise CaptureError(
            f"{len(capture.layers)} layers at {len(capture.sites)} sites need {config.n_bytes(capture)} bytes but this "
            f"engine holds at most {config.max_bytes}; ask for fewer, or start it with a larger max_bytes"
        )
    return capture


def asks_for_capture(extra_args: Mapping[str, Any] | None) -> bool:
    """Whether a request has any capture key."""
    return any(key.startswith(f"{KEY}_") for key in extra_args or {})


def _sites(asked: Any, known: tuple[str, ...]) -> tuple[str, ...]:
    if asked is None:
        return (RESID_POST,)
    named = list(known) if asked == "all" else [asked] if isinstance(asked, str) else asked
    if not isinstance(named, list | tuple) or not named or not set(map(str, named)) <= set(known):
        raise CaptureError(f"{SITES} must name some of this model's {', '.join(known)}, or be 'all'; found {asked!r}")
    return tuple(site for site in known if site in named)


def _check_parts(vllm_config: Any) -> None:
    """Raises: ConfigError for each part of vLLM under which rows of a batch are not the tokens of its requests."""
    parallel = vllm_config.parallel_config
    refused = (
        (
            vllm_config.use_v2_model_runner,
            "Model Runner V2, which fixes a step's CUDA graph before capture can look at the batch; set "
            "VLLM_USE_V2_MODEL_RUNNER=0",
        ),
        (parallel.data_parallel_size > 1, "data parallelism; remove data_parallel_size"),
        (vllm_config.cache_config.kv_sharing_fast_prefill, "kv_sharing_fast_prefill, which skips tokens; remove it"),
    )
    for found, what in refused:
        if found:
            raise ConfigError(f"capture is not supported together with {what}")
    if parallel.worker_extension_cls != WORKER_EXTENSION:
        raise ConfigError(
            f"capture needs worker_extension_cls={WORKER_EXTENSION!r}, found {parallel.worker_extension_cls!r}; start "
            "the engine by LLM(MODEL, **vllm_refusal.settings.capture.capture_arguments())"
        )
