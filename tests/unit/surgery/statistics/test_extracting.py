"""Extraction of refusal vectors and their statistics."""

import json

import numpy as np
import pytest
import torch
from tiny_models import PAIRS, tiny_model, tiny_tokenizer

from surgery.console.errors import ArtifactError, MismatchError, ModelError, PromptFileError, ShapeError
from surgery.model.chat import prompt_token_ids
from surgery.model.models import ModelInfo
from surgery.prompts import prompts_sha256
from surgery.reading.activations import LayerActivations
from surgery.residual.vectors import RefusalVectors
from surgery.statistics.cosines import decay_off_diagonal
from surgery.statistics.extraction import extract
from surgery.statistics.fitting import fit
from surgery.statistics.separability import analysis, cohens_d, cosine_matrix

N_LAYERS = 3


@pytest.fixture(scope="module")
def model():
    return tiny_model("LlamaForCausalLM", n_layers=N_LAYERS)


def describe(n_layers=N_LAYERS):
    return ModelInfo("tiny", None, "/tiny", "LlamaForCausalLM", 32, n_layers, 260, "float32", "f" * 64)


@pytest.fixture(scope="module")
def rvs(model):
    return extract(model, tiny_tokenizer(), PAIRS, describe())


def hidden_states(model, text):
    """resid_post at the last prompt token by transformers' own output, [n_layers, d_model]; last layer after the norm."""
    ids = torch.tensor([prompt_token_ids(tiny_tokenizer(), text)])
    with torch.inference_mode():
        return torch.stack(model(input_ids=ids, output_hidden_states=True).hidden_states[1:])[:, 0, -1]


def test_vectors_are_the_difference_of_mean_residuals_at_the_last_prompt_token(model, rvs):
    harmful = torch.stack([hidden_states(model, pair.harmful) for pair in PAIRS]).double()
    safe = torch.stack([hidden_states(model, pair.safe) for pair in PAIRS]).double()
    for layer in range(N_LAYERS - 1):  # transformers gives the last layer only after the final norm
        expected = harmful[:, layer].mean(0) - safe[:, layer].mean(0)
        assert torch.allclose(rvs.vectors[layer].double(), expected, atol=1e-6)  # float32 storage of the means
        assert torch.allclose(rvs.mean_safe[layer].double(), safe[:, layer].mean(0), atol=1e-6)
    assert not torch.allclose(rvs.vectors[0], rvs.vectors[1], atol=1e-2)  # the control: an index off by one would show


def test_the_last_block_is_measured_before_the_final_norm(model, rvs):
    normed = model.model.norm(rvs.mean_harmful[-1])
    assert rvs.n_layers == N_LAYERS and not torch.allclose(normed, rvs.mean_harmful[-1], atol=1e-2)
    one = extract(model, tiny_tokenizer(), PAIRS[:1], describe())
    expected = hidden_states(model, PAIRS[0].harmful)[-1]
    assert torch.allclose(model.model.norm(one.mean_harmful[-1]), expected, atol=1e-5)


def test_projections_lie_on_the_unit_vectors_and_their_means_differ_by_the_norm(rvs):
    difference = rvs.projections_harmful.mean(0) - rvs.projections_safe.mean(0)
    assert torch.allclose(difference, rvs.vectors.norm(dim=1), rtol=1e-4)
    assert rvs.projections_harmful.shape == (len(PAIRS), N_LAYERS)


def test_the_header_says_where_the_vectors_come_from(rvs):
    assert ModelInfo.from_json(rvs.header["model"]) == describe()
    assert rvs.header["prompts_sha256"] == prompts_sha256(PAIRS) and len(rvs.header["chat_template_sha256"]) == 64
    assert (rvs.header["n_pairs"], rvs.header["dtype"], rvs.header["position"]) == (4, "float32", "last prompt token")


def test_extraction_is_deterministic_leaves_no_hooks_and_reports_progress(rvs):
    model, calls = tiny_model("LlamaForCausalLM", n_layers=N_LAYERS), []
    again = extract(model, tiny_tokenizer(), PAIRS, describe(), lambda done, total: calls.append((done, total)))
    assert torch.equal(again.vectors, rvs.vectors)
    assert calls == [(done, 8) for done in range(1, 9)]
    assert not any(block._forward_hooks for block in model.model.layers)


def test_swapping_harmful_and_safe_flips_the_vectors(model, rvs):
    from dataclasses import replace

    swapped = [replace(pair, harmful=pair.safe, safe=pair.harmful) for pair in PAIRS]
    assert torch.allclose(extract(model, tiny_tokenizer(), swapped, describe()).vectors, -rvs.vectors, atol=1e-6)


def test_activations_that_are_not_finite_name_the_layer_and_the_prompt():
    model = tiny_model("LlamaForCausalLM", n_layers=N_LAYERS)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = torch.nan
    with pytest.raises(ModelError, match=r"layer 1: activations on prompt 'p0' \(harmful\) are not finite in float32"):
        extract(model, tiny_tokenizer(), PAIRS, describe())


