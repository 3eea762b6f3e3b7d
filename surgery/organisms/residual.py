"""Reading and ablating the residual stream of an organism while it trains and while it is measured.

Layers are decoder blocks, 0-based; resid_post is a block's output. Batches are padded, which is exact here: the models
are causal, so right padding never reaches a real token, and left padding is masked.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from surgery.organisms.language import InstructionPair
from surgery.organisms.tokenizer import encode_prompt

Hook = Callable[[nn.Module, Any, Tensor], Tensor | None]


@dataclass(frozen=True)
class LayerVectors:
    """Refusal vectors of every layer, and how well each separates harmful from safe prompts.

    Attributes:
        directions: [n_layers, d_model], float32, unit rows: normalized mean(harmful) - mean(safe).
        safe_mean: [n_layers, d_model], float32, mean of the safe activations.
        cohens_d: [n_layers], float32, difference of the mean projections over their pooled standard deviation.
    """

    directions: Tensor
    safe_mean: Tensor
    cohens_d: Tensor

    def basis(self, layers: Sequence[int]) -> Tensor:
        """Orthonormal basis [d_model, len(layers)] of the directions of these layers, by QR."""
        return torch.linalg.qr(self.directions[list(layers)].T)[0]

    def projected(self) -> "LayerVectors":
        """The same with each direction made orthogonal to the mean safe activation of its layer, and normalized."""
        mean = functional.normalize(self.safe_mean, dim=-1)
        along = (self.directions * mean).sum(-1, keepdim=True)
        return replace(self, directions=functional.normalize(self.directions - along * mean, dim=-1))

    def cosines(self) -> Tensor:
        """[n_layers, n_layers], cosine between the vectors of any two layers."""
        return self.directions @ self.directions.T


def pad_right(sequences: Sequence[Sequence[int]], fill: int) -> Tensor:
    """[n, longest], int64: the sequences, filled up on the right."""
    return pad_sequence([torch.tensor(sequence) for sequence in sequences], batch_first=True, padding_value=fill)


@contextlib.contextmanager
def captured(model: PreTrainedModel) -> Iterator[list[Tensor]]:
    """Give the resid_post [batch, n_tokens, d_model] of every layer after each forward pass, with its graph."""
    blocks = model.model.layers
    stream: list[Tensor] = [torch.empty(0)] * len(blocks)

    def keep(layer: int) -> Hook:
        return lambda _module, _args, output: stream.__setitem__(layer, output)

    with _hooked(blocks, [keep(layer) for layer in range(len(blocks))]):
        yield stream


@contextlib.contextmanager
def ablated(
    model: PreTrainedModel,
    basis: Tensor,
    alpha: float = 1.0,
    reference: Tensor | None = None,
    layers: Sequence[int] | None = None,
) -> Iterator[None]:
    """Ablate a subspace from the output of decoder blocks.

    x' = x - alpha Q Q^T (x - reference)         (Arditi et al. 2024, arXiv:2406.11717; with a reference it is affine)

    Args:
        basis: Q, [d_model, rank] for all rows of the batch or [batch, d_model, rank] one each; orthonormal or zero
            columns, so a zero matrix leaves its row as it is.
        alpha: 1 removes the whole component.
        reference: [n_layers, d_model], the point each layer's component is moved to; None is the origin.
        layers: the blocks to act on; None is all of them.
    """
    blocks = model.model.layers
    layers = range(len(blocks)) if layers is None else layers

    def edit(layer: int) -> Hook:
        def hook(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
            q = basis.to(output.dtype)
            offset = output if reference is None else output - reference[layer].to(output.dtype)
            return output - alpha * (offset @ q) @ q.transpose(-1, -2)

        return hook

    with _hooked([blocks[layer] for layer in layers], [edit(layer) for layer in layers]):
        yield


@contextlib.contextmanager
def _hooked(modules: Iterable[nn.Module], hooks: Iterable[Hook]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module, hook in zip(modules, hooks, strict=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def last_token_stream(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str]) -> Tensor:
    """resid_post at the last prompt token, [n_prompts, n_layers, d_model], float32; differentiable if grad is on."""
    ids = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    last = torch.tensor([len(row) - 1 for row in ids])
    rows = torch.arange(len(ids))
    with captured(model) as stream:
        tokens = pad_right(ids, tokenizer.pad_token_id)
        model.model(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False)
    return torch.stack([layer[rows, last] for layer in stream], dim=1).float()


def layer_vectors(harmful: Tensor, safe: Tensor) -> LayerVectors:
    """Refusal vectors from activations [n_pairs, n_layers, d_model] of harmful prompts and of their safe twins."""
    directions = functional.normalize(harmful.mean(0) - safe.mean(0), dim=-1)
    return LayerVectors(directions, safe.mean(0), separation(harmful, safe, directions))


def separation(harmful: Tensor, safe: Tensor, directions: Tensor) -> Tensor:
    """Cohen's d per layer, [n_layers]: (mean_h - mean_s) / sqrt((var_h + var_s) / 2) of the projections."""
    on_harmful = torch.einsum("nld,ld->nl", harmful, directions)
    on_safe = torch.einsum("nld,ld->nl", safe, directions)
    pooled = (on_harmful.var(0) + on_safe.var(0)) / 2
    return (on_harmful.mean(0) - on_safe.mean(0)) / (pooled + 1e-6).sqrt()


@torch.no_grad()
def extract(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, pairs: Sequence[InstructionPair]
) -> LayerVectors:
    """Read the refusal vectors of every layer from pairs."""
    harmful = last_token_stream(model, tokenizer, [pair.harmful for pair in pairs])
    safe = last_token_stream(model, tokenizer, [pair.safe for pair in pairs])
    return layer_vectors(harmful, safe)
