"""Extraction of refusal vectors from a model and a contrast set of prompts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from surgery.architecture.table import entry_of
from surgery.console.errors import MismatchError, ModelError, PromptFileError
from surgery.model.models import ModelInfo
from surgery.prompts import Pair
from surgery.reading.activations import HARMFUL, SAFE, ActivationStore
from surgery.reading.contrast import Contrast, as_contrast, check_held_out
from surgery.reading.readings import Readings, Rendered
from surgery.reading.sources import ActivationSource
from surgery.reading.transformers_source import TransformersSource
from surgery.residual.sites import RESID_POST
from surgery.residual.vectors import RefusalVectors
from surgery.statistics.cosines import cosines_without
from surgery.statistics.estimators import ESTIMATORS, PAIRED
from surgery.statistics.fitting import SEED, fit, statistics
from surgery.statistics.tier_angles import half_grams

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Progress = Callable[[int, int], None]
_ESTIMATOR_NAMES = {"mean": "difference of means"}


@dataclass(frozen=True)
class ExtractionPlan:
    """What is read from the model, and how it becomes refusal vectors.

    Attributes:
        site, position: where `vectors` come from; -1 is the last prompt token.
        sites, positions: all that is read; each more than the above becomes extra tensors. positions is "all" (every
            end-of-instruction token) or "-3,-1".
        estimator: a key of `ESTIMATORS`.
        n_components: singular directions of the paired differences kept a layer.
        batch_size: prompts of equal length run together, at most this many; 1 runs every prompt alone, in order.
        template_options: passed to the chat template, e.g. {"enable_thinking": False}.
        held_out: prompts that are only projected on the result: pairs, or a contrast set.
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
    held_out: "Contrast | Sequence[Pair]" = ()
    folder: Path | None = None

    def __post_init__(self) -> None:
        if self.estimator not in ESTIMATORS:
            raise ModelError(f"estimator {self.estimator!r} is not known; use one of {', '.join(ESTIMATORS)}")
        if self.batch_size < 1:
            raise ModelError(f"batch size must be at least 1, found {self.batch_size}")


def extract(
    model: "PreTrainedModel | ActivationSource",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: "Contrast | Sequence[Pair]",
    info: ModelInfo,
    progress: Progress | None = None,
    plan: ExtractionPlan | None = None,
) -> RefusalVectors:
    """Refusal vectors of every layer from the activations on harmful and on safe prompts.

    By default resid_post is read at the last token of the rendered prompt, one prompt at a time, so that no padding or
    batching enters, and the vectors are differences of means. Memory does not grow with the number of prompts: see
    `ActivationStore`.

    Args:
        model: as `load_model` gives it, on any device or several; or what else runs the model, by its own batch size.
        prompts: matched pairs, or a contrast set; at least one harmful and one safe prompt.
        progress: called with (prompts done, prompts in all) after each.
    Raises: PromptFileError (no prompts, or a held-out one among those fitted on), ModelError (no chat template or one
        that ignores an option, unknown architecture, activations not finite, an estimator of paired differences for
        unmatched prompts), MismatchError (`info` describes another model), PositionError, DiskError.
    """
    plan = plan or ExtractionPlan()
    if isinstance(model, ActivationSource):
        source: ActivationSource = model
    else:
        source = TransformersSource(model, entry_of(info.architecture), plan.batch_size)
    contrast, others = as_contrast(prompts), as_contrast(plan.held_out)
    _check_inputs(source, contrast, info)
    check_pairing(contrast, plan.estimator, plan.n_components)
    n_near = check_held_out(others, contrast)
    readings = Readings(tokenizer, plan.site, plan.position, plan.sites, plan.positions, plan.template_options)
    rendered, held_out = readings.render(contrast), readings.render(others)
    done, n_prompts = iter(range(1, len(rendered) + len(held_out) + 1)), len(rendered) + len(held_out)

    def report() -> None:
        if progress is not None:
            progress(next(done), n_prompts)

    tags = contrast.tags()
    sizes, matched = contrast.sizes, contrast.matched
    with ActivationStore(len(readings), info.n_layers, sizes, info.d_model, plan.folder, matched) as store:
        for prompt, resid in _activations(source, readings, rendered, report):
            store.write(prompt.group, prompt.row, resid)
        fitted, *elsewhere = [
            fit([store.layer(index, layer) for layer in range(info.n_layers)], plan.estimator, index > 0)
            for index in range(len(readings))
        ]
        ran = source.header()  # of the fitted prompts; the held-out ones may share another beginning
        read = [store.layer(0, layer) for layer in range(info.n_layers)]
        extras = statistics(read, tags, plan.n_components)
        grams = half_grams(read, tags)
        extras |= {} if grams is None else {"tier_half_grams": grams}
        cosines = cosines_without(read) if plan.estimator == "mean" else None  # leaving out is cheap only of means
        extras |= {} if cosines is None else {"cosines_without": cosines}
    for name, other in zip(readings.names[1:], elsewhere, strict=True):
        extras |= {f"{name}/{key}": tensor for key, tensor in other.items()}
    if held_out:
        extras |= _projected(_activations(source, readings, held_out, report), others.sizes, fitted["vectors"])
    header = {
        "model": info.to_json(),
        **readings.header(),
        **ran,
        "dtype": source.dtype,
        "estimator": plan.estimator,
        "method": f"{_ESTIMATOR_NAMES.get(plan.estimator, plan.estimator)}, {source.order}",
        "seed": SEED,
        **contrast.header(),
        "tags": [
            {"tag": tag, "n_pairs": len(rows[0]) if matched else 0, "n_harmful": len(rows[0]), "n_safe": len(rows[1])}
            for tag, rows in tags.items()
        ],
        "held_out": {**others.header(), "n_near_duplicates": n_near} if held_out else None,
    }
    return RefusalVectors(**fitted, header=header, extras=extras)


