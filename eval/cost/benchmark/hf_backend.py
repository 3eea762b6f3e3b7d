"""The variants in transformers, one model at a time; an ablation acts by forward hooks on every block."""

import gc
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs

from eval.cost.benchmark.compared import module_of
from eval.cost.benchmark.token_model import room_for
from eval.plan.conditions import Condition
from eval.plan.plan import Plan
from surgery.model.chat import pin_date
from surgery.model.models import ModelInfo, load_tokenizer
from surgery.reading.hooks import ablated

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BATCH_SIZE = 16


class TransformersModel(HFLM):  # type: ignore[misc]  # lm_eval has no types
    """The harness's own model in transformers, which also counts what it cuts and says what damage is measured from.

    Attributes:
        n_cut: requests that were too long and lost their beginning.
    """

    n_cut = 0

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """As the harness does. Raises: BenchmarkError when a request leaves no room for its answer."""
        for context, settings in (request.args for request in requests):
            n_more = normalize_gen_kwargs(dict(settings), self.max_gen_toks)["max_gen_toks"]
            self.n_cut += len(self.tok_encode(context)) > room_for(1, n_more, self.max_length)
        return super().generate_until(requests, disable_tqdm)

    def _loglikelihood_tokens(self, requests: list[Any], *args: Any, **kwargs: Any) -> list[tuple[float, bool]]:
        longest = self.max_length + 1  # the last token is only scored
        for _, context, wanted in requests:
            self.n_cut += len(context) + len(wanted) > room_for(len(wanted) + 1, 0, longest)
        return super()._loglikelihood_tokens(requests, *args, **kwargs)

    def next_token_logprobs(self, prompts: Mapping[str, list[int]]) -> "Iterator[tuple[str, NDArray[np.float32]]]":
        """(prompt id, [vocab_size] natural log probabilities of the token after it)."""
        for key, found in self._logprobs(prompts):
            yield key, found[-1].numpy()

    def text_logprobs(self, texts: Mapping[str, list[int]]) -> "Iterable[tuple[str, NDArray[np.float64]]]":
        """(text id, [n_tokens - 1] natural log probabilities of its tokens but the first)."""
        for key, found in self._logprobs(texts):
            wanted = torch.tensor(texts[key][1:]).unsqueeze(-1)
            yield key, found[:-1].gather(-1, wanted).squeeze(-1).double().numpy()

    def _logprobs(self, texts: Mapping[str, list[int]]) -> Iterator[tuple[str, torch.Tensor]]:
        """(text id, [n_tokens, vocab_size] float32, of the token after each)."""
        keys = list(texts)
        for start in range(0, len(keys), self.batch_size):
            batch = keys[start : start + self.batch_size]
            longest = max(len(texts[key]) for key in batch)
            # Padded at the end, which no token before attends to.
            padded = [[*texts[key], *[0] * (longest - len(texts[key]))] for key in batch]
            logits = self._model_call(torch.tensor(padded, device=self.device))
            for key, row in zip(batch, logits, strict=True):
                yield key, row[: len(texts[key])].float().log_softmax(-1).cpu()


class TransformersBackend:
    """Loads the weights that a variant needs, and keeps them while the next one needs the same."""

    name, has_distributions = "hf", True

    def __init__(self, info: ModelInfo, plan: Plan, dtype: str, batch_size: int | None = None):
        """Set up; nothing is loaded. Args: plan: has the modules of the ablations among the variants."""
        self._info, self._plan, self._dtype, self._batch_size = info, plan, dtype, batch_size or BATCH_SIZE
        self._loaded: tuple[str, TransformersModel] | None = None

    @property
    def versions(self) -> list[str]:
        """What scores depend on beside the harness and the settings of the benchmark."""
        return [metadata.version("transformers"), metadata.version("torch")]

    @contextmanager
    def loaded(self, variant: Condition, date: str | None = None) -> Iterator[TransformersModel]:
        """The variant as a model of lm-evaluation-harness, put into a chat template that is told the date."""
        model = self._model(variant)
        pin_date(model.tokenizer, date)
        if variant.edit != "ablation":
            yield model
            return
        module = module_of(variant, self._plan, self._info)
        with ablated(model.model, module.basis, module.alpha, module.layers, module.site, module.offset):
            yield model

    def close(self) -> None:
        """Let go of the weights that are kept, if any, so that their memory is free when this returns."""
        self._loaded = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _model(self, variant: Condition) -> TransformersModel:
        own = str(variant.folder or "")
        if self._loaded is None or self._loaded[0] != own:
            self.close()  # two models may not fit into memory
            self._loaded = (own, self._load(variant))
        return self._loaded[1]

    def _load(self, variant: Condition) -> TransformersModel:
        pretrained = str(variant.folder if variant.kind == "checkpoint" else self._info.path)
        peft = {"peft": str(variant.folder)} if variant.kind == "adapter" else {}
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return TransformersModel(
            pretrained=pretrained,
            tokenizer=load_tokenizer(replace(self._info, model=pretrained, path=pretrained)),
            dtype=self._dtype,
            device=device,
            batch_size=self._batch_size,
            **peft,
        )
