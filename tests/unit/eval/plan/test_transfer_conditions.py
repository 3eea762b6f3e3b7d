"""Conditions made of the refusal vectors of one tier: named after it, kept apart from those of all prompts."""

from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner

from eval.cli import main as refusal
from eval.plan.conditions import BASELINE, Condition
from eval.plan.plan import PlanBuilder
from eval.statistics.summaries import sweeps
from surgery.console.errors import ArtifactError
from surgery.organisms.release import write_organism
from surgery.residual.subspace import load_basis
from surgery.residual.vectors import RefusalVectors

TIERS = ("tier 1", "tier 2")


def tagged_vectors(n_layers=4, d_model=16, tags=(*TIERS, "category arts & crafts")):
    generator = torch.Generator().manual_seed(0)
    by_tag = torch.randn(max(1, len(tags)), n_layers, d_model, generator=generator)
    numbers = {"n_pairs": 5, "n_harmful": 5, "n_safe": 5}
    header = {"n_pairs": 10, "tags": [{"tag": tag, **numbers} for tag in tags]}
    return RefusalVectors(by_tag.mean(0), header=header, extras={"by_tag": by_tag} if tags else {})


@pytest.fixture
def plan(tmp_path):
    """The plan of two single vectors and a subspace, of all prompts and of either tier."""
    vectors = tagged_vectors()
    rvs = vectors.save(tmp_path / "rvs.safetensors")
    builder = PlanBuilder(4, 16)
    for tag in ("", *TIERS):
        file = builder.vectors_of_tag(rvs, vectors, tag, tmp_path / "made") if tag else rvs
        builder.single_vectors(file, "1-2", [1.0], tag=tag)
        builder.subspace(file, "1-2", 2, [1.0], "stream", tag=tag)
    return builder.build()


def test_every_tier_has_conditions_of_its_own_that_say_where_they_are_from(plan):
    assert [condition.id for condition in plan.conditions[4:7]] == [
        "rv:L1:tier-1:a1",
        "rv:L2:tier-1:a1",
        "subspace:1-2:tier-1:a1",
    ]
    labels = {condition.id: condition.label for condition in plan.conditions}
    assert labels["rv:L2:tier-2:a1"] == "RV of layer 2, from tier 2" and labels["rv:L2:a1"] == "RV of layer 2"
    assert len({condition.source for condition in plan.conditions}) == 4  # baseline, all, either tier


def test_what_the_engine_reads_spans_the_vectors_of_that_tier_and_no_other(plan):
    plan.save_made()
    vectors = tagged_vectors()
    for tag in TIERS:
        condition = next(c for c in plan.conditions if c.kind == "subspace" and c.tag == tag)
        settings = plan.modules[condition.request["ablation"]]
        basis = load_basis(settings["path"], settings["source_layers"])[0].basis
        for other in TIERS:
            units = vectors.of_tag(other).vectors[1:3]
            left = (units - units @ basis.T @ basis).norm() / units.norm()
            assert (left < 1e-5) == (other == tag)


def test_the_tag_survives_the_record_and_records_without_one_are_as_before(plan):
    tagged = plan.conditions[-1]
    assert Condition.from_json(tagged.to_json()) == tagged and tagged.to_json()["tag"] == "tier 2"
    assert "tag" not in BASELINE.to_json() and Condition.from_json(BASELINE.to_json()) == BASELINE


def test_p_is_adjusted_over_the_layers_of_one_tier(plan):
    families = sweeps(plan.conditions)
    assert sorted(key[3] for key in families) == ["", *TIERS]
    assert all(len(family) == 2 for family in families.values())


def test_categories_make_names_that_files_and_servers_take(tmp_path):
    vectors = tagged_vectors()
    rvs = vectors.save(tmp_path / "rvs.safetensors")
    builder = PlanBuilder(4, 16)
    file = builder.vectors_of_tag(rvs, vectors, "category arts & crafts", tmp_path)
    assert file.name == "rvs-category-arts-crafts.safetensors"
    with pytest.raises(ArtifactError, match="tier 9"):
        builder.vectors_of_tag(rvs, vectors, "tier 9", tmp_path)


@pytest.fixture(scope="module")
def organism(tmp_path_factory):
    return write_organism("distributed", tmp_path_factory.mktemp("organism") / "model")


@pytest.mark.parametrize(
    ("tags", "words", "told"),
    [
        (TIERS, ["--tag", "tier 3"], "the file holds tier 1, tier 2"),
        (("tier 1", "category fraud"), ["--tiers"], "found tier 1; extract"),
        ((), ["--tiers"], "found none"),
    ],
)
def test_a_sweep_over_tiers_that_the_file_does_not_have_is_one_line(organism, tmp_path, tags, words, told):
    vectors = tagged_vectors(8, 128, tags)
    rvs = replace(vectors, header={**vectors.header, "model": {}}).save(tmp_path / "rvs.safetensors")
    command = ["sweep", organism, "--rvs", rvs, "--prompts", organism / "prompts.jsonl", "-o", tmp_path / "run"]
    found = CliRunner().invoke(refusal, [str(word) for word in (*command, *words)])
    assert found.exit_code == 1 and told in found.output and len(found.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()
