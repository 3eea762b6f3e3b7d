"""Transfer between tiers: planted effects are found where they are, noise is called noise."""

from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from made_scores import make_scores
from report_pages import Page, read_table
from synthetic_runs import RunMaker, rv, subspace

from eval.cli import main as refusal
from eval.report.report import read_results, write_report
from eval.statistics.confirmation import choose_on_half, confirm_best
from eval.statistics.transfer import best_single, own_tier_advantages, tier_compliance, unchosen

TIERS = ("tier 1", "tier 2")


def two_tiers(on_lower, on_upper):
    """Scores whose first half are prompts of tier 1."""
    return make_scores([*on_lower, *on_upper], tiers=[1] * len(on_lower) + [2] * len(on_upper))


def share(n, k):
    return [1.0] * k + [0.0] * (n - k)


def test_a_cell_is_the_mean_over_the_prompts_of_its_tier_that_took_no_part_in_the_choice():
    scores = two_tiers(share(20, 10), share(20, 4))
    assert tier_compliance(unchosen("tier 1", scores), 1)[0].estimate == 0.5
    assert tier_compliance(unchosen("tier 1", scores), 2)[0].estimate == pytest.approx(0.2)
    chosen = best_single("tier 1", [two_tiers([0.0] * 20, [0.0] * 20), scores])
    assert chosen.scores is scores and chosen.measured.sum() == 20
    cells = [tier_compliance(chosen, tier)[0] for tier in (1, 2)]
    assert [cell.n for cell in cells] == [10, 10]
    of_tier_1 = chosen.measured & (np.arange(40) < 20)
    assert cells[0].estimate == pytest.approx(scores.compliance[of_tier_1].mean())


def test_the_choice_is_that_of_the_confirmation_and_a_lone_candidate_is_not_chosen():
    rng = np.random.default_rng(0)
    candidates = [make_scores(rng.choice([0.0, 0.5, 1.0], 60), tiers=[1, 2] * 30) for _ in range(6)]
    index, confirming = choose_on_half(candidates)
    confirmed = confirm_best(candidates)
    assert index == confirmed.index
    assert candidates[index].compliance[confirming].mean() == pytest.approx(confirmed.confirmed.estimate)
    assert best_single("", candidates[:1]).measured.all() and best_single("", []) is None


def test_unscored_prompts_are_counted_and_a_tier_without_scores_has_no_number():
    scores = two_tiers([1.0, np.nan, 1.0], [np.nan] * 3)
    lower, upper = (tier_compliance(unchosen("", scores), tier) for tier in (1, 2))
    assert (lower[0].n, lower[1]) == (2, 1)
    assert upper == (None, 3)


def test_vectors_that_work_on_their_own_tier_only_have_an_advantage_there():
    lower = unchosen("tier 1", two_tiers(share(40, 36), share(40, 4)))
    upper = unchosen("tier 2", two_tiers(share(40, 4), share(40, 36)))
    (found,) = own_tier_advantages([(lower, upper)], 1, 2)
    assert found.difference.estimate == pytest.approx(1.6)
    assert (found.lower.estimate, found.upper.estimate) == (pytest.approx(-0.8), pytest.approx(0.8))
    assert found.p < 0.001 and not found.below_detectable
    (swapped,) = own_tier_advantages([(upper, lower)], 1, 2)
    assert swapped.difference.estimate == pytest.approx(-1.6)


def test_a_hard_tier_alone_is_no_advantage():
    rng = np.random.default_rng(1)
    easy, hard = [0.9, 0.1], [0.4, 0.6]

    def drawn():
        return unchosen("", two_tiers(rng.choice([1.0, 0.0], 60, p=easy), rng.choice([1.0, 0.0], 60, p=hard)))

    (found,) = own_tier_advantages([(drawn(), drawn())], 1, 2)
    assert found.p > 0.05 and found.difference.low < 0 < found.difference.high and found.below_detectable


def test_what_does_not_vary_is_still_no_evidence_against_a_difference():
    same = unchosen("", two_tiers([1.0] * 12, [0.0] * 10))
    (found,) = own_tier_advantages([(same, same)], 1, 2)
    assert found.detectable is None and found.least_shown > 0.4 and found.below_detectable


def tagged(condition, tag):
    return replace(condition, id=f"{condition.id}:{tag}", label=f"{condition.label}, from {tag}", tag=tag)


