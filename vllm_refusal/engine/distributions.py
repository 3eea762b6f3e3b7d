"""What a model believes, without generating: the next token's whole distribution, and the probability of a given text."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vllm_refusal.engine.engine import Engine, EngineError, Request

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ENGINE_ARGUMENTS = {"max_logprobs": -1}
"""Keyword arguments of `vllm.LLM` that these functions need: an engine gives out 20 log probabilities otherwise."""

_ONE_TOKEN = {"max_tokens": 1, "temperature": 0.0, "detokenize": False, "flat_logprobs": True}


@dataclass(frozen=True, eq=False)
class TextScores:
    """How probable the tokens of a text are, each given those before it; without the first.

    Attributes:
        logprobs: [n_tokens - 1] natural log probabilities.
        is_best: [n_tokens - 1], whether no other token was more probable.
    """

    logprobs: "NDArray[np.float64]"
    is_best: "NDArray[np.bool_]"


def next_token_logprobs(engine: Engine, requests: Iterable[Request]) -> "Iterator[tuple[str, NDArray[np.float32]]]":
    """Natural log probabilities of the token after each prompt, under the request's own intervention.

    Returns: (request id, [vocab_size] by token id), in the order in which requests finish.
    Raises: EngineError when the engine leaves a token of the vocabulary out.
    """
    for outputs in engine.finished(requests, {**_ONE_TOKEN, "logprobs": -1}):
        for output in outputs:
            yield output.request_id, _whole(output.request_id, output.outputs[0].logprobs)


def text_scores(engine: Engine, requests: Iterable[Request]) -> Iterator[tuple[str, TextScores]]:
    """Score each token of the requests' own token ids, given those before it.

    Returns: (request id, scores), in the order in which requests finish.
    Raises: EngineError when the engine scores another number of tokens.
    """
    for outputs in engine.finished(requests, {**_ONE_TOKEN, "prompt_logprobs": 0}):
        for output in outputs:
            yield output.request_id, _of_text(output)


def _whole(request_id: str, found: Any) -> "NDArray[np.float32]":
    import numpy as np

    token_ids = np.asarray(found.token_ids, dtype=np.int64)
    logprobs = np.full(token_ids.max() + 1, np.nan, dtype=np.float32)
    logprobs[token_ids] = found.logprobs
    if np.isnan(logprobs).any():
        raise EngineError(
            f"request {request_id}: {int(np.isnan(logprobs).sum())} of {logprobs.size} tokens came without a log "
            "probability; start the engine with max_logprobs=-1"
        )
    return logprobs


def _of_text(output: Any) -> TextScores:
    import numpy as np

    token_ids, found = output.prompt_token_ids, output.prompt_logprobs
    if found is None or len(found) != len(token_ids):
        n_found = 0 if found is None else len(found)
        raise EngineError(f"request {output.request_id}: {n_found} of {len(token_ids)} tokens were scored")
    starts = found.start_indices[1:]  # the first entry of a position is the text's own token
    if [found.token_ids[start] for start in starts] != list(token_ids[1:]):
        raise EngineError(f"request {output.request_id}: the log probabilities are of other tokens than the text's")
    logprobs = np.asarray([found.logprobs[start] for start in starts], dtype=np.float64)
    return TextScores(logprobs, np.asarray([found.ranks[start] == 1 for start in starts], dtype=np.bool_))
