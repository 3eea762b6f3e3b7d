"""Extraction of refusal vectors from a model and matched prompt pairs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.activations import HARMFUL, SAFE, ActivationStore, LayerActivations
from surgery.errors import MismatchError, ModelError, PromptFileError
from surgery.estimators import ESTIMATORS
from surgery.families import family_of
from surgery.fitting import fit, statistics
from surgery.hooks import RESID_POST
from surgery.models import ModelInfo
from surgery.prompts import Pair, prompts_sha256
from surgery.readings import Readings, Rendered
from surgery.sources import ActivationSource
from surgery.transformers_source import TransformersSource
from surgery.vectors import RefusalVectors

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Progress = Callable[[int, int], None]
_ESTIMATOR_NAMES = {"mean": "difference of means"}


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
    source = TransformersSource(model, family_of(info.architecture), plan.batch_size)
    return extract_from(source, tokenizer, pairs, info, progress, plan)


def extract_from(
    source: ActivationSource,
    tokenizer: "PreTrainedTokenizerBase",
    pairs: Sequence[Pair],
    info: ModelInfo,
    progress: Progress | None = None,
    plan: Plan | None = None,
) -> RefusalVectors:
    """As `extract`, from whatever runs the model; the plan's batch size is the source's own affair."""
    plan = plan or Plan()
    _check_inputs(source, pairs, info)
    readings = Readings(tokenizer, plan.site, plan.position, plan.sites, plan.positions, plan.template_options)
    prompts, held_out = readings.render(pairs), readings.render(plan.held_out)
    report = _counted(progress, len(prompts) + len(held_out))
    tags = tag_rows(pairs)
    with ActivationStore(len(readings), info.n_layers, len(pairs), info.d_model, plan.folder) as store:
        for prompt, resid in _activations(source, readings, prompts, report):
            store.write(prompt.group, prompt.row, resid)
        fitted, *others = [
            fit([store.layer(index, layer) for layer in range(info.n_layers)], plan.estimator, index > 0)
            for index in range(len(readings))
        ]
        ran = source.header()  # of the fitted prompts; the held-out ones may share another beginning
        extras = statistics([store.layer(0, layer) for layer in range(info.n_layers)], tags, plan.n_components)
    for name, other in zip(readings.names[1:], others, strict=True):
        extras |= {f"{name}/{key}": tensor for key, tensor in other.items()}
    if held_out:
        extras |= _projected(_activations(source, readings, held_out, report), len(plan.held_out), fitted["vectors"])
    header = {
        "model": info.to_json(),
        **readings.header(),
        **ran,
        "dtype": source.dtype,
        "estimator": plan.estimator,
        "method": f"{_ESTIMATOR_NAMES.get(plan.estimator, plan.estimator)}, {source.order}",
        "n_held_out": len(plan.held_out),
        "held_out_sha256": prompts_sha256(plan.held_out) if plan.held_out else None,
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


def _activations(
    source: ActivationSource, readings: Readings, prompts: Sequence[Rendered], report: Callable[[], None]
) -> "Iterator[tuple[Rendered, torch.Tensor]]":
    """Every prompt with its activations, [n_readings, n_layers, d_model] float32, as the source gives them."""
    for index, taken in source.activations([prompt.ids for prompt in prompts], readings.sites, readings.depth):
        resid = readings.chosen(taken)
        _check_finite(resid, prompts[index].name, source.dtype)
        yield prompts[index], resid
        report()


def _projected(
    activations: "Iterator[tuple[Rendered, torch.Tensor]]", n_pairs: int, vectors: "torch.Tensor"
) -> "dict[str, torch.Tensor]":
    """Projections of prompts that were not fitted on, one prompt at a time."""
    import torch

    units = vectors.double() / vectors.double().norm(dim=1, keepdim=True)
    projections = torch.empty(2, n_pairs, len(vectors))
    for prompt, resid in activations:
        projections[prompt.group, prompt.row] = (resid[0] * units.float()).sum(-1)
    return {"held_out_harmful": projections[HARMFUL].contiguous(), "held_out_safe": projections[SAFE].contiguous()}


def _counted(progress: Progress | None, n_prompts: int) -> Callable[[], None]:
    """A call for each prompt done."""
    done = iter(range(1, n_prompts + 1))
    return lambda: None if progress is None else progress(next(done), n_prompts)


def _check_inputs(source: ActivationSource, pairs: Sequence[Pair], info: ModelInfo) -> None:
    if not pairs:
        raise PromptFileError("no prompt pairs; a refusal vector needs at least one harmful prompt and its counterpart")
    if (source.d_model, source.n_layers) != (info.d_model, info.n_layers):
        raise MismatchError(
            f"{info.model} has d_model {info.d_model} and {info.n_layers} layers but the loaded model has "
            f"{source.d_model} and {source.n_layers}; describe and load the same model"
        )


def _check_finite(resid: "torch.Tensor", name: str, dtype: str) -> None:
    broken = (~resid.isfinite()).any(dim=2).any(dim=0).nonzero()
    if len(broken):
        raise ModelError(
            f"layer {int(broken[0])}: activations on prompt {name} are not finite in {dtype}; try --dtype float32"
        )
