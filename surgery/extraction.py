"""Extraction of refusal vectors from a model and matched prompt pairs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.activations import HARMFUL, SAFE, ActivationStore, LayerActivations
from surgery.chat import chat_template_sha256, prompt_token_ids
from surgery.errors import MismatchError, ModelError, PromptFileError
from surgery.estimators import ESTIMATORS
from surgery.families import family_of
from surgery.fitting import fit, statistics
from surgery.hooks import RESID_POST, captured
from surgery.models import ModelInfo
from surgery.positions import check_endings, check_template_options, end_of_instruction, parse_positions
from surgery.prompts import Pair, prompts_sha256
from surgery.vectors import RefusalVectors

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

POSITION = "last prompt token"
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Plan:
    """What is read from the model, and how it becomes refusal vectors.

    Attributes:
        site, position: where `vectors` come from; -1 is the last prompt token.
        sites, positions: all that is read; each more than the above becomes extra tensors. positions is "all" (every
            end-of-instruction token) or "-3,-1".
        estimator: a key of `ESTIMATORS`.
        n_components: singular directions of the paired differences kept a layer.
        batch_size: prompts of equal length run together, at most this many; 1 runs every prompt alone, in order.
        template_options: passed to the chat template, e.g. {"enable_thinking": False}.
        held_out: pairs that are only projected on the result.
        folder: where activations are spilled for a while; None: the system's temporary folder.
    """

    site: str = RESID_POST
    position: int = -1
    sites: tuple[str, ...] = ()
    positions: str = ""
    estimator: str = "mean"
    n_components: int = 0
    batch_size: int = 1
    template_options: Mapping[str, Any] = field(default_factory=dict)
    held_out: Sequence[Pair] = ()
    folder: Path | None = None

    def __post_init__(self) -> None:
        if self.estimator not in ESTIMATORS:
            raise ModelError(f"estimator {self.estimator!r} is not known; use one of {', '.join(ESTIMATORS)}")
        if self.batch_size < 1:
            raise ModelError(f"batch size must be at least 1, found {self.batch_size}")

    @property
    def method(self) -> str:
        """How the vectors were made, in words."""
        name = "difference of means" if self.estimator == "mean" else self.estimator
        return f"{name}, {'sequential' if self.batch_size == 1 else 'batches of equal length'}"


@dataclass(frozen=True)
class _Prompt:
    """One prompt to run: its pair's row, its group (HARMFUL or SAFE), its token ids, its name for messages."""

    row: int
    group: int
    ids: Sequence[int]
    name: str


def extract(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    pairs: Sequence[Pair],
    info: ModelInfo,
    progress: Progress | None = None,
    plan: Plan | None = None,
) -> RefusalVectors:
    """Refusal vectors of every layer from the activations on harmful prompts and on their safe counterparts.

    By default resid_post is read at the last token of the rendered prompt, one prompt at a time, so that no padding or
    batching enters, and the vectors are differences of means. Memory does not grow with the number of prompts: see
    `ActivationStore`.

    Args:
        model: as `load_model` gives it, on any device or several.
        pairs: at least one.
        progress: called with (prompts done, prompts in all) after each.
    Raises: PromptFileError (no pairs), ModelError (no chat template or one that ignores an option, unknown
        architecture, activations not finite), MismatchError (`info` describes another model), PositionError, DiskError.
    """
    plan = plan or Plan()
    _check_inputs(model, pairs, info)
    reader = _Reader(model, tokenizer, info, plan, progress, 2 * (len(pairs) + len(plan.held_out)))
    prompts, held_out = reader.render(pairs), reader.render(plan.held_out)
    reader.check([*prompts, *held_out])
    tags = tag_rows(pairs)
    with ActivationStore(len(reader.readings), info.n_layers, len(pairs), info.d_model, plan.folder) as store:
        for prompt, resid in reader.activations(prompts):
            store.write(prompt.group, prompt.row, resid)
        fitted, *others = [
            fit([store.layer(index, layer) for layer in range(info.n_layers)], plan.estimator, index > 0)
            for index in range(len(reader.readings))
        ]
        extras = statistics([store.layer(0, layer) for layer in range(info.n_layers)], tags, plan.n_components)
    for name, other in zip(reader.names[1:], others, strict=True):
        extras |= {f"{name}/{key}": tensor for key, tensor in other.items()}
    extras |= _projected(reader, held_out, fitted["vectors"])
    header = reader.header() | {
        "prompts_sha256": prompts_sha256(pairs),
        "n_pairs": len(pairs),
        "tags": [{"tag": tag, "n_pairs": len(rows)} for tag, rows in tags.items()],
    }
    return RefusalVectors(**fitted, header=header, extras=extras)


