"""A model of lm-evaluation-harness over whatever scores and continues token ids: an engine here, or a server."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from lm_eval.api.model import TemplateLM
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text

from eval.cost.benchmark.tasks import BenchmarkError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

    from vllm_refusal.engine.distributions import TextScores

SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
"""What a task may say of how answers are drawn; anything else would not be the same in transformers."""


class TokenAnswerer(Protocol):
    """One variant, ready to be asked in token ids.

    Attributes:
        max_length: longest prompt and answer together, in tokens.
    """

    max_length: int

    def score(self, texts: Sequence[list[int]]) -> "list[TextScores]":
        """How probable each token of each text is, given those before it; in the order of the texts."""

    def answer(self, prompts: Sequence[list[int]], sampling: Mapping[str, Any]) -> list[str]:
        """Continue each prompt; `sampling` has "max_tokens", "stop" and some of `SAMPLING`; in the prompts' order."""

    def next_token_logprobs(self, prompts: Mapping[str, list[int]]) -> "Iterator[tuple[str, NDArray[np.float32]]]":
        """(prompt id, [vocab_size]) natural log probabilities of the token after each prompt."""


class TokenModel(TemplateLM):  # type: ignore[misc]  # lm_eval has no types
    """The harness's view of an answerer.

    Documents are tokenized by HFLM's own functions, so that every backend is asked the same token ids. What is longer
    than the model takes loses tokens at its beginning, as there.

    Attributes:
        n_cut: requests that were too long and lost their beginning.
    """

    add_bos_token = custom_prefix_token_id = None
    chat_template_args: Mapping[str, Any] = {}
    max_gen_toks = 256  # HFLM's

    eot_token_id, prefix_token_id, tokenizer_name = HFLM.eot_token_id, HFLM.prefix_token_id, HFLM.tokenizer_name
    tok_encode, tok_decode, apply_chat_template = HFLM.tok_encode, HFLM.tok_decode, HFLM.apply_chat_template

    def __init__(self, answerer: TokenAnswerer, tokenizer: "PreTrainedTokenizerBase"):
        super().__init__()
        self.answerer, self.tokenizer, self.n_cut = answerer, tokenizer, 0

    def next_token_logprobs(self, prompts: Mapping[str, list[int]]) -> "Iterator[tuple[str, NDArray[np.float32]]]":
        """As the answerer's."""
        return self.answerer.next_token_logprobs(prompts)

    def text_logprobs(self, texts: Mapping[str, list[int]]) -> "Iterable[tuple[str, NDArray[np.float64]]]":
        """(text id, [n_tokens - 1] natural log probabilities of its tokens but the first)."""
        scores = self.answerer.score(list(texts.values()))
        return ((key, found.logprobs) for key, found in zip(texts, scores, strict=True))

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        texts = [self._cut([*context, *wanted], len(wanted) + 1, 1) for _, context, wanted in requests]
        found = []
        for scores, (_, _, wanted) in zip(self.answerer.score(texts), requests, strict=True):
            first = len(scores.logprobs) - len(wanted)
            found.append((float(scores.logprobs[first:].sum()), bool(scores.is_best[first:].all())))
        return found

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """Not for this backend: none of the measures that are compared needs it."""
        raise BenchmarkError("tasks that score whole texts are not compared; perplexity is measured beside every task")

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The answers to the requests' (context, settings of generation), cut at the task's stop sequences."""
        answers: dict[int, str] = {}
        for numbers, settings in _grouped([request.args[1] for request in requests]):
            stop = handle_stop_sequences(settings.pop("until"), self.tok_decode(self.eot_token_id, False))
            sampling = _sampling(settings) | {"stop": [word for word in stop if word]}
            prompts = [self.tok_encode(requests[number].args[0]) for number in numbers]
            fitting = [self._cut(prompt, 1, sampling["max_tokens"]) for prompt in prompts]
            for number, text in zip(numbers, self.answerer.answer(fitting, sampling), strict=True):
                answers[number] = postprocess_generated_text(text, stop, None)
        return [answers[number] for number in range(len(requests))]

    def _cut(self, token_ids: list[int], n_needed: int, n_more: int) -> list[int]:
        """What fits of a request of which the last `n_needed` tokens must, with room for `n_more` tokens."""
        room = room_for(n_needed, n_more, self.answerer.max_length)
        self.n_cut += len(token_ids) > room
        return token_ids[-room:]


def room_for(n_needed: int, n_more: int, max_length: int) -> int:
    """Tokens that a request may have beside `n_more` others. Raises: BenchmarkError when it needs more of them."""
    if max_length - n_more < n_needed:
        raise BenchmarkError(
            f"a document needs {n_needed + n_more} tokens at least and the model takes {max_length}; leave the task out, "
            "or let the model take more"
        )
    return max_length - n_more


def _grouped(settings: Sequence[Mapping[str, Any]]) -> Iterator[tuple[list[int], dict[str, Any]]]:
    """Numbers of the requests that are to be answered alike, and how."""
    groups: dict[str, list[int]] = {}
    for number, each in enumerate(settings):
        groups.setdefault(json.dumps(each, sort_keys=True), []).append(number)
    for numbers in groups.values():
        yield numbers, dict(normalize_gen_kwargs(dict(settings[numbers[0]]), TokenModel.max_gen_toks))


def _sampling(settings: Mapping[str, Any]) -> dict[str, Any]:
    unknown = sorted(set(settings) - {*SAMPLING, "max_gen_toks", "do_sample"})
    if unknown:
        raise BenchmarkError(
            f"the task sets {unknown[0]} of generation, which this backend has not; use --backend hf, or leave it out"
        )
    found = {name: value for name, value in settings.items() if name in SAMPLING}
    return {"temperature": 0.0} | found | {"max_tokens": settings["max_gen_toks"]}