def add_by_tier(maker, condition, on_lower, on_upper):
    """A condition with this share of compliance on the prompts of either tier."""
    maker.add(condition, 0.0)
    n_per_tier = maker.n_prompts // 2
    rates = dict(zip((1, 2), (on_lower, on_upper), strict=True))
    of_condition = [
        row for row in maker.generations if row.condition_id == condition.id and row.prompt_set == "harmful"
    ]
    complied = {
        row.item_id for row in of_condition if int(row.prompt_id.split("-")[1]) // 2 < rates[row.tier] * n_per_tier
    }
    for index, verdict in enumerate(maker.verdicts):
        if verdict.item_id in complied:
            maker.verdicts[index] = replace(verdict, compliance=1.0, outcome="compliance")
    return maker


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Layer 3 works whatever it is from, layer 2 never; subspaces work on the tier they are from only."""
    maker = RunMaker(tmp_path_factory.mktemp("runs") / "run", 80, model="tiny/model")
    for tag in ("", *TIERS):
        for layer, rate in ((2, 0.0), (3, 0.5), (7, 1.0)):
            add_by_tier(maker, tagged(rv(layer), tag) if tag else rv(layer), rate, rate)
        on = {"": (0.9, 0.9), "tier 1": (0.9, 0.1), "tier 2": (0.1, 0.9)}[tag]
        add_by_tier(maker, tagged(subspace((2, 3)), tag) if tag else subspace((2, 3)), *on)
    return maker.write()


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "out"
    write_report([run], out)
    return out


def test_the_matrix_has_a_row_for_every_source_and_a_column_for_every_tier(folder):
    rows = {(row["ablated"], row["source"]): row for row in read_table(folder, "tiny-model-transfer")}
    assert len(rows) == 7
    own, other = rows["QR of layers 2-3", "tier 1"], rows["QR of layers 2-3", "tier 2"]
    assert (float(own["tier_1"]), float(own["tier_2"])) == (pytest.approx(0.9), pytest.approx(0.1))
    assert (float(other["tier_1"]), float(other["tier_2"])) == (pytest.approx(0.1), pytest.approx(0.9))
    assert float(own["tier_1_low"]) < 0.9 < float(own["tier_1_high"]) and own["tier_1_n"] == "40"
    best = rows["best single RV", "tier 2"]
    assert best["layers"] == "3" and 18 <= int(best["tier_1_n"]) <= 22  # of layer 7, the last fifth, no one may choose


def test_the_advantage_of_the_planted_subspaces_is_found_and_that_of_single_vectors_called_noise(folder):
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    name = "tiny-model-table-own-tier-2-1"
    planted, none = page.row(name, "QR of layers 2-3"), page.row(name, "best single RV")
    assert planted["own-tier advantage"].startswith("1.600") and "°" not in planted["own-tier advantage"]
    assert planted["p"] == "< .001"
    assert none["own-tier advantage"].endswith("°") and none["p"] == "1"
    assert "smaller than the detectable difference, 1 of 2 here" in page.words
    assert "so it may be noise" in page.words


def test_what_is_from_a_tier_is_never_taken_for_what_is_from_all_prompts(run):
    (results,) = read_results([run])
    assert [row.condition.tag for row in results.sweep] == [""] * 3
    assert [row.condition.tag for row in results.subspaces] == [""]
    assert results.best_rv.condition == rv(3) and results.best_subspace.condition.tag == ""
    assert [row.condition.source_layers for row in results.candidates_of("tier 2")] == [(2,), (3,)]


def test_the_report_command_prints_the_matrix_and_only_for_runs_that_have_tiers(run, tmp_path):
    found = CliRunner().invoke(refusal, ["report", str(run.path), "-o", str(tmp_path / "a")])
    assert found.exit_code == 0 and "Transfer between tiers" in found.output
    assert any(line.split()[-1] == "40" for line in found.output.splitlines() if "QR of layers 2-3" in line)
    plain = RunMaker(tmp_path / "plain", 20).add(rv(3), 0.5).write()
    found = CliRunner().invoke(refusal, ["report", str(plain.path), "-o", str(tmp_path / "b")])
    assert found.exit_code == 0 and len(found.output.splitlines()) == 1
    assert "Transfer between" not in (tmp_path / "b" / "report.md").read_text(encoding="utf-8")
