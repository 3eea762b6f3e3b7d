"""The gate: ablating the writes at run time, the checkpoint and the adapter are one model."""

import shutil

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from peft import PeftModel
from safetensors.torch import load_file
from tiny_models import fuse_experts, logits, write_model

from surgery.architecture.table import ARCHITECTURES
from surgery.console.errors import ModelError
from surgery.model.models import describe_model, load_model
from surgery.reading.hooks import ablated
from surgery.residual.operator import ablate
from surgery.residual.subspace import random_subspace
from surgery.weights.adapter import write_adapter
from surgery.weights.checkpoint import orthogonalize
from surgery.weights.verify import verify

ALPHAS = (0.5, 1.0, 1.5)
BASES = {rank: random_subspace(32, rank, seed=rank).basis for rank in (1, 4)}
LAYERS = "0,2"
# Float32: an edit rounds the weights once (6e-8) and sums run in another order, over d_model 32 and three blocks.
RELATIVE = 5e-5
ALWAYS_BIASED = {"GPTNeoXForCausalLM"}  # no adapter is possible
NO_BIASES = {"attention_bias": False, "mlp_bias": False}
FUSED = ", experts in one tensor"  # the second layout of files; save_pretrained writes a matrix for each
SAVED = sorted(ARCHITECTURES) + [name + FUSED for name, entry in ARCHITECTURES.items() if entry.experts]


def saved(folder, layout, **settings):
    folder = write_model(folder, layout.removesuffix(FUSED), n_layers=3, **settings)
    return fuse_experts(folder) if layout.endswith(FUSED) else folder


def load(folder):
    return load_model(describe_model(folder))


def close(a, b):
    return (a - b).abs().max() <= RELATIVE * b.abs().max()


def hooked_logits(model, basis, alpha, layers=LAYERS):
    with ablated(model, basis, alpha, layers, site="writes"):
        return logits(model)


@pytest.fixture(scope="module", params=SAVED)
def family(request, tmp_path_factory):
    """(folder, loaded model) of one architecture, with every bias it can have."""
    folder = saved(tmp_path_factory.mktemp("family") / "m", request.param)
    return folder, load(folder)


@pytest.fixture(scope="module", params=sorted(set(SAVED) - ALWAYS_BIASED))
def family_without_biases(request, tmp_path_factory):
    folder = saved(tmp_path_factory.mktemp("family") / "m", request.param, **NO_BIASES)
    return folder, load(folder)


@pytest.mark.parametrize("rank", BASES)
@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_checkpoint_equals_ablating_the_writes(family, tmp_path, alpha, rank):
    folder, model = family
    orthogonalize(describe_model(folder), BASES[rank], alpha, tmp_path / "out", LAYERS)
    edited = logits(load(tmp_path / "out"))
    assert verify(tmp_path / "out").ok and close(edited, hooked_logits(model, BASES[rank], alpha))
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


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("architecture", ["GPTNeoXForCausalLM", "CohereForCausalLM", "Gemma2ForCausalLM"])
def test_edited_embeddings_equal_ablating_what_they_put_out(tmp_path, architecture, tied):
    folder = write_model(tmp_path / "m", architecture, tied=tied)
    manifest = orthogonalize(describe_model(folder), BASES[4], 1.0, tmp_path / "out", embeddings=True)
    model, edited = load(folder), logits(load(tmp_path / "out"))
    assert not close(hooked_logits(model, BASES[4], 1.0, "all"), edited)
    model.get_input_embeddings().register_forward_hook(lambda _module, _args, output: ablate(output, BASES[4]))
    assert close(hooked_logits(model, BASES[4], 1.0, "all"), edited)
    assert manifest["untied"] is tied and verify(tmp_path / "out").ok


@pytest.mark.parametrize("architecture", sorted(ALWAYS_BIASED))
def test_a_family_that_always_has_biases_gets_no_adapter(tmp_path, architecture):
    folder = write_model(tmp_path / "m", architecture, **NO_BIASES)
    with pytest.raises(ModelError, match="have biases"):
        write_adapter(describe_model(folder), BASES[1], 1.0, tmp_path / "out")


# One of each kind: as it is added, after a norm, with biases always, with experts and dense blocks.
@pytest.fixture(
    scope="module",
    params=["LlamaForCausalLM", "Gemma2ForCausalLM", "GPTNeoXForCausalLM", "Qwen2MoeForCausalLM"],
)
def folder(request, tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("kind") / "m", request.param)


def edited(folder, basis, alpha):
    """The folder of the checkpoint, beside its model."""
    orthogonalize(describe_model(folder), basis, alpha, folder.parent / f"{folder.name}-{alpha}", force=True)
    return folder.parent / f"{folder.name}-{alpha}"


def same(first, second, tolerance):
    first, second = (load_file(folder / "model.safetensors") for folder in (first, second))
    return all((first[name] - second[name]).abs().max() <= tolerance for name in first)


# Float32 products over d_model 32 of entries up to about 1.5, rounded once or twice: about 1e-6 an entry.
ENTRY = 3e-6
SEEDS, RANKS = st.integers(0, 2**32 - 1), st.integers(1, 6)
STRENGTHS = st.floats(-2, 3).filter(lambda alpha: abs(alpha) > 0.01)
few = settings(max_examples=8, deadline=None)


@few
@given(seed=SEEDS, rank=RANKS)
def test_a_full_edit_done_twice_changes_nothing_more(folder, seed, rank):
    basis = random_subspace(32, rank, seed).basis
    once = edited(folder, basis, 1.0)
    assert same(once, edited(once, basis, 1.0), ENTRY) and not same(once, folder, 100 * ENTRY)


@few
@given(seed=SEEDS, rank=RANKS, first=STRENGTHS, second=STRENGTHS)
def test_two_partial_edits_compose_to_one(folder, seed, rank, first, second):
    basis, whole = random_subspace(32, rank, seed).basis, first + second - first * second
    assume(whole != 0)
    assert same(edited(edited(folder, basis, first), basis, second), edited(folder, basis, whole), 10 * ENTRY)


@few
@given(seed=SEEDS, rank=RANKS, alpha=STRENGTHS)
def test_the_edit_depends_on_the_subspace_and_not_on_its_basis(folder, seed, rank, alpha):
    basis = random_subspace(32, rank, seed).basis
    out = shutil.copytree(edited(folder, basis, alpha), folder.parent / "first", dirs_exist_ok=True)
    assert same(out, edited(folder, random_subspace(rank, rank, seed + 1).basis @ basis, alpha), 3 * ENTRY)
    assert not same(out, edited(folder, random_subspace(32, rank, seed + 2).basis, alpha), 100 * ENTRY)
