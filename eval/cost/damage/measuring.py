"""Measuring damage: every condition of a run on the same harmless prompts and the same text, through vLLM."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from eval.cost.damage.measures import Damage, kl_divergence, mean_interval, perplexity
from eval.cost.damage.texts import Window
from eval.generation.engines import request_of
from eval.plan.conditions import Condition
from surgery.console.errors import RefusalError
from vllm_refusal.engine.distributions import ENGINE_ARGUMENTS, next_token_logprobs, text_scores
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


class Believing(Protocol):
    """A model that says what it believes without generating; edited or not."""

    def next_token_logprobs(self, prompts: Mapping[str, list[int]]) -> "Iterable[tuple[str, NDArray[np.float32]]]":
        """(prompt id, [vocab_size] natural log probabilities of the token after the prompt)."""

    def text_logprobs(self, texts: Mapping[str, list[int]]) -> "Iterable[tuple[str, NDArray[np.float64]]]":
        """(text id, [n_tokens - 1] natural log probabilities of its tokens but the first)."""


@dataclass(frozen=True)
class ConditionInEngine:
    """A condition as an engine of ours answers it (`eval.generation.engines`)."""

    engine: Engine
    condition: Condition

    def next_token_logprobs(self, prompts: Mapping[str, list[int]]) -> "Iterable[tuple[str, NDArray[np.float32]]]":
        """As `Believing`'s."""
        return next_token_logprobs(self.engine, self._requests(prompts))

    def text_logprobs(self, texts: Mapping[str, list[int]]) -> "Iterable[tuple[str, NDArray[np.float64]]]":
        """As `Believing`'s."""
        return ((key, scores.logprobs) for key, scores in text_scores(self.engine, self._requests(texts)))

    def _requests(self, texts: Mapping[str, list[int]]) -> Iterator[Request]:
        return (request_of(self.condition, key, token_ids) for key, token_ids in texts.items())


def measure_baseline(model: Believing, harmless: Harmless) -> Baseline:
    """Read the distributions and probabilities of the unedited model."""
    return Baseline(dict(model.next_token_logprobs(harmless.prompts)), _nats(model, harmless))


def measure(name: str, model: Believing, harmless: Harmless, baseline: Baseline) -> Damage:
    """What an edited model says against what the unedited one does.

    Args:
        name: of the edited model, for messages.
    Returns: the damage; where there are no prompts, its divergence is None.
    Raises: DamageError when the edit makes impossible what the baseline says, or an answer is missing.
    """
    kl: dict[str, float] = {}
    same: dict[str, bool] = {}
    for key, found in model.next_token_logprobs(harmless.prompts):
        before = baseline.logprobs[key]
        if before.shape != found.shape:
            raise DamageError(f"{name}: {found.size} tokens in its vocabulary, the baseline has {before.size}")
        kl[key], same[key] = kl_divergence(before, found), bool(before.argmax() == found.argmax())
    nats = _nats(model, harmless)
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


def _nats(model: Believing, harmless: Harmless) -> dict[str, float]:
    """Mean negative log probability per token of each window."""
    texts = {window.id: window.token_ids for window in harmless.windows}
    return {key: -float(logprobs.mean()) for key, logprobs in model.text_logprobs(texts)}
