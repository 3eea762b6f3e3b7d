"""Which refusal vector controls refusal: selection by what ablating and adding each does to the next token.

The rule of Arditi et al. 2024 (arXiv:2406.11717, section 2.3 and appendix C), with the refusal tokens found from the model's
own answers instead of a list for each model.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from surgery.console.errors import ModelError, PromptFileError
from surgery.console.table import table
from surgery.model.chat import prompt_token_ids
from surgery.prompts import Pair
from surgery.reading.hooks import ablated, added
from surgery.reading.transformers_source import input_device
from surgery.residual.vectors import RefusalVectors

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

KL_LIMIT, LAYER_LIMIT = 0.1, 0.8
TOKEN_SHARE, TOKEN_RATIO = 0.02, 5.0
_BATCH = 32
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Candidate:
    """One layer's refusal vector and what it does.

    Attributes:
        layer: where it was read.
        bypass: mean refusal score of harmful prompts while it is ablated at every layer; the lower the better.
        induce: mean refusal score of safe prompts while it is added at its layer; above 0 they are refused.
        kl: mean KL divergence, in nats, of safe prompts' next token from its unablated distribution.
        removed_by: the filters it does not pass: "induce", "kl", "late layer".
    """

    layer: int
    bypass: float
    induce: float
    kl: float
    removed_by: tuple[str, ...]


@dataclass(frozen=True)
class Selection:
    """Every candidate, best first, and what they are to be compared with.

    Attributes:
        candidates: those that pass first, by bypass; then the others, by the number of filters that remove them.
        refusal_tokens: text of the tokens that open this model's refusals.
        baseline_harmful, baseline_safe: mean refusal scores without any intervention.
    """

    candidates: tuple[Candidate, ...]
    refusal_tokens: tuple[str, ...]
    baseline_harmful: float
    baseline_safe: float
    n_pairs: int

    @property
    def chosen(self) -> Candidate | None:
        """The best candidate that passes every filter, if there is one."""
        first = self.candidates[0]
        return None if first.removed_by else first

    def to_json(self) -> dict[str, Any]:
        """The selection in plain JSON types."""
        chosen = None if self.chosen is None else self.chosen.layer
        return {**json.loads(json.dumps(asdict(self))), "chosen_layer": chosen}


def select(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    rvs: RefusalVectors,
    pairs: Sequence[Pair],
    template_options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Selection:
    """Measure every layer's refusal vector and rank them.

    Args:
        pairs: not those the vectors were extracted from.
        template_options: as at the extraction.
        progress: called with (candidates done, candidates in all).
    Raises: PromptFileError (no pairs), ModelError (the model does not refuse the harmful prompts, so there is nothing to
        select by), and as `ablated`.
    """
    if not pairs:
        raise PromptFileError("no prompt pairs; selection needs some that the vectors were not extracted from")
    options = template_options or {}
    harmful = [prompt_token_ids(tokenizer, pair.harmful, **options) for pair in pairs]
    safe = [prompt_token_ids(tokenizer, pair.safe, **options) for pair in pairs]
    on_harmful, on_safe = next_token_log_probs(model, harmful), next_token_log_probs(model, safe)
    tokens = refusal_tokens(on_harmful, on_safe)
    found = []
    for layer in range(rvs.n_layers):
        unit = rvs.direction(layer)[None]
        ablated_harmful = next_token_log_probs(model, harmful, ablated(model, unit))
        bypass = refusal_score(ablated_harmful, tokens).mean().item()
        ablated_safe = next_token_log_probs(model, safe, ablated(model, unit))
        induced = next_token_log_probs(model, safe, added(model, rvs.vectors[layer], layer))
        induce = refusal_score(induced, tokens).mean().item()
        kl = torch.nn.functional.kl_div(ablated_safe, on_safe, log_target=True, reduction="batchmean").item()
        found.append(Candidate(layer, bypass, induce, kl, removed_by(layer, induce, kl, rvs.n_layers)))
        if progress is not None:
            progress(layer + 1, rvs.n_layers)
    ranked = sorted(found, key=lambda candidate: (len(candidate.removed_by), candidate.bypass))
    return Selection(
        tuple(ranked),
        tuple(tokenizer.convert_ids_to_tokens(tokens.tolist())),
        refusal_score(on_harmful, tokens).mean().item(),
        refusal_score(on_safe, tokens).mean().item(),
        len(pairs),
    )


def refusal_tokens(on_harmful: torch.Tensor, on_safe: torch.Tensor) -> torch.Tensor:
    """The tokens that open answers to harmful prompts and hardly ever those to safe ones.

    Args:
        on_harmful, on_safe: [n_prompts, vocab_size], next-token log probabilities.
    Returns: [n_tokens] ids, likeliest first: mean probability on harmful prompts of at least `TOKEN_SHARE`, and at least
        `TOKEN_RATIO` times that on safe ones.
    Raises: ModelError when there are none, or they hold less than half of the probability: the model does not refuse.
    """
    harmful, safe = on_harmful.exp().mean(0), on_safe.exp().mean(0)
    tokens = ((harmful >= TOKEN_SHARE) & (harmful >= TOKEN_RATIO * safe)).nonzero().flatten()
    share = harmful[tokens].sum().item()
    if share < 0.5:
        raise ModelError(
            "the model answers these harmful prompts as it answers the safe ones (refusal-like first tokens hold "
            f"{share:.0%} of the probability, at least 50 % expected); select with prompts that it refuses"
        )
    return tokens[harmful[tokens].argsort(descending=True)]


def refusal_score(log_probs: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """log p - log(1 - p) of the refusal tokens' probability p (Arditi et al. 2024, appendix B).

    Args:
        log_probs: [n_prompts, vocab_size].
        tokens: [n_tokens] ids.
    Returns: [n_prompts], float32; above 0 a refusal is likelier than not. Finite: p is kept within 1e-8 of 0 and 1.
    """
    p = log_probs.double()[:, tokens].exp().sum(1).clamp(1e-8, 1 - 1e-8)
    return (p.log() - (1 - p).log()).float()


def removed_by(layer: int, induce: float, kl: float, n_layers: int) -> tuple[str, ...]:
    """The filters that remove a candidate: induce > 0, KL < 0.1, not among the last 20 % of the layers."""
    failed = {
        "induce": not induce > 0,
        "kl": not kl < KL_LIMIT,
        "late layer": layer >= math.floor(LAYER_LIMIT * n_layers),
    }
    return tuple(name for name, fails in failed.items() if fails)


def next_token_log_probs(
    model: "PreTrainedModel",
    prompts: Sequence[Sequence[int]],
    intervention: "AbstractContextManager[Any] | None" = None,
) -> torch.Tensor:
    """Log probabilities of the token after each prompt, under an intervention; prompts of equal length run together.

    Returns: [n_prompts, vocab_size], float32, on the CPU.
    Raises: ModelError when they are not finite.
    """
    rows: list[Any] = [None] * len(prompts)
    device = input_device(model)
    with intervention or nullcontext(), torch.inference_mode():
        for batch in _equal_lengths(prompts):
            ids = torch.tensor([list(prompts[index]) for index in batch], device=device)
            logits = model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[:, -1].float()
            for index, row in zip(batch, logits.log_softmax(-1).cpu(), strict=True):
                rows[index] = row
    stacked = torch.stack(rows)
    if not stacked.isfinite().all():
        raise ModelError("next-token probabilities are not finite; try --dtype float32")
    return stacked


def render_selection(selection: Selection) -> str:
    """A selection as text to be read."""
    rows = [
        (each.layer, f"{each.bypass:.2f}", f"{each.induce:.2f}", f"{each.kl:.3f}", ", ".join(each.removed_by) or None)
        for each in selection.candidates
    ]
    lines = [
        f"{selection.n_pairs} pairs; refusals open with {', '.join(map(repr, selection.refusal_tokens))}; refusal score "
        f"without intervention {selection.baseline_harmful:.2f} on harmful, {selection.baseline_safe:.2f} on safe prompts",
        "",
        *table([("layer", ">5"), ("bypass", ">7"), ("induce", ">7"), ("KL", ">7"), ("removed by", "<")], rows),
    ]
    if selection.chosen is not None:
        lines += ["", f"selected layer {selection.chosen.layer}"]
        if selection.chosen.bypass > 0:
            lines.append("note: refusals stay likelier than not while it is ablated; it does not end them alone")
        return "\n".join(lines)
    counts = {name: sum(name in c.removed_by for c in selection.candidates) for name in ("induce", "kl", "late layer")}
    removed = ", ".join(f"{name} {count}" for name, count in counts.items())
    best = selection.candidates[0]
    return "\n".join(
        [
            *lines,
            "",
            f"no vector passes every filter (removed by: {removed} of {len(selection.candidates)}); the rest are ranked by "
            f"filters failed, then bypass: layer {best.layer} is first",
        ]
    )


def _equal_lengths(prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Indices of prompts of equal token length, in batches."""
    by_length: dict[int, list[int]] = {}
    for index, ids in enumerate(prompts):
        by_length.setdefault(len(ids), []).append(index)
    return [same[start : start + _BATCH] for same in by_length.values() for start in range(0, len(same), _BATCH)]
