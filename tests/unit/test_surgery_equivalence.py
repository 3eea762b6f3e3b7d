"""The gate: ablating the writes at run time, the checkpoint and the adapter are one and the same model, in every family."""

import pytest
import torch
from peft import PeftModel
from tiny_models import logits, write_model

from surgery.adapter import write_adapter
from surgery.families import FAMILIES
from surgery.hooks import ablated
from surgery.models import describe_model, load_model
from surgery.orthogonalize import orthogonalize
from surgery.subspace import random_subspace

ALPHAS = (0.5, 1.0, 1.5)
BASES = {rank: random_subspace(32, rank, seed=rank).basis for rank in (1, 4)}
LAYERS = "0,2"
# Float32: an edit rounds the weights once (6e-8) and sums run in another order, over d_model 32 and three blocks.
RELATIVE = 5e-5
NO_BIASES = {"attention_bias": False, "mlp_bias": False}


def load(folder):
    return load_model(describe_model(folder))


def close(a, b):
    return (a - b).abs().max() <= RELATIVE * b.abs().max()


def hooked_logits(model, basis, alpha, layers=LAYERS):
    with ablated(model, basis, alpha, layers, site="writes"):
        return logits(model)


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def family(request, tmp_path_factory):
    """(folder, loaded model) of one architecture, with every bias it can have."""
    folder = write_model(tmp_path_factory.mktemp(request.param) / "m", request.param, n_layers=3)
    return folder, load(folder)


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def family_without_biases(request, tmp_path_factory):
    folder = write_model(tmp_path_factory.mktemp(request.param) / "m", request.param, n_layers=3, **NO_BIASES)
    return folder, load(folder)


@pytest.mark.parametrize("rank", BASES)
@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_checkpoint_equals_ablating_the_writes(family, tmp_path, alpha, rank):
    folder, model = family
    orthogonalize(describe_model(folder), BASES[rank], alpha, tmp_path / "out", LAYERS)
    edited = logits(load(tmp_path / "out"))
    assert close(edited, hooked_logits(model, BASES[rank], alpha))
    assert not close(edited, logits(model))
    assert not close(edited, hooked_logits(model, BASES[rank], alpha + 0.25))  # another strength is another model
    assert not close(edited, hooked_logits(model, BASES[rank], alpha, "0"))


@pytest.mark.parametrize("rank", BASES)
@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_adapter_in_peft_equals_ablating_the_writes(family_without_biases, tmp_path, alpha, rank):
    folder, model = family_without_biases
    plain, expected = logits(model), hooked_logits(model, BASES[rank], alpha)
    write_adapter(describe_model(folder), BASES[rank], alpha, tmp_path / "out", LAYERS)
    wrapped = PeftModel.from_pretrained(model, tmp_path / "out")
    try:
        edited = logits(wrapped)
        with wrapped.disable_adapter():
            assert torch.equal(logits(wrapped), plain)
    finally:
        wrapped.unload()
    assert close(edited, expected)
    assert not close(edited, plain)
    assert not close(edited, hooked_logits(model, BASES[rank], alpha + 0.25))
