"""Edits of a loaded model: equal to the checkpoint, and undone bit for bit."""

import pytest
import torch
from tiny_models import tiny_model, write_model

from surgery.console.errors import AlphaError, ArtifactError, LayerRangeError, ModelError, ShapeError
from surgery.model.models import describe_model, load_model
from surgery.residual.subspace import random_subspace
from surgery.weights.checkpoint import orthogonalize
from surgery.weights.inplace import orthogonalized

LLAMA = "LlamaForCausalLM"
BASIS = random_subspace(32, 4, seed=4).basis


def bits(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(model, before):
    now = model.state_dict()
    return now.keys() == before.keys() and all(torch.equal(now[name], before[name]) for name in before)


def changed(now, before):
    return {name for name in before if not torch.equal(now[name], before[name])}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [False, True])
def test_the_weights_are_those_of_the_checkpoint(tmp_path, dtype, tied):
    folder = write_model(tmp_path / "m", LLAMA, dtype, tied=tied)
    orthogonalize(describe_model(folder), BASIS, 1.5, tmp_path / "out", "1", embeddings=True)
    model, checkpoint = (load_model(describe_model(path)) for path in (folder, tmp_path / "out"))
    before, written = bits(model), bits(checkpoint)
    with orthogonalized(model, BASIS, 1.5, "1", embeddings=True) as n_edited:
        edited = bits(model)
    assert changed(edited, before) == changed(written, before) and len(changed(edited, before)) == n_edited == 5
    for name in edited:  # float32 sums depend on the alignment of memory: a tie may be rounded the other way
        assert torch.allclose(edited[name], written[name], rtol=2 * torch.finfo(dtype).eps, atol=1e-6)
    assert same(model, before)


def test_a_tied_unembedding_keeps_its_values_and_is_tied_again():
    model = tiny_model("Qwen2ForCausalLM", tied=True)
    before, shared = bits(model), model.lm_head.weight
    with orthogonalized(model, BASIS, embeddings=True):
        assert torch.equal(model.lm_head.weight, before["lm_head.weight"])
        assert not torch.equal(model.model.embed_tokens.weight, before["model.embed_tokens.weight"])
    assert model.lm_head.weight is shared is model.model.embed_tokens.weight and same(model, before)


def test_without_embeddings_a_tied_pair_stays_tied():
    model = tiny_model("Qwen2ForCausalLM", tied=True)
    with orthogonalized(model, BASIS) as n_edited:
        assert model.lm_head.weight is model.model.embed_tokens.weight and n_edited == 4


def test_weights_are_restored_after_an_exception_too():
    model = tiny_model(LLAMA).to(torch.float16)
    before = bits(model)
    with pytest.raises(KeyError), orthogonalized(model, BASIS):
        assert not same(model, before)
        raise KeyError
    assert same(model, before)
    with pytest.raises(ModelError, match=r"not finite.*alpha 1e\+06"), orthogonalized(model, BASIS, 1e6):
        pass
    assert same(model, before)


def test_what_cannot_be_edited_is_refused_before_anything_is():
    model = tiny_model(LLAMA)
    before = bits(model)
    for arguments, error in (
        ((BASIS, float("nan")), AlphaError),
        ((BASIS * 2,), ArtifactError),
        ((torch.eye(8)[:1],), ShapeError),
        ((BASIS, 1.0, "2"), LayerRangeError),
    ):
        with pytest.raises(error), orthogonalized(model, *arguments):
            pass
    for other, message in ((tiny_model(LLAMA).double(), "float64"), (tiny_model(LLAMA).to("meta"), "not in memory")):
        with pytest.raises(ModelError, match=message), orthogonalized(other, BASIS):
            pass
    assert same(model, before)
