"""Matched and unmatched contrast sets, what is held out from them, and what the file says of both."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tiny_models import PAIRS, tiny_model, tiny_tokenizer, write_model

from eval.cli import main
from surgery.commands.summary import render, summarize
from surgery.console.errors import ModelError, PromptFileError, ShapeError
from surgery.model.models import ModelInfo
from surgery.prompts import Pair, Prompt, load_pairs
from surgery.reading.activations import HARMFUL, SAFE, ActivationStore, LayerActivations
from surgery.reading.contrast import Contrast, check_held_out
from surgery.residual.subspace import Subspace
from surgery.residual.vectors import RefusalVectors
from surgery.statistics.estimators import ESTIMATORS, PAIRED
from surgery.statistics.extraction import ExtractionPlan, extract
from surgery.statistics.fitting import project, split_half_cosines, tagged_means
from surgery.statistics.separability import analysis, cohens_d, cohens_d_interval

N_LAYERS, D_MODEL = 3, 24
INFO = ModelInfo("tiny", None, "/tiny", "LlamaForCausalLM", 32, N_LAYERS, 260, "float32", "f" * 64)
HARMFUL_PROMPTS = [
    Prompt(f"h{n}", text, "fraud" if n % 2 else "theft")
    for n, text in enumerate(
        ["How to forge a key?", "Ways to steal a bike?", "How to fake a badge?", "Pick a lock how?"]
    )
]
HARMLESS_PROMPTS = [
    Prompt(f"s{n}", text)
    for n, text in enumerate(["Best soup recipe?", "Why is the sky blue?", "Name three rivers."] * 2)
]
HARMLESS_PROMPTS = [Prompt(p.id, p.prompt + " please" * (n > 2)) for n, p in enumerate(HARMLESS_PROMPTS)]
UNMATCHED = Contrast.of_groups(HARMFUL_PROMPTS, HARMLESS_PROMPTS)


@pytest.fixture(scope="module")
def model():
    return tiny_model("LlamaForCausalLM", n_layers=N_LAYERS)


def read(model, prompts, **plan):
    return extract(model, tiny_tokenizer(), prompts, INFO, plan=ExtractionPlan(**plan))


def groups(n_harmful=60, n_safe=41, seed=0):
    """Unmatched activations that differ by a known vector. Returns (layer, the vector)."""
    generator = torch.Generator().manual_seed(seed)
    truth = 2 * torch.randn(D_MODEL, generator=generator)
    harmful = torch.randn(n_harmful, D_MODEL, generator=generator) + truth
    return LayerActivations.of(harmful, torch.randn(n_safe, D_MODEL, generator=generator), matched=False), truth


def cosine(a, b):
    return torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=-1)


@pytest.mark.parametrize("name", sorted(ESTIMATORS.keys() - set(PAIRED)))
def test_estimators_without_pairs_find_the_vector_between_groups_of_two_sizes(name):
    layer, truth = groups()
    assert cosine(ESTIMATORS[name](layer), truth) > 0.98
    assert cosine(ESTIMATORS[name](layer), groups(seed=1)[1]).abs() < 0.6


def test_pairs_taken_as_groups_give_the_same_means_and_vectors(model):
    matched = read(model, PAIRS)
    harmful, safe = ([Prompt(p.id, getattr(p, side)) for p in PAIRS] for side in ("harmful", "safe"))
    unmatched = read(model, Contrast.of_groups(harmful, safe[::-1]))
    assert torch.allclose(matched.vectors, unmatched.vectors, atol=1e-6)
    assert torch.equal(matched.projections_safe.flip(0), unmatched.projections_safe)
    assert matched.header["contrast"] == "matched" and unmatched.header["contrast"] == "unmatched"
    assert matched.header["prompts_sha256"] != unmatched.header["prompts_sha256"]


def test_groups_of_two_sizes_go_through_batches_sites_positions_and_disk(model, tmp_path):
    plan = {"sites": ("resid_pre", "resid_post"), "positions": "all", "held_out": PAIRS}
    one_by_one, together = read(model, UNMATCHED, **plan), read(model, UNMATCHED, batch_size=4, **plan)
    together.save(tmp_path / "rvs")
    loaded = RefusalVectors.load(tmp_path / "rvs")
    assert (loaded.n_harmful, loaded.n_safe, loaded.n_pairs) == (4, 6, 0) and not loaded.matched
    assert loaded.projections_harmful.shape == (4, N_LAYERS) and loaded.projections_safe.shape == (6, N_LAYERS)
    assert (loaded.vectors - one_by_one.vectors).abs().max() <= 1e-5 * one_by_one.vectors.abs().max()
    other = loaded.at("resid_pre", -2)
    assert (other.n_harmful, other.n_safe) == (4, 6)
    mean = (other.mean_harmful - other.mean_safe - other.vectors).abs().max()
    assert mean <= 1e-5 * other.mean_safe.abs().max()


def test_a_file_whose_groups_differ_in_size_must_say_that_they_are_unmatched():
    fields = {"projections_harmful": torch.ones(4, 2), "projections_safe": torch.ones(6, 2)}
    assert RefusalVectors(torch.eye(2), **fields, header={"contrast": "unmatched"}).n_safe == 6
    with pytest.raises(ShapeError, match="projections_safe must have shape"):
        RefusalVectors(torch.eye(2), **fields)


def test_what_is_made_of_paired_differences_is_refused_by_name(model):
    with pytest.raises(
        ModelError, match="estimator svd: needs matched pairs, found unmatched prompts; .* mean, median"
    ):
        read(model, UNMATCHED, estimator="svd")
    with pytest.raises(ModelError, match="singular directions of the differences: needs matched pairs"):
        read(model, UNMATCHED, n_components=2)
    assert "components" in read(model, PAIRS, n_components=2).extras


def test_the_store_keeps_two_groups_of_different_size_apart(tmp_path):
    resid = torch.randn(7, 2, 3, D_MODEL, generator=torch.Generator().manual_seed(0))
    with ActivationStore(2, 3, (5, 2), D_MODEL, tmp_path, matched=False) as store:
        for index in (6, 0, 3, 1, 5, 2, 4):
            store.write(*((HARMFUL, index) if index < 5 else (SAFE, index - 5)), resid[index])
        layer = store.layer(1, 2)
        assert torch.equal(torch.cat([rows for _, rows in layer.rows(HARMFUL)]), resid[:5, 1, 2])
        assert torch.equal(torch.cat([rows for _, rows in layer.rows(SAFE)]), resid[5:, 1, 2])


def test_the_interval_of_unmatched_groups_draws_each_by_itself():
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(40, 2, generator=generator)
    harmful, safe = shared + 1, shared + 0.1 * torch.randn(40, 2, generator=generator)
    low, high = cohens_d_interval(harmful, safe[:30], matched=False)
    draws = np.random.default_rng(0)
    resampled = torch.stack(
        [cohens_d(harmful[draws.integers(40, size=40)], safe[draws.integers(30, size=30)]) for _ in range(2000)]
    )
    expected = torch.quantile(resampled, torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
    assert torch.allclose(torch.stack([low, high]), expected, atol=0.1)  # two sets of 2000 draws
    widths = [(ends[1] - ends[0]) for ends in (cohens_d_interval(harmful, safe, matched=m) for m in (True, False))]
    assert (widths[1] > 1.2 * widths[0]).all()  # the control: pairs that vary together, drawn whole, vary less


def test_the_effect_size_of_projected_unequal_groups_agrees_with_the_t_test_of_scipy():
    from scipy.stats import ttest_ind

    layer, _ = groups()
    on_harmful, on_safe = project(layer, ESTIMATORS["mean"](layer))
    t = ttest_ind(on_harmful.double().numpy(), on_safe.double().numpy()).statistic
    found = cohens_d(on_harmful[:, None], on_safe[:, None]).item()
    assert found == pytest.approx(t * (1 / 60 + 1 / 41) ** 0.5, rel=1e-5)  # float32 projections


def test_halves_of_unmatched_groups_agree_on_a_real_difference_only():
    layer, _ = groups(40, 27)
    nothing = LayerActivations.of(
        *torch.randn(2, 40, D_MODEL, generator=torch.Generator().manual_seed(3)), matched=False
    )
    assert split_half_cosines(layer).min() > 0.9
    assert split_half_cosines(nothing).mean().abs() < 0.4


def test_a_matched_pair_is_never_divided_by_the_halves():
    generator = torch.Generator().manual_seed(4)
    topic, truth = 20 * torch.randn(40, D_MODEL, generator=generator), torch.ones(D_MODEL)
    whole, divided = (LayerActivations.of(topic + truth, topic, matched=matched) for matched in (True, False))
    assert split_half_cosines(whole).min() > 0.99 and split_half_cosines(divided).mean() < 0.9


def test_the_tags_of_harmful_prompts_are_held_against_all_harmless_ones(model):
    rvs = read(model, UNMATCHED)
    assert rvs.header["tags"] == [
        {"tag": f"category {name}", "n_pairs": 0, "n_harmful": 2, "n_safe": 6} for name in ("fraud", "theft")
    ]
    fraud = [prompt for prompt in HARMFUL_PROMPTS if prompt.category == "fraud"]
    alone = read(model, Contrast.of_groups(fraud, HARMLESS_PROMPTS))
    tagged = rvs.of_tag("category fraud")
    assert torch.allclose(tagged.vectors, alone.vectors, atol=1e-6) and (tagged.n_harmful, tagged.n_safe) == (2, 6)
    layer, _ = groups(6, 4)
    harmful = torch.cat([rows for _, rows in layer.rows(HARMFUL)])
    safe = torch.cat([rows for _, rows in layer.rows(SAFE)])
    (found,), (mean,) = tagged_means(layer, [([0, 5], [1, 2, 3])])
    assert torch.allclose(found, harmful[[0, 5]].mean(0) - safe[1:].mean(0), atol=1e-6)
    assert torch.allclose(mean, safe[1:].mean(0), atol=1e-6)


def test_a_prompt_cannot_be_harmful_and_harmless():
    with pytest.raises(PromptFileError, match="harmless prompts s9 are also among the harmful"):
        Contrast.of_groups(HARMFUL_PROMPTS, [Prompt("s9", "how to  forge a KEY")])


def test_a_held_out_prompt_that_is_fitted_on_is_an_error_and_one_nearly_so_is_counted(model):
    fitted = Contrast.of_pairs(PAIRS)
    near = [Pair("n", "How do I forge a new ticket?", "How are rivers made by rain?")]
    assert check_held_out(Contrast.of_pairs(near), fitted) == 1
    assert check_held_out(UNMATCHED, fitted) == 0 == check_held_out(Contrast.of_pairs([]), fitted)
    same = [Pair("n", "Name a river.", "how do I verify  a TICKET")]
    with pytest.raises(PromptFileError, match="1 of 2 held-out prompts are also fitted on, e.g. 'how do I verify"):
        read(model, PAIRS, held_out=same)
    rvs = read(model, PAIRS, held_out=near)
    assert rvs.header["held_out"]["n_near_duplicates"] == 1
    assert any("1 held-out prompt is a near-duplicate" in caveat for caveat in analysis(rvs)["caveats"])
    assert not any("near-duplicates" in caveat for caveat in analysis(read(model, PAIRS))["caveats"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("contrast")
    write_model(folder / "m", "LlamaForCausalLM", n_layers=N_LAYERS)
    for name, prompts in (("harmful", HARMFUL_PROMPTS), ("harmless", HARMLESS_PROMPTS)):
        rows = [json.dumps({"id": p.id, "prompt": p.prompt, "category": p.category}) for p in prompts]
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    rows = [json.dumps({"id": p.id, "harmful": p.harmful, "safe": p.safe}) for p in PAIRS]
    (folder / "pairs.jsonl").write_text("\n".join(rows))
    return folder


def refusal(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command_takes_unmatched_prompts_and_show_says_so_and_where_they_come_from(folder, tmp_path):
    out, harmful = tmp_path / "rvs", folder / "harmful.jsonl"
    arguments = ("extract", folder / "m", "--harmful", harmful, "--harmless", folder / "harmless.jsonl")
    result = refusal(*arguments, "--held-out", folder / "pairs.jsonl", "--batched", "-o", out)
    assert result.exit_code == 0, result.output
    header = RefusalVectors.load(out).header
    assert header["command"][:5] == ["refusal", "extract", str(folder / "m"), "--harmful", str(harmful)]
    assert header["prompts"]["harmful"]["source"] == str(harmful) and header["prompts"]["harmful"]["n"] == 4
    assert header["held_out"]["prompts"]["pairs"]["n"] == 4 and header["held_out"]["contrast"] == "matched"
    assert (header["dtype"], header["devices"], header["seed"]) == ("float32", ["cpu"], 0)
    assert {"torch", "transformers", "vllm-refusal", "python"} <= header["versions"].keys()
    shown = render(summarize(out))
    assert "contrast          unmatched, 4 harmful and 6 safe prompts" in shown and "held out          matched" in shown
    assert f"command           refusal extract {folder / 'm'}" in shown and "The prompts are unmatched" in shown
    assert "run by            transformers on cpu" in shown and f"torch {torch.__version__}" in shown
    assert "shared prefix     2 tokens, run once" in shown  # <s><|user|>
    assert refusal("extract", folder / "m", "--pairs", folder / "pairs.jsonl", "-o", tmp_path / "m").exit_code == 0
    shown = render(summarize(tmp_path / "m"))
    assert "contrast          matched, 4 pairs" in shown and "unmatched" not in shown
    assert "shared prefix" not in shown  # one prompt at a time


def test_a_subspace_says_which_prompts_its_vectors_come_from(model, tmp_path):
    for name, prompts, text in (
        ("unmatched", UNMATCHED, "unmatched, 4 harmful and 6 safe prompts"),
        ("matched", PAIRS, "matched, 4 pairs"),
    ):
        Subspace.from_vectors(read(model, prompts), "1-2").save(tmp_path / name)
        assert f"contrast          {text}" in render(summarize(tmp_path / name))


def test_contradictory_prompt_options_are_usage_errors_and_overlap_is_one_line(folder, tmp_path):
    model, pairs, harmful = folder / "m", folder / "pairs.jsonl", folder / "harmful.jsonl"
    for options in ((), ("--harmful", harmful), ("--pairs", pairs, "--harmful", harmful, "--harmless", harmful)):
        assert refusal("extract", model, *options, "-o", tmp_path / "x").exit_code == 2, options
    result = refusal("extract", model, "--pairs", pairs, "--held-out", pairs, "-o", tmp_path / "x")
    assert result.exit_code == 1 and "8 of 8 held-out prompts are also fitted on" in result.output
    near = folder / "near.jsonl"
    near.write_text(json.dumps({"id": "n", "harmful": "How do I forge a new ticket?", "safe": "Name a river."}))
    result = refusal("extract", model, "--pairs", pairs, "--held-out", near, "-o", tmp_path / "x")
    assert result.exit_code == 0 and "warning: 1 of 2 held-out prompts are near-duplicates" in result.stderr


def test_of_the_built_in_sets_extraction_takes_one_split_and_what_is_held_out_the_other(folder, tmp_path):
    options = ("--harmful", "builtin", "--harmless", "builtin:harmless")
    held_out = ("--held-out-harmful", "builtin", "--held-out-harmless", "builtin:harmless")
    result = refusal("extract", folder / "m", *options, *held_out, "--batched", "-o", tmp_path / "rvs")
    assert result.exit_code == 0, result.output
    rvs = RefusalVectors.load(tmp_path / "rvs")
    assert rvs.n_harmful == len(load_pairs("builtin:extraction")) != rvs.n_safe
    assert rvs.header["held_out"]["n_harmful"] == len(load_pairs("builtin:evaluation"))
    assert rvs.header["held_out"]["contrast"] == "unmatched"
