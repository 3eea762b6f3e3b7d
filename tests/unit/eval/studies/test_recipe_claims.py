"""Claims against evidence: supported, not supported, or undecided, on both sides of each rule's threshold."""

import pytest
from synthetic_runs import RunMaker, rv, subspace

from eval.report.report import read_results
from eval.statistics.intervals import Interval
from eval.studies.recipes.claims import CANNOT_TELL, CLAIMS, NOT_SUPPORTED, SUPPORTED, Evidence, find_all
from eval.studies.recipes.evidence import gather
from eval.studies.recipes.recipe import Recipe

LAYERS = 8


def between(low, high):
    return Interval((low + high) / 2, low, high, 50, "bca")


LARGE, SMALL = between(2.0, 3.0), between(0.1, 0.4)
CASES = {
    "large-d": (
        {"cohens_d": {0: LARGE, 1: between(0.9, 1.2)}},
        {"cohens_d": {0: LARGE, 1: SMALL}},
        {"cohens_d": {0: LARGE, 1: between(0.6, 1.2)}},
    ),
    "cosine-decays": (
        {"cosine_decay": between(0.35, 0.6), "cosine_near": LARGE, "cosine_far": SMALL},
        {"cosine_decay": between(-0.1, 0.08)},
        {"cosine_decay": between(0.25, 0.6)},
    ),
    "cosine-collapses": (
        {"cosine_late": between(0.72, 0.8), "late_layers": "3-7"},
        {"cosine_late": between(0.2, 0.48)},
        {"cosine_late": between(0.65, 0.8)},
    ),
    "single-plateaus": (
        {"best_single": between(0.1, 0.3)},
        {"best_single": between(0.6, 0.9)},
        {"best_single": between(0.4, 0.6)},
    ),
    "single-suffices": (
        {"best_single": between(0.6, 0.9)},
        {"best_single": between(0.1, 0.3)},
        {"best_single": between(0.4, 0.6)},
    ),
    "subspace-better": (
        {"subspace_gain": between(0.05, 0.3)},
        {"subspace_gain": between(-0.3, -0.05)},
        {"subspace_gain": between(-0.05, 0.3)},
    ),
    "later-layers-add-little": (
        {"wider_gain": between(-0.05, 0.09)},
        {"wider_gain": between(0.15, 0.3)},
        {"wider_gain": between(0.0, 0.2)},
    ),
    "tier2-changes-little": (
        {"tag_change": between(-0.08, 0.08)},
        {"tag_change": between(-0.4, -0.2)},
        {"tag_change": between(-0.2, 0.05)},
    ),
    "alpha-trade-off": (
        {"strength_gain": between(0.2, 0.4), "strength_cost": between(-0.3, -0.1)},
        {"strength_gain": between(0.2, 0.4), "strength_cost": between(0.05, 0.1)},
        {"strength_gain": between(0.2, 0.4), "strength_cost": between(-0.1, 0.1)},
    ),
}


def test_every_claim_has_its_cases():
    assert CASES.keys() == CLAIMS.keys()


@pytest.mark.parametrize("name", CASES)
def test_a_claim_is_decided_only_by_an_interval_on_one_side_of_its_threshold(name):
    verdicts = [find_all([name], Evidence(**evidence))[0].verdict for evidence in CASES[name]]
    assert verdicts == [SUPPORTED, NOT_SUPPORTED, CANNOT_TELL]


def test_a_layer_whose_d_was_not_measured_leaves_the_claim_undecided():
    finding = find_all(["large-d"], Evidence(cohens_d={0: LARGE, 1: None}))[0]
    assert finding.verdict == CANNOT_TELL and "not measured at 1 of 2 layers" in finding.measured
    assert find_all(["large-d"], Evidence(cohens_d={0: SMALL, 1: None}))[0].verdict == NOT_SUPPORTED


