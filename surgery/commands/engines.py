"""Which engine runs the model in extraction: transformers with forward hooks, or vLLM through the plugin."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from surgery.commands.options import on_gpu_if_any
from surgery.console.errors import ModelError
from surgery.model.dtypes import KNOWN
from surgery.model.models import ModelInfo
from surgery.reading.sources import ActivationSource

HF, VLLM = "hf", "vllm"


def check_engine(engine: str, position: int, positions: str, device_map: str | None, batched: bool) -> None:
    """Refuse, by name and before anything is loaded, what vLLM cannot be asked for.

    Raises: ModelError.
    """
    if engine != VLLM:
        return
    beyond_last = position != -1 or positions not in ("", "-1")
    only_last = "reads only the last prompt token (-1): earlier ones may be cached"
    for given, option, why in (
        (beyond_last, "--position and --positions", only_last),
        (device_map is not None, "--device-map", "places the model itself"),
        (batched, "--batched", "always batches, without padding"),
    ):
        if given:
            raise ModelError(f"{option}: not with --engine vllm, which {why}; remove it or use --engine hf")
    _vllm_source()


@contextmanager
def opened_source(
    engine: str, info: ModelInfo, dtype: str, device_map: Any, batch_size: int
) -> Iterator[ActivationSource]:
    """Load the model in an engine, which is stopped at the end.

    Args:
        dtype: "auto" (as stored; of quantized weights vLLM's choice), "float32", "bfloat16" or "float16".
        device_map, batch_size: of transformers.
    Raises: RefusalError when the model cannot be loaded, or the engine does not know its architecture.
    """
    if engine == VLLM:
        with _vllm_source()(info, info.dtype if dtype == "auto" and info.dtype in KNOWN else dtype) as source:
            yield source
        return
    from surgery.architecture.table import entry_of
    from surgery.model.models import load_model
    from surgery.reading.transformers_source import TransformersSource

    weights = on_gpu_if_any(load_model(info, dtype, device_map), device_map)
    yield TransformersSource(weights, entry_of(info.architecture), batch_size)


def _vllm_source() -> Any:
    """The plugin's source; imported only here, as vLLM need not be installed. Raises: ModelError when it is not."""
    if importlib.util.find_spec("vllm") is None:
        raise ModelError("--engine vllm: vLLM is not installed here; run bin/setup, or use --engine hf")
    from vllm_refusal.engine.activation_source import VllmSource

    return VllmSource
