"""Activations for extraction from a vLLM engine that captures: prompts of any length in one batch, without padding."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from surgery.architecture.table import ARCHITECTURES
from surgery.console.errors import ModelError, PositionError
from surgery.model.models import ModelInfo
from vllm_refusal.engine.engine import Engine, EngineError, EngineOptions, Request, Sampling
from vllm_refusal.settings.capture import LAYERS, SITES
from vllm_refusal.settings.module_files import check_architecture

if TYPE_CHECKING:
    import torch


class VllmSource:
    """An `ActivationSource` (see surgery.reading.sources) on an engine of its own. Use as a context manager.

    Every step of it captures and so runs uncompiled: the engine is eager, which also starts soonest.
    """

    def __init__(self, info: ModelInfo, dtype: str = "auto", vllm: Mapping[str, Any] | None = None):
        """Start the engine.

        Args:
            dtype: "auto", "float32", "bfloat16" or "float16".
            vllm: further keyword arguments of `vllm.LLM`.
        Raises: ConfigError (unknown architecture), EngineError.
        """
        check_architecture(info.architecture, "capture")
        self._sites = ARCHITECTURES[info.architecture].resid_sites
        self._engine = Engine(info, {}, EngineOptions(dtype=dtype, eager=True, capture=True, vllm=vllm or {}))
        self.n_layers, self.d_model = info.n_layers, info.d_model
        self.dtype = self._engine.description["dtype"]
        self.order = "vLLM's batches without padding"

    def __enter__(self) -> "VllmSource":
        return self

    def __exit__(self, *exc: object) -> None:
        self._engine.close()

    def activations(
        self, prompts: Sequence[Sequence[int]], sites: Sequence[str], n_positions: int
    ) -> "Iterator[tuple[int, torch.Tensor]]":
        """See `ActivationSource`.

        Raises: PositionError for more than the last position: earlier tokens may come from the prefix cache, uncomputed.
            ModelError for a site that the blocks do not have. EngineError for a prompt that is too long.
        """
        if n_positions != 1:
            raise PositionError("vLLM computes no token before the last one anew; read position -1, or use --engine hf")
        if lacking := [site for site in sites if site not in self._sites]:
            raise ModelError(f"the model's blocks have no {lacking[0]} that the plugin knows; read {self._sites[-1]}")
        self._check_lengths(prompts)
        kept = [site for site in self._sites if site in sites]  # the order in which they come
        capture = {LAYERS: "all", SITES: kept}
        requests = (Request(str(index), list(ids), capture=capture) for index, ids in enumerate(prompts))
        for response in self._engine.generate(requests, Sampling(max_tokens=1)):
            assert response.captured is not None  # every request asks for it
            resid = response.captured.resid[[kept.index(site) for site in sites]]
            yield int(response.id), resid.unsqueeze(2)

    def header(self) -> dict[str, Any]:
        """See `ActivationSource`."""
        return {"engine": "vllm", "vllm": self._engine.description["vllm"]}

    def _check_lengths(self, prompts: Sequence[Sequence[int]]) -> None:
        longest, limit = max(map(len, prompts), default=0), self._engine.max_model_len
        if longest >= limit:
            raise EngineError(f"a prompt has {longest} tokens but the engine takes at most {limit - 1}; shorten it")