def vectors_from_activations(
    harmful: "torch.Tensor", safe: "torch.Tensor", header: dict, estimator: str = "mean"
) -> RefusalVectors:
    """Refusal vectors from activations in memory.

    Args:
        harmful, safe: [n_pairs, n_layers, d_model], float32, the same prompts' counterparts in the same order.
    Raises: ModelError when a layer has no direction.
    """
    layers = [LayerActivations.of(harmful[:, layer], safe[:, layer]) for layer in range(harmful.shape[1])]
    return RefusalVectors(**fit(layers, estimator), header=header)


def tag_rows(pairs: Sequence[Pair]) -> dict[str, list[int]]:
    """Row numbers of the pairs of every tier ("tier 2") and category ("category fraud"), where there are several."""
    found: dict[str, list[int]] = {}
    for kind, values in (("tier", [pair.tier for pair in pairs]), ("category", [pair.category for pair in pairs])):
        named = sorted({value for value in values if value not in (None, "")})
        if len(named) > 1:
            found |= {f"{kind} {name}": [row for row, value in enumerate(values) if value == name] for name in named}
    return found


class _Reader:
    """Runs prompts through a model and reads the residual stream at every (site, position) of a plan."""

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        info: ModelInfo,
        plan: Plan,
        progress: Progress | None,
        n_prompts: int,
    ):
        check_template_options(tokenizer, plan.template_options)
        self.model, self.tokenizer, self.info, self.plan = model, tokenizer, info, plan
        self._progress, self._n_prompts, self._n_done = progress, n_prompts, 0
        self.ending = end_of_instruction(tokenizer, plan.template_options)
        chosen = parse_positions(str(plan.position), len(self.ending))
        positions = parse_positions(plan.positions, len(self.ending)) if plan.positions else chosen
        sites = plan.sites or (plan.site,)
        first = (plan.site, plan.position)
        self.readings = [first, *((s, p) for s in sites for p in positions if (s, p) != first)]
        self.sites = tuple(dict.fromkeys(site for site, _ in self.readings))
        self.depth = -min(position for _, position in self.readings)

    @property
    def names(self) -> list[str]:
        """The readings as in a file's tensor names, "resid_post@-1" first or what the plan chose instead."""
        return [f"{site}@{position}" for site, position in self.readings]

    def render(self, pairs: Sequence[Pair]) -> list[_Prompt]:
        """Every prompt of the pairs: harmful, safe, harmful, safe …"""
        options = self.plan.template_options
        return [
            _Prompt(row, group, prompt_token_ids(self.tokenizer, text, **options), f"{pair.id!r} ({kind})")
            for row, pair in enumerate(pairs)
            for group, kind, text in ((HARMFUL, "harmful", pair.harmful), (SAFE, "safe", pair.safe))
        ]

    def check(self, prompts: Sequence[_Prompt]) -> None:
        """Check that positions before the last are the same token in every prompt. Raises: PositionError."""
        check_endings([(prompt.name, prompt.ids) for prompt in prompts], self.ending[-self.depth :])

    def activations(self, prompts: Sequence[_Prompt]) -> "Iterator[tuple[_Prompt, torch.Tensor]]":
        """Every prompt with its activations, [n_readings, n_layers, d_model] float32, batch by batch."""
        import torch

        family = family_of(self.info.architecture)
        with captured(self.model, family, self.sites, self.depth) as capture, torch.inference_mode():
            for batch in _batches(prompts, self.plan.batch_size):
                ids = torch.tensor([prompt.ids for prompt in batch], device=self.model.device)
                self.model.base_model(input_ids=ids, use_cache=False)  # without the unembedding, which nobody reads
                resid = self._chosen(capture.take())
                for index, prompt in enumerate(batch):
                    _check_finite(resid[:, :, index], prompt.name, self.model.dtype)
                    yield prompt, resid[:, :, index]
                self._report(len(batch))

    def header(self) -> dict[str, Any]:
        """Provenance: which model was read, where and how."""
        plan, last = self.plan, self.plan.position == -1
        return {
            "model": self.info.to_json(),
            "chat_template_sha256": chat_template_sha256(self.tokenizer),
            "template_options": dict(plan.template_options),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "site": plan.site,
            "position": POSITION if last else f"prompt token {plan.position}",
            "reading": self.names[0],
            "readings": self.names,
            "ending": self.tokenizer.convert_ids_to_tokens(self.ending),
            "estimator": plan.estimator,
            "method": plan.method,
            "n_held_out": len(plan.held_out),
            "held_out_sha256": prompts_sha256(plan.held_out) if plan.held_out else None,
        }

    def _chosen(self, taken: "torch.Tensor") -> "torch.Tensor":
        """[n_sites, n_layers, batch, depth, d_model] -> [n_readings, n_layers, batch, d_model] float32."""
        import torch

        return torch.stack([taken[self.sites.index(site), :, :, position] for site, position in self.readings]).float()

    def _report(self, n_prompts: int) -> None:
        for _ in range(n_prompts if self._progress is not None else 0):
            self._n_done += 1
            self._progress(self._n_done, self._n_prompts)


