"""Measuring damage: every condition of a run on the same harmless prompts and the same text, through vLLM."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from eval.cost.damage.measures import Damage, kl_divergence, mean_interval, perplexity
from eval.cost.damage.texts import Window
from eval.plan.conditions import BASELINE, Condition
from surgery.console.errors import RefusalError
from vllm_refusal.engine.distributions import ENGINE_ARGUMENTS, next_token_logprobs, text_logprobs
from vllm_refusal.engine.engine import Engine, EngineOptions, Request

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_SEQS = 32
"""Requests in one batch: each brings the whole vocabulary as Python numbers, some 15 MB at 128k tokens."""


class DamageError(RefusalError):
    """The damage of a condition cannot be measured."""


@dataclass(frozen=True)
class Harmless:
    """What the conditions are measured on.

    Attributes:
        prompts: id -> rendered token ids; the distribution of the token after the last is compared.
        windows: of running text.
        date: that the chat template was told; None where it does not ask.
    """

    prompts: Mapping[str, list[int]]
    windows: Sequence[Window]
    date: str | None = None


@dataclass(frozen=True, eq=False)
class Baseline:
    """The unedited model.

    Attributes:
        logprobs: prompt id -> [vocab_size] float32.
        nats: window id -> mean negative log probability per token.
    """

    logprobs: "Mapping[str, NDArray[np.float32]]"
    nats: Mapping[str, float]

    @property
    def damage(self) -> Damage:
        """Its own row: a perplexity, and nothing to compare."""
        return Damage(perplexity(list(self.nats.values())))


def damage_options(options: EngineOptions) -> EngineOptions:
    """The engine's options for measuring: whole distributions allowed, batches small enough to hold them."""
    return replace(
        options,
        max_num_seqs=min(options.max_num_seqs or MOST_SEQS, MOST_SEQS),
        vllm={**options.vllm, **ENGINE_ARGUMENTS},
    )


def measure_baseline(engine: Engine, harmless: Harmless) -> Baseline:
    """Read the distributions and probabilities of the unedited model."""
    logprobs = {_input_of(key): found for key, found in next_token_logprobs(engine, _prompts(BASELINE, harmless))}
    return Baseline(logprobs, _nats(engine, BASELINE, harmless))


def measure(
    engine: Engine, condition: Condition, harmless: Harmless, baseline: Baseline, adapter: bool = False
) -> Damage:
    """One condition against the baseline.

    Args:
        engine: has the condition's module; for a checkpoint, the stock engine on its weights.
        adapter: the condition is the engine's LoRA adapter of its id.
    Raises: DamageError when the condition makes impossible what the baseline says, or an answer is missing.
    """
    name = condition.id if adapter else ""
    answers = next_token_logprobs(engine, _prompts(condition, harmless, name))
    logprobs = ((_input_of(request_id), found) for request_id, found in answers)
    return compare(condition.id, harmless, baseline, logprobs, _nats(engine, condition, harmless, name))


def compare(
    name: str,
    harmless: Harmless,
    baseline: Baseline,
    logprobs: "Iterable[tuple[str, NDArray[np.float32]]]",
    nats: Mapping[str, float],
) -> Damage:
    """What an edited model says against what the unedited one does.

    Args:
        name: of the edited model, for messages.
        logprobs: (prompt id, [vocab_size] float32) of every prompt; where there are no prompts, divergence is None.
        nats: window id -> mean negative log probability per token.
    Raises: DamageError, as `measure`.
    """
    kl: dict[str, float] = {}
    same: dict[str, bool] = {}
    for key, found in logprobs:
        before = baseline.logprobs[key]
        if before.shape != found.shape:
            raise DamageError(f"{name}: {found.size} tokens in its vocabulary, the baseline has {before.size}")
        kl[key], same[key] = kl_divergence(before, found), bool(before.argmax() == found.argmax())
    _check_complete(name, harmless, kl, nats)
    return Damage(
        perplexity=perplexity(list(nats.values())),
        kl=mean_interval([kl[key] for key in sorted(kl)]) if kl else None,
        same_token=sum(same.values()) / len(same) if same else None,
        nats=mean_interval([nats[key] - baseline.nats[key] for key in sorted(nats)]),
    )


def _check_complete(name: str, harmless: Harmless, kl: Mapping[str, float], nats: Mapping[str, float]) -> None:
    expected, found = (len(harmless.prompts), len(harmless.windows)), (len(kl), len(nats))
    if expected != found:
        raise DamageError(f"{name}: {expected} prompts and windows were sent, {found} came back")
    impossible = [key for key, value in {**kl, **nats}.items() if not math.isfinite(value)]
    if impossible:
        raise DamageError(
            f"{name}: no finite divergence or probability on {', '.join(impossible[:4])}; the edit leaves no "
            "usable distribution (overflow?): try --dtype float32"
        )


def _nats(engine: Engine, condition: Condition, harmless: Harmless, adapter: str = "") -> dict[str, float]:
    """Mean negative log probability per token of each window."""
    found = text_logprobs(engine, _windows(condition, harmless, adapter))
    return {_input_of(request_id): -float(logprobs.mean()) for request_id, logprobs in found}


def _prompts(condition: Condition, harmless: Harmless, adapter: str = "") -> Iterator[Request]:
    for key, token_ids in harmless.prompts.items():
        yield Request(_key(condition, key), token_ids, condition.request, adapter=adapter)


def _windows(condition: Condition, harmless: Harmless, adapter: str = "") -> Iterator[Request]:
    for window in harmless.windows:
        yield Request(_key(condition, window.id), window.token_ids, condition.request, adapter=adapter)


def _key(condition: Condition, input_id: str) -> str:
    return f"{condition.id}\n{input_id}"


def _input_of(key: str) -> str:
    return key.rpartition("\n")[2]
