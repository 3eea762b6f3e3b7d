"""Projected and affine subspaces on a trained organism whose refusal plain ablation cannot end."""

import pytest
import torch

from surgery.console.errors import ArtifactError
from surgery.model.models import describe_model, load_model, load_tokenizer
from surgery.organisms import behaviour, language, measurement
from surgery.organisms.release import asset, pair_records
from surgery.prompts import Pair, Prompt
from surgery.reading.contrast import Contrast
from surgery.reading.hooks import ablated
from surgery.residual.subspace import Subspace
from surgery.statistics.extraction import ExtractionPlan, extract

N_PROMPTS, LAYER = 16, 4


@pytest.fixture(scope="module")
def plain():
    """The organism `plain` in float32, its tokenizer, and its refusal vectors from 128 pairs."""
    torch.set_num_threads(1)
    info = describe_model(asset("plain"))
    model, tokenizer = load_model(info, "float32"), load_tokenizer(info)
    pairs = [Pair(**record) for record in pair_records(language.extraction_pairs())]
    return model, tokenizer, extract(model, tokenizer, pairs, info, plan=ExtractionPlan(batch_size=64))


def compliance(plain, subspace, layers="all"):
    """Mean compliance on harmful and on safe held-out prompts while a subspace is ablated."""
    model, tokenizer, _ = plain
    prompts = language.held_out_pairs(N_PROMPTS)
    with ablated(model, subspace.basis, 1.0, layers, offset=subspace.offset):
        harmful = measurement.generate(model, tokenizer, [pair.harmful for pair in prompts])
        safe = measurement.generate(model, tokenizer, [pair.safe for pair in prompts])
    scores = (
        [behaviour.check(answer, pair.harmful_task).compliance for answer, pair in zip(harmful, prompts, strict=True)],
        [behaviour.check(answer, pair.safe_task).compliance for answer, pair in zip(safe, prompts, strict=True)],
    )
    return sum(scores[0]) / N_PROMPTS, sum(scores[1]) / N_PROMPTS


def test_ablating_the_vector_itself_ends_no_refusal_here(plain):
    subspace = Subspace.from_vectors(plain[2], LAYER)
    assert compliance(plain, subspace)[0] <= 0.1
    assert compliance(plain, subspace, LAYER) == (0.0, 1.0)


@pytest.mark.parametrize("projection", ["projected", "biprojected"])
def test_a_vector_projected_away_from_the_harmless_mean_ends_them_and_spares_safe_prompts(plain, projection):
    harmful, safe = compliance(plain, Subspace.from_vectors(plain[2], LAYER, projection))
    assert harmful >= 0.9 and safe >= 0.95


def test_moving_to_the_safe_mean_of_its_own_layer_ends_them(plain):
    subspace = Subspace.from_vectors(plain[2], LAYER).towards(plain[2], LAYER)
    harmful, safe = compliance(plain, subspace, LAYER)
    assert harmful >= 0.9 and safe >= 0.95
    elsewhere = Subspace.from_vectors(plain[2], LAYER).towards(plain[2], 0)  # the control: the mean of another layer
    assert compliance(plain, elsewhere, LAYER)[0] <= 0.1


def test_a_projected_basis_leaves_the_mean_it_was_projected_away_from(plain):
    rvs = plain[2]
    own, every, raw = (
        Subspace.from_vectors(rvs, "2-5", projection) for projection in ("projected", "biprojected", None)
    )
    cosine = torch.nn.functional.normalize(rvs.mean_safe, dim=1) @ every.basis.T
    assert cosine.abs().max() < 1e-4 and (own.rank, every.rank) == (4, 4)  # float32 rounding of the stored rows
    one = Subspace.from_vectors(rvs, LAYER, "projected").basis[0]
    assert abs(torch.nn.functional.cosine_similarity(one, rvs.mean_safe[LAYER], dim=0)) < 1e-5
    plain_one = Subspace.from_vectors(rvs, LAYER).basis[0]
    assert abs(torch.nn.functional.cosine_similarity(plain_one, rvs.mean_safe[LAYER], dim=0)) > 0.3
    assert own.header["projection"] == "projected" and raw.header["projection"] is None


def test_the_offset_is_the_coordinates_of_the_safe_mean(plain, tmp_path):
    rvs = plain[2]
    subspace = Subspace.from_vectors(rvs, "3-5").towards(rvs, LAYER)
    assert torch.allclose(subspace.offset, subspace.basis @ rvs.mean_safe[LAYER], atol=1e-4)
    subspace.save(tmp_path / "affine")
    loaded = Subspace.load(tmp_path / "affine")
    assert torch.equal(loaded.offset, subspace.offset) and loaded.header["reference_layer"] == LAYER
    Subspace.from_vectors(rvs, "3-5").save(tmp_path / "linear")
    assert Subspace.load(tmp_path / "linear").offset is None


def test_batched_extraction_equals_sequential_on_a_trained_model(plain):
    model, tokenizer, _ = plain
    pairs = [Pair(**record) for record in pair_records(language.extraction_pairs(24))]
    info = describe_model(asset("plain"))
    one_by_one, together = (
        extract(model, tokenizer, pairs, info, plan=ExtractionPlan(batch_size=size)) for size in (1, 64)
    )
    apart = (one_by_one.vectors - together.vectors).norm(dim=1) / one_by_one.vectors.norm(dim=1)
    assert apart.max() <= 1e-5


def test_what_the_file_does_not_hold_is_an_error(plain):
    from dataclasses import replace

    rvs = plain[2]
    with pytest.raises(ArtifactError, match="holds 0 singular directions a layer, not 2"):
        Subspace.from_vectors(rvs, LAYER, n_components=2)
    bare = replace(rvs, mean_safe=None)
    for make in (
        lambda: Subspace.from_vectors(bare, LAYER, "projected"),
        lambda: Subspace.from_vectors(bare, LAYER).towards(bare, LAYER),
    ):
        with pytest.raises(ArtifactError, match="no mean_safe"):
            make()
    along = replace(rvs, vectors=rvs.mean_safe.clone())
    with pytest.raises(ArtifactError, match="layer 4 lies along the harmless mean"):
        Subspace.from_vectors(along, LAYER, "projected")


def test_matched_and_unmatched_prompts_find_nearly_the_same_vectors_where_one_direction_rules():
    torch.set_num_threads(1)
    info = describe_model(asset("single"))
    model, tokenizer = load_model(info, "float32"), load_tokenizer(info)
    pairs = [Pair(**record) for record in pair_records(language.extraction_pairs())]
    unmatched = Contrast.of_groups(
        [Prompt(pair.id, pair.harmful) for pair in pairs[:70]], [Prompt(pair.id, pair.safe) for pair in pairs[70:]]
    )
    safe = [Prompt(pair.id, pair.safe) for pair in pairs]
    without_harm = Contrast.of_groups(safe[:64], safe[64:])  # the control: two groups that differ in nothing
    found = [
        extract(model, tokenizer, prompts, info, plan=ExtractionPlan(batch_size=64)).vectors
        for prompts in (pairs, unmatched, without_harm)
    ]
    matched, apart, control = (torch.nn.functional.normalize(vectors[3:], dim=1) for vectors in found)
    assert ((matched * apart).sum(1) > 0.99).all() and ((matched * control).sum(1).abs() < 0.7).all()
    assert (found[2][3:].norm(dim=1) < 0.1 * found[0][3:].norm(dim=1)).all()