def test_inputs_that_cannot_give_vectors_are_refused(model):
    with pytest.raises(PromptFileError, match="no prompt pairs"):
        extract(model, tiny_tokenizer(), [], describe())
    with pytest.raises(MismatchError, match="32 and 3"):
        extract(model, tiny_tokenizer(), PAIRS, describe(n_layers=9))
    with pytest.raises(ModelError, match="no chat template"):
        extract(model, tiny_tokenizer(None), PAIRS, describe())
    with pytest.raises(ModelError, match="layer 0: harmful and safe prompts give equal"):
        fit([LayerActivations.of(torch.ones(2, 4), torch.ones(2, 4))])


def test_means_do_not_lose_small_differences_between_large_activations():
    generator = torch.Generator().manual_seed(0)
    harmful, safe = 1000 + torch.randn(2, 4001, 4, generator=generator)
    expected = harmful.numpy().astype(np.float64).mean(0) - safe.numpy().astype(np.float64).mean(0)
    found = fit([LayerActivations.of(harmful, safe)])["vectors"].numpy()
    assert np.abs(found - expected).max() < 1e-7  # stored as float32 near 0.02; a float32 mean near 1000 is off by 3e-5


def test_cohens_d_of_a_worked_example():
    # Group means 4 and 2, sample variances 4 and 1, equal n: pooled SD sqrt(2.5), so d = 2 / sqrt(2.5).
    harmful, safe = torch.tensor([[2.0], [4.0], [6.0]]), torch.tensor([[1.0], [2.0], [3.0]])
    assert cohens_d(harmful, safe).item() == pytest.approx(1.2649110640673518, rel=1e-12)
    assert cohens_d(safe, harmful).item() == pytest.approx(-1.2649110640673518, rel=1e-12)


def test_cohens_d_agrees_with_the_t_statistic_of_scipy_for_unequal_groups():
    from scipy.stats import ttest_ind

    generator = np.random.default_rng(0)
    a, b = generator.normal(1, 2, (9, 5)), generator.normal(0, 1, (4, 5))
    expected = ttest_ind(a, b).statistic * np.sqrt(1 / 9 + 1 / 4)
    assert np.allclose(cohens_d(torch.tensor(a), torch.tensor(b)).numpy(), expected, rtol=1e-12)


def test_cohens_d_without_variance_is_infinite_or_zero_and_needs_two_prompts():
    harmful, safe = torch.tensor([[1.0, 0.0, 5.0]] * 3), torch.tensor([[0.0, 1.0, 5.0]] * 3)
    assert cohens_d(harmful, safe).tolist() == [np.inf, -np.inf, 0.0]
    with pytest.raises(ShapeError, match="at least two prompts a group, found 1 harmful and 3 safe"):
        cohens_d(harmful[:1], safe)
    with pytest.raises(ShapeError, match=r"\[n, n_layers\]"):
        cohens_d(harmful, safe[:, :2])


def test_cosines_and_their_decay_by_layer_distance():
    vectors = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, -3.0]])
    cosine = cosine_matrix(vectors)
    half = 0.5**0.5
    expected = torch.tensor([[1, half, 0], [half, 1, -half], [0, -half, 1]], dtype=torch.float64)
    assert torch.allclose(cosine, expected, atol=1e-12)
    assert torch.allclose(decay_off_diagonal(cosine), torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64), atol=1e-12)
    with pytest.raises(ArtifactError, match="layer 1 is zero"):
        cosine_matrix(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))


def test_the_analysis_is_plain_json_with_its_caveats(rvs):
    found = json.loads(json.dumps(analysis(rvs), allow_nan=False))
    assert [len(found[key]) for key in ("cohens_d", "norms", "cosine", "cosine_by_distance")] == [N_LAYERS] * 4
    assert found["n_pairs"] == 4 and "in-sample" in found["caveats"][0]
    assert found["norms"] == pytest.approx(rvs.vectors.norm(dim=1).tolist(), rel=1e-6)


def test_an_effect_size_that_cannot_be_had_is_null_with_the_reason():
    vectors = torch.eye(2)
    assert analysis(RefusalVectors(vectors))["cohens_d"] == [None, None]
    assert "no projections" in analysis(RefusalVectors(vectors))["caveats"][-1]
    same = torch.tensor([[1.0, 1.0]] * 3)
    constant = RefusalVectors(vectors, projections_harmful=same, projections_safe=same * torch.tensor([0.0, 1.0]))
    assert analysis(constant)["cohens_d"] == [None, 0.0]
    assert "infinite" in analysis(constant)["caveats"][-1]
    one = RefusalVectors(vectors, projections_harmful=same[:1], projections_safe=same[:1])
    assert "at least two pairs" in analysis(one)["caveats"][-1]