def _batches(prompts: Sequence[_Prompt], batch_size: int) -> Iterator[list[_Prompt]]:
    """Prompts of equal token length together, so that a batch needs no padding; alone and in order at size 1."""
    if batch_size == 1:
        yield from ([prompt] for prompt in prompts)
        return
    by_length: dict[int, list[_Prompt]] = {}
    for prompt in prompts:
        by_length.setdefault(len(prompt.ids), []).append(prompt)
    for length in sorted(by_length, reverse=True):  # the longest first: too little memory shows at once
        same = by_length[length]
        yield from (same[start : start + batch_size] for start in range(0, len(same), batch_size))


def _projected(reader: _Reader, prompts: Sequence[_Prompt], vectors: "torch.Tensor") -> "dict[str, torch.Tensor]":
    """Projections of prompts that were not fitted on, one prompt at a time; empty without any."""
    import torch

    if not prompts:
        return {}
    units = vectors.double() / vectors.double().norm(dim=1, keepdim=True)
    projections = torch.empty(2, len(prompts) // 2, len(vectors))
    for prompt, resid in reader.activations(prompts):
        projections[prompt.group, prompt.row] = (resid[0] * units.float()).sum(-1)
    return {"held_out_harmful": projections[HARMFUL].contiguous(), "held_out_safe": projections[SAFE].contiguous()}


def _check_inputs(model: "PreTrainedModel", pairs: Sequence[Pair], info: ModelInfo) -> None:
    if not pairs:
        raise PromptFileError("no prompt pairs; a refusal vector needs at least one harmful prompt and its counterpart")
    config = model.config.get_text_config()
    if (config.hidden_size, config.num_hidden_layers) != (info.d_model, info.n_layers):
        raise MismatchError(
            f"{info.model} has d_model {info.d_model} and {info.n_layers} layers but the loaded model has "
            f"{config.hidden_size} and {config.num_hidden_layers}; describe and load the same model"
        )


def _check_finite(resid: "torch.Tensor", name: str, dtype: "torch.dtype") -> None:
    broken = (~resid.isfinite()).any(dim=2).any(dim=0).nonzero()
    if len(broken):
        raise ModelError(
            f"layer {int(broken[0])}: activations on prompt {name} are not finite in "
            f"{str(dtype).removeprefix('torch.')}; try --dtype float32"
        )
