"""Extraction of refusal vectors from a model and matched prompt pairs."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from surgery.chat import chat_template_sha256, prompt_token_ids
from surgery.errors import MismatchError, ModelError, PromptFileError
from surgery.families import family_of
from surgery.hooks import Capture, captured
from surgery.models import ModelInfo
from surgery.prompts import Pair, prompts_sha256
from surgery.vectors import RefusalVectors

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

POSITION = "last prompt token"
METHOD = "difference of means, sequential"
Progress = Callable[[int, int], None]


def extract(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    pairs: Sequence[Pair],
    info: ModelInfo,
    progress: Progress | None = None,
) -> RefusalVectors:
    """Refusal vectors of every layer: mean activation on the harmful prompts minus that on their safe counterparts.

    resid_post is read at the last token of the rendered prompt, one prompt at a time, so that no padding or batching
    enters; means are summed in float64.

    Args:
        model: as `load_model` gives it, on any device.
        pairs: at least one.
        progress: called with (prompts done, prompts in all) after each.
    Raises: PromptFileError (no pairs), ModelError (no chat template, unknown architecture, activations not finite),
        MismatchError (`info` describes another model).
    """
    import torch

    _check_inputs(model, pairs, info)
    n_prompts = 2 * len(pairs)
    # Kept whole, 2 x n_pairs x n_layers x d_model float32: the projections need the means first.
    resid = torch.empty(n_prompts, info.n_layers, info.d_model)
    with captured(model, family_of(info.architecture)) as capture, torch.inference_mode():
        for row, (label, text) in enumerate(_labelled(pairs)):
            resid[row] = _last_token_resid(model, tokenizer, text, capture, label)
            if progress is not None:
                progress(row + 1, n_prompts)
    header = {
        "model": info.to_json(),
        "chat_template_sha256": chat_template_sha256(tokenizer),
        "prompts_sha256": prompts_sha256(pairs),
        "n_pairs": len(pairs),
        "dtype": str(model.dtype).removeprefix("torch."),
        "position": POSITION,
        "method": METHOD,
    }
    return vectors_from_activations(resid[0::2], resid[1::2], header)


def vectors_from_activations(harmful: "torch.Tensor", safe: "torch.Tensor", header: dict) -> RefusalVectors:
    """Refusal vectors from activations.

    vectors[i] = mean_n harmful[n, i] - mean_n safe[n, i]; projections are onto the unit vector along it.

    Args:
        harmful, safe: [n_pairs, n_layers, d_model], float32, the same prompts' counterparts in the same order.
    Raises: ModelError when a layer's means are equal, so that it has no direction.
    """
    import torch

    mean_harmful, mean_safe = (harmful.mean(0, dtype=torch.float64), safe.mean(0, dtype=torch.float64))
    vectors = mean_harmful - mean_safe
    norms = vectors.norm(dim=1, keepdim=True)
    if (norms == 0).any():
        layer = int((norms == 0).nonzero()[0, 0])
        raise ModelError(f"layer {layer}: harmful and safe prompts give equal mean activations, so no refusal vector")
    units = (vectors / norms).float()
    return RefusalVectors(
        vectors=vectors.float(),
        mean_harmful=mean_harmful.float(),
        mean_safe=mean_safe.float(),
        projections_harmful=(harmful * units).sum(-1),
        projections_safe=(safe * units).sum(-1),
        header=header,
    )


def _check_inputs(model: "PreTrainedModel", pairs: Sequence[Pair], info: ModelInfo) -> None:
    if not pairs:
        raise PromptFileError("no prompt pairs; a refusal vector needs at least one harmful prompt and its counterpart")
    config = model.config.get_text_config()
    if (config.hidden_size, config.num_hidden_layers) != (info.d_model, info.n_layers):
        raise MismatchError(
            f"{info.model} has d_model {info.d_model} and {info.n_layers} layers but the loaded model has "
            f"{config.hidden_size} and {config.num_hidden_layers}; describe and load the same model"
        )


def _labelled(pairs: Sequence[Pair]) -> list[tuple[str, str]]:
    """(name for messages, text) of every prompt: harmful, safe, harmful, safe …"""
    return [
        (f"{pair.id!r} ({kind})", text)
        for pair in pairs
        for kind, text in (("harmful", pair.harmful), ("safe", pair.safe))
    ]


def _last_token_resid(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", text: str, capture: Capture, label: str
) -> "torch.Tensor":
    """resid_post at the last prompt token, [n_layers, d_model] float32."""
    import torch

    ids = torch.tensor([prompt_token_ids(tokenizer, text)], device=model.device)
    model(input_ids=ids, use_cache=False, logits_to_keep=1)
    resid = capture.resid_post()[:, 0, :].float()
    broken = (~resid.isfinite()).any(dim=1).nonzero()
    if len(broken):
        raise ModelError(
            f"layer {int(broken[0])}: activations on prompt {label} are not finite in "
            f"{str(model.dtype).removeprefix('torch.')}; try --dtype float32"
        )
    return resid
