"""What answers a condition: one engine for the baseline and every run-time ablation, one for each checkpoint, one for all
adapters."""

from collections.abc import Mapping, Sequence
from typing import Any

from eval.plan.conditions import Condition
from surgery.model.models import ModelInfo, describe_model
from vllm_refusal.engine.engine import Engine, EngineOptions, Request

RUNTIME, ADAPTERS = "", "adapters"


def engine_key(condition: Condition) -> str:
    """Which engine answers a condition: RUNTIME, ADAPTERS, or that of the checkpoint by its id."""
    return {"checkpoint": condition.id, "adapter": ADAPTERS}.get(condition.kind, RUNTIME)


def model_of(condition: Condition, info: ModelInfo) -> ModelInfo:
    """The model whose weights the engine of a condition reads: a checkpoint's own, else the run's."""
    return info if condition.folder is None or condition.kind != "checkpoint" else describe_model(condition.folder)


def start_engine(
    conditions: Sequence[Condition], info: ModelInfo, modules: Mapping[str, Mapping[str, Any]], options: EngineOptions
) -> Engine:
    """Start the engine of conditions that share one.

    Args:
        modules: of the run-time ablations.
    Raises: as `Engine`.
    """
    adapters = {each.id: each.folder for each in conditions if each.kind == "adapter" and each.folder}
    runtime = modules if engine_key(conditions[0]) == RUNTIME else {}
    return Engine(model_of(conditions[0], info), runtime, options, adapters)


class Engines:
    """The engines of several conditions, one at a time: each is kept while the next condition needs the same."""

    def __init__(
        self,
        conditions: Sequence[Condition],
        info: ModelInfo,
        modules: Mapping[str, Mapping[str, Any]],
        options: EngineOptions,
    ):
        self._conditions, self._about = conditions, (info, modules, options)
        self._started: tuple[str, Engine] | None = None

    def of(self, condition: Condition) -> Engine:
        """The engine that answers a condition, started if it is not the one that runs."""
        key = engine_key(condition)
        if self._started is None or self._started[0] != key:
            self.close()  # two engines would not fit into one GPU's memory
            together = [each for each in self._conditions if engine_key(each) == key]
            self._started = (key, start_engine(together, *self._about))
        return self._started[1]

    def close(self) -> None:
        """Stop the engine that is running, if any."""
        started, self._started = self._started, None
        if started is not None:
            started[1].close()


def request_of(condition: Condition, request_id: str, token_ids: list[int], seed: int | None = None) -> Request:
    """What the engine of a condition is asked."""
    adapter = condition.id if condition.kind == "adapter" else ""
    return Request(request_id, token_ids, condition.request, seed=seed, adapter=adapter)


def unscorable(conditions: Sequence[Condition]) -> list[Condition]:
    """Conditions whose engine cannot score a text: adapters where vLLM's LoRA runs on a CPU."""
    from vllm.platforms import current_platform

    return [each for each in conditions if each.kind == "adapter" and current_platform.is_cpu()]