def test_a_cosine_between_the_two_thresholds_is_undecided_however_exact_it_is():
    verdicts = [
        find_all(["cosine-decays"], Evidence(cosine_decay=between(0.2, 0.21)))[0].verdict,
        find_all(["cosine-collapses"], Evidence(cosine_late=between(0.6, 0.61)))[0].verdict,
    ]
    assert verdicts == [CANNOT_TELL] * 2


def test_cosines_are_told_with_their_intervals_and_layers():
    evidence = Evidence(cosine_late=between(0.72, 0.8), late_layers="3-7")
    assert find_all(["cosine-collapses"], evidence)[0].measured == (
        "mean cosine 0.76 [0.72, 0.80], n = 50, among layers 3-7"
    )


@pytest.mark.parametrize("name", CASES)
def test_what_was_not_measured_decides_nothing(name):
    finding = find_all([name], Evidence())[0]
    assert finding.verdict == CANNOT_TELL and "not measured" in finding.measured


RECIPE = Recipe(title="t", model="m", subspace="1,2", wider="1,2,5", claims=["large-d"], tag="tier 2")
TAGGED = {"tag": "tier 2"}


def evidence_of(tmp_path, maker):
    maker.write()
    return gather(read_results([maker.path])[0], RECIPE)


def test_evidence_is_read_from_the_run_on_the_prompts_that_did_not_choose(tmp_path):
    from dataclasses import replace

    maker = RunMaker(tmp_path / "run", n_prompts=40, n_layers=LAYERS)
    for layer, rate in ((1, 0.1), (2, 0.2), (7, 1.0)):  # the last layer is no candidate
        maker.add(rv(layer), rate)
        maker.add(replace(rv(layer), id=f"rv:L{layer}:tier-2:a1", **TAGGED), rate + 0.0)
    maker.add(subspace((1, 2), 0.5), 0.1).add(subspace((1, 2), 1.0), 0.7).add(subspace((1, 2), 1.5), 0.8, coherence=0.5)
    maker.add(subspace((1, 2, 5), 1.0), 0.7)
    found = evidence_of(tmp_path, maker)
    assert found.best_single.n == found.subspace_gain.n == 20
    assert 0 < found.best_single.estimate < 0.4 < found.subspace_gain.estimate
    assert found.wider_gain.estimate == found.tag_change.estimate == 0
    assert found.strength_gain.estimate == pytest.approx(0.6) and found.strength_cost.estimate == pytest.approx(-0.5)


def test_a_tag_that_changes_compliance_shows_with_its_sign(tmp_path):
    from dataclasses import replace

    maker = RunMaker(tmp_path / "run", n_prompts=40, n_layers=LAYERS)
    for layer in (1, 2):
        maker.add(rv(layer), 0.2)
        maker.add(replace(rv(layer), id=f"rv:L{layer}:tier-2:a1", **TAGGED), 0.7)
    assert evidence_of(tmp_path, maker).tag_change.estimate == pytest.approx(0.5)


def test_evidence_of_a_run_without_the_conditions_is_missing_and_not_zero(tmp_path):
    found = evidence_of(tmp_path, RunMaker(tmp_path / "run", n_layers=LAYERS).add(rv(1), 0.2))
    missing = (found.subspace_gain, found.wider_gain, found.tag_change, found.strength_gain, found.strength_cost)
    assert missing == (None,) * 5 and not found.cohens_d


@pytest.mark.parametrize("intervals", [None, [], [None] * 3, [[1.0, 3.0]] * 2])
def test_separations_without_intervals_or_of_another_number_are_missing_and_not_a_fault(tmp_path, intervals):
    maker = RunMaker(tmp_path / "run", n_layers=LAYERS).add(rv(1), 0.2)
    statistics = {"n_pairs": 9, "cohens_d": [2.0, 2.0, 2.0]}
    maker.manifest["analysis"] = statistics | ({} if intervals is None else {"cohens_d_interval": intervals})
    found = evidence_of(tmp_path, maker)
    assert sorted(found.cohens_d) == [0, 1, 2]
    known = [layer for layer, d in found.cohens_d.items() if d]
    assert known == [layer for layer, pair in enumerate(intervals or []) if pair]