def _activations(
    source: ActivationSource, readings: Readings, prompts: Sequence[Rendered], report: Callable[[], None]
) -> Iterator[tuple[Rendered, torch.Tensor]]:
    """Every prompt with its activations, [n_readings, n_layers, d_model] float32, as the source gives them."""
    for index, taken in source.activations([prompt.ids for prompt in prompts], readings.sites, readings.depth):
        resid = readings.chosen(taken)
        _check_finite(resid, prompts[index].name, source.dtype)
        yield prompts[index], resid
        report()


def _projected(
    activations: Iterator[tuple[Rendered, torch.Tensor]], sizes: tuple[int, int], vectors: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Projections of prompts that were not fitted on, one prompt at a time."""
    units = vectors.double() / vectors.double().norm(dim=1, keepdim=True)
    projections = [torch.empty(size, len(vectors)) for size in sizes]
    for prompt, resid in activations:
        projections[prompt.group][prompt.row] = (resid[0] * units.float()).sum(-1)
    return {"held_out_harmful": projections[HARMFUL], "held_out_safe": projections[SAFE]}


def check_pairing(contrast: Contrast, estimator: str, n_components: int) -> None:
    """Refuse what is made of paired differences where there are no pairs. Raises: ModelError."""
    wanted = f"estimator {estimator}" if estimator in PAIRED else "singular directions of the differences"
    if not contrast.matched and (estimator in PAIRED or n_components):
        others = ", ".join(name for name in ESTIMATORS if name not in PAIRED)
        raise ModelError(f"{wanted}: needs matched pairs, found unmatched prompts; give pairs, or estimate by {others}")


def _check_inputs(source: ActivationSource, contrast: Contrast, info: ModelInfo) -> None:
    if 0 in contrast.sizes:
        raise PromptFileError("no prompt pairs; a refusal vector needs at least one harmful and one safe prompt")
    if (source.d_model, source.n_layers) != (info.d_model, info.n_layers):
        raise MismatchError(
            f"{info.model} has d_model {info.d_model} and {info.n_layers} layers but the loaded model has "
            f"{source.d_model} and {source.n_layers}; describe and load the same model"
        )


def _check_finite(resid: torch.Tensor, name: str, dtype: str) -> None:
    broken = (~resid.isfinite()).any(dim=2).any(dim=0).nonzero()
    if len(broken):
        raise ModelError(
            f"layer {int(broken[0])}: activations on prompt {name} are not finite in {dtype}; try --dtype float32"
        )
