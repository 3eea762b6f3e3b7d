"""The statistical tables and sentences of a report, read back from the pages and CSVs of synthetic runs."""

import dataclasses
import json
import re
import subprocess
import sys

import pytest
from click.testing import CliRunner
from report_pages import Page, read_table
from synthetic_runs import HEURISTIC, OUTCOMES, RunMaker, rv, subspace

from eval.commands.agreement import agreement as agreement_command
from eval.commands.judge import judge as judge_command
from eval.judge.rules.heuristic import HeuristicJudge
from eval.records.rows import SCORED, UNSCORED, Verdict, item_id
from eval.report.documents import Column, PValue, Range, Table, csv_columns, csv_rows, display, sort_key
from eval.report.report import read_results, write_report
from eval.statistics.flips import mcnemar_p

NAME = "tiny-model-table-"


def _report(maker, path):
    """The folder of a run's report, and its page."""
    folder = write_report([maker.write()], path).parent
    return folder, Page((folder / "report.html").read_text(encoding="utf-8"))


def _set_verdicts(maker, condition, values, prompt_set="harmful"):
    """Give a condition these compliances on its first prompts; None is unscored."""
    keys = [item_id(condition.id, prompt_set, f"{prompt_set}-{index}") for index in range(len(values))]
    maker.verdicts = [verdict for verdict in maker.verdicts if verdict.item_id not in keys]
    for key, value in zip(keys, values, strict=True):
        if value is None:
            maker.verdicts.append(Verdict(key, HEURISTIC, UNSCORED, reason="unreadable"))
        else:
            maker.verdicts.append(Verdict(key, HEURISTIC, SCORED, value, 1.0, OUTCOMES[value]))


def _copy_safe_set(maker, name):
    """Ask every condition the safe prompts again, under another set's name, with the same verdicts."""
    verdicts = {verdict.item_id: verdict for verdict in maker.verdicts}
    for row in [row for row in maker.generations if row.prompt_set == "safe"]:
        key = item_id(row.condition_id, name, row.prompt_id)
        maker.generations.append(dataclasses.replace(row, item_id=key, prompt_set=name))
        maker.verdicts.append(dataclasses.replace(verdicts[row.item_id], item_id=key))


# ---------------------------------------------------------------- the best layer


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Eight layers of which the fourth stands out; a subspace; a change in even tiers only."""
    path = tmp_path_factory.mktemp("swept")
    maker = RunMaker(path / "run", n_prompts=40)
    for layer in range(8):
        maker.add(rv(layer), 0.6 if layer == 3 else 0.1)
    maker.add(rv(4, 0.5), 0.2).add(subspace((1, 2)), 0.5)
    _set_verdicts(maker, subspace((1, 2)), [float(index % 2 == 0) for index in range(40)])  # even index: tier 1
    return _report(maker, path / "out")


def test_the_best_layer_is_confirmed_on_prompts_that_took_no_part(swept):
    folder, page = swept
    (row,) = read_table(folder, "tiny-model-confirmation")
    assert row["layer"] == "3" and row["choices"] == "3 (100%)" and row["confirmed_n"] == "20"
    assert float(row["chosen_at"]) - float(row["confirmed"]) == pytest.approx(float(row["optimism"]))
    halves = float(row["chosen_at"]) + float(row["confirmed"])
    assert halves / 2 == pytest.approx(0.6)  # both halves together are all prompts
    assert "Chosen on one half of the prompts, the vector of layer 3 reaches" in page.words
    assert "of the other half, p < .001" in page.words


def test_one_candidate_layer_is_no_choice_to_confirm(tmp_path):
    folder, page = _report(RunMaker(tmp_path / "run").add(rv(3), 0.5), tmp_path / "out")
    assert not (folder / "tables" / "tiny-model-confirmation.csv").exists()
    assert "Chosen on one half" not in page.words and "random half" not in page.words


# ---------------------------------------------------------------- tiers


def test_a_change_in_one_tier_only_is_told_from_changes_in_both(swept):
    folder, page = swept
    rows = {row["condition"]: row for row in read_table(folder, "tiny-model-tier-2-minus-1")}
    one_sided = rows["QR of layers 1-2"]
    assert (float(one_sided["change_tier_1"]), float(one_sided["change_tier_2"])) == (1.0, 0.0)
    assert float(one_sided["difference"]) == -1.0 and float(one_sided["p_adjusted"]) < 0.001
    assert all(float(row["p_adjusted"]) > 0.05 for name, row in rows.items() if name != "QR of layers 1-2")
    assert "permutations of the tier labels" in page.words


def test_a_run_of_one_tier_has_no_tier_contrast(tmp_path):
    maker = RunMaker(tmp_path / "run").add(rv(3), 0.5)
    maker.generations = [dataclasses.replace(row, tier=1) for row in maker.generations]
    folder, page = _report(maker, tmp_path / "out")
    assert not list((folder / "tables").glob("*tier*")) and "tier labels" not in page.words


# ---------------------------------------------------------------- yes or no


def test_full_compliance_and_refusal_are_compared_by_mcnemar(swept):
    folder, page = swept
    row = next(row for row in read_table(folder, "tiny-model-outcomes") if row["condition"] == "RV of layer 3")
    assert float(row["full_p"]) == mcnemar_p(24, 0) and float(row["refused_p"]) == mcnemar_p(0, 24)
    assert float(row["full_p_holm"]) > float(row["full_p"]) and row["full_change_method"] == "bonett-price"
    assert float(row["full_change"]) == pytest.approx(0.6) == -float(row["refused_change"])
    assert "McNemar’s exact test" in page.words


# ---------------------------------------------------------------- prompt sets


def test_an_over_refusal_set_has_its_own_false_refusals(tmp_path):
    maker = RunMaker(tmp_path / "run").add(rv(3), 0.5)
    _copy_safe_set(maker, "overrefusal")
    _set_verdicts(maker, maker.conditions[0], [0.0] * 8 + [1.0] * 12, "safe")
    folder, page = _report(maker, tmp_path / "out")
    row = page.row(f"{NAME}set-overrefusal", "RV of layer 3")
    assert row["refused"].startswith("0.000") and row["Δ refused"].startswith("0.000")
    safe = page.row(f"{NAME}safe", "RV of layer 3")
    assert safe["Δ refused"].startswith("−0.400") and safe["p of refusals"] == display(PValue(mcnemar_p(0, 8)))
    assert "Over-refusal prompts: false refusals and damage" in page.words
    assert (folder / "tables" / "tiny-model-set-overrefusal.csv").is_file()


def test_any_other_set_gets_a_table_that_does_not_call_its_refusals_false(tmp_path):
    maker = RunMaker(tmp_path / "run").add(rv(3), 0.5, safe=None)
    _copy_safe_set(maker, "Held Out/2")
    maker.generations = [row for row in maker.generations if row.prompt_set != "safe"]
    _, page = _report(maker, tmp_path / "out")
    assert page.row(f"{NAME}set-held-out-2", "baseline")["refused"].startswith("0.000")
    assert "Held Out/2 prompts: compliance and refusals" in page.words and "false refusal" not in page.words


def test_a_manifest_may_say_that_a_set_ought_to_be_answered(tmp_path):
    maker = RunMaker(tmp_path / "run", manifest={"prompt_sets": {"borderline": {"role": "safe"}}}).add(rv(3), 0.5)
    _copy_safe_set(maker, "borderline")
    assert "Borderline prompts: false refusals and damage" in _report(maker, tmp_path / "out")[1].words


# ---------------------------------------------------------------- unscored


def test_bounds_are_shown_where_something_is_unscored_and_nowhere_else(tmp_path):
    _, whole = _report(RunMaker(tmp_path / "a").add(rv(3), 0.5).add(rv(4), 0.5), tmp_path / "whole")
    maker = RunMaker(tmp_path / "b").add(rv(3), 0.5).add(rv(4), 0.5)
    _set_verdicts(maker, rv(3), [1.0] * 10 + [None] * 2)
    folder, holed = _report(maker, tmp_path / "holed")
    assert "Δ bounds" not in whole.tables[f"{NAME}single-rvs"][0] and "Δ bounds" not in whole.words
    first, second = read_table(folder, "tiny-model-single-rvs")
    assert float(first["change_bounds_high"]) - float(first["change_bounds_low"]) == pytest.approx(2 / 20)
    assert second["change_bounds_low"] == "" and "had all of them been 0 on one side" in holed.words


def test_significant_is_withheld_when_the_unscored_could_turn_it_round(tmp_path):
    clear, doubtful = RunMaker(tmp_path / "a").add(rv(3)), RunMaker(tmp_path / "b").add(rv(3))
    _set_verdicts(clear, rv(3), [1.0] * 14 + [None] * 6)
    _set_verdicts(doubtful, rv(3), [1.0] * 9 + [None] * 11)
    _set_verdicts(doubtful, doubtful.conditions[0], [0.0] * 9 + [None] * 11)
    for maker, mark in ((clear, ""), (doubtful, " ‡")):
        folder, page = _report(maker, tmp_path / f"out{mark}")
        row = page.row(f"{NAME}single-rvs", "3")
        html = (folder / "report.html").read_text(encoding="utf-8")
        assert row["adjusted p"].endswith("‡") == bool(mark)
        assert ("worst-case bounds cross zero" in page.words) == bool(mark)
        assert ("the unscored responses could turn the change round" in page.words) == bool(mark)
        assert bool(re.search(r"<strong>(&lt; )?\.\d{3}</strong>", html)) != bool(mark)


# ---------------------------------------------------------------- the judge


def test_repeats_of_the_judge_show_how_much_of_the_variance_is_noise(tmp_path):
    maker = RunMaker(tmp_path / "run").add(rv(3), 0.5)
    for index, verdict in enumerate(list(maker.verdicts)):
        value = 0.5 if index % 5 == 0 else verdict.compliance
        outcome = OUTCOMES[value]
        maker.verdicts.append(dataclasses.replace(verdict, compliance=value, outcome=outcome, repeat=1))
    folder, page = _report(maker, tmp_path / "out")
    rows = read_table(folder, "tiny-model-judge-repeats")
    row = next(row for row in rows if row["condition"] == "RV of layer 3" and row["prompt_set"] == "harmful")
    assert (row["n_responses"], row["n_verdicts"]) == ("20", "40")
    assert 0 < float(row["noise_share"]) < 0.2 < float(row["icc"]) < 1 and row["icc_method"] == "f"
    assert "share of several samples or repeats" in page.words


def test_a_run_judged_once_by_one_judge_has_no_section_on_the_judge(swept):
    folder, page = swept
    assert not list((folder / "tables").glob("*judge*")) and "Krippendorff" not in page.words


def test_judges_stand_side_by_side_and_are_not_mixed(tmp_path):
    maker = RunMaker(
        tmp_path / "run", manifest={"judges": {HEURISTIC: {"kind": "heuristic"}, "model-x": {"kind": "llm"}}}
    )
    maker.add(rv(3), 0.5)
    maker.verdicts += [
        dataclasses.replace(verdict, judge_id="model-x", compliance=1.0, outcome="compliance")
        for verdict in list(maker.verdicts)
    ]
    folder, page = _report(maker, tmp_path / "out")
    (row,) = read_table(folder, "tiny-model-judge-agreement")
    assert (row["first"], row["second"], row["n_responses"]) == (HEURISTIC, "model-x", "80")
    assert (float(row["first_mean"]), float(row["second_mean"])) == (pytest.approx(50 / 80), 1.0)
    assert float(row["same"]) == pytest.approx(50 / 80)
    assert page.row(f"{NAME}single-rvs", "3")["compliance"].startswith("1.000")  # one judge's mean, not both'


def test_the_judge_command_prints_the_means_that_the_report_has(tmp_path):
    """Over prompts, whatever number of their samples is scored: (1 + 0.5) / 2, where a mean over responses is 2 / 3."""
    maker = RunMaker(tmp_path / "run", n_prompts=2, judge=HeuristicJudge().judge_id, manifest={"samples": 2})
    first, second = (row for row in maker.generations if row.prompt_set == "harmful")
    declined = "I'm sorry, but I can't help with that."
    maker.generations = [
        dataclasses.replace(row, item_id=f"{row.prompt_id} {sample}", sample=sample, response=text, finish_reason=end)
        for row, sample, text, end in (
            (first, 0, "Take a larger pot, add soil and water it well.", "stop"),
            (first, 1, "<think> Well", "length"),
            (second, 0, "Take a larger pot, add soil and water it well.", "stop"),
            (second, 1, declined, "stop"),
        )
    ]
    maker.verdicts = []
    run = maker.write()
    told = CliRunner().invoke(judge_command, [str(run.path), "--json"])
    (row,) = json.loads(told.stdout)["conditions"]
    (shown,) = read_results([run])[0].harmful
    assert row["compliance"] == shown.compliance.estimate == 0.75
    assert row["coherence"] == shown.means["coherence"].estimate == 1.0
    assert (row["n"], row["n_unscored"]) == (shown.n, shown.n_unscored) == (4, 1)


def test_the_agreement_command_counts_the_repeats_that_the_report_counts(tmp_path):
    maker = RunMaker(tmp_path / "run", n_prompts=4, judge="llm:a")
    again = [dataclasses.replace(row, judge_id="llm:b", repeat=repeat) for row in maker.verdicts for repeat in (0, 1)]
    flip = {0.0: 1.0, 1.0: 0.0}
    maker.verdicts += [
        dataclasses.replace(row, compliance=flip[row.compliance], outcome="other") if row.repeat else row
        for row in again
    ]
    folder, _ = _report(maker, tmp_path / "out")
    (row,) = read_table(folder, "tiny-model-judge-agreement")
    told = json.loads(CliRunner().invoke(agreement_command, [str(tmp_path / "run"), "--json"]).stdout)["pairs"][0]
    assert float(row["alpha_ordinal"]) == told["alpha"] == 1.0
    assert (int(row["n_responses"]), float(row["same"])) == (told["n"], 1.0)


# ---------------------------------------------------------------- pieces


def test_one_condition_is_not_corrected_for_and_several_are(swept, tmp_path):
    _, one = _report(RunMaker(tmp_path / "run").add(rv(3), 0.5), tmp_path / "out")
    assert re.search(r"80 % power by one test\. Smaller", one.words)
    assert "after correction over 8 conditions" in swept[1].words


def test_a_range_has_two_columns_and_no_estimate():
    table = Table("t", "", [Column("a", "a")], [[Range(-0.25, 0.5)], [None]])
    assert display(Range(-0.25, 0.5)) == "[−0.25, 0.50]" and sort_key(Range(-0.25, 0.5)) == -0.25
    assert csv_columns(table) == ["a_low", "a_high"] and csv_rows(table) == [[-0.25, 0.5], ["", ""]]


def test_a_measure_that_is_added_to_the_list_is_in_tables_figures_exports_and_records(tmp_path):
    RunMaker(tmp_path / "run").add(rv(3), 0.5).add(rv(3, 0.5), 0.2).write()
    code = (
        "import eval.records.measures as m\n"
        "care = m.Measure('care', 'care taken', lambda verdict: 0.25)\n"
        "halves = m.Measure('half', 'half done', lambda verdict: verdict.compliance == 0.5, 'prompts', plural=' of halves')\n"
        "m.MEASURES, m.MEANS, m.SHARES = (*m.MEASURES, care, halves), (*m.MEANS, care), (*m.SHARES, halves)\n"
        "m.ON_HARMLESS = (*m.ON_HARMLESS, care)\n"
        "import sys; from pathlib import Path; from eval.report.report import write_report\n"
        "from eval.records.inspect_log import inspect_log; from eval.records.run import Run\n"
        "from eval.studies.audit.findings import _row; from eval.report.report import read_results\n"
        "write_report([sys.argv[1]], sys.argv[2])\n"
        "print(inspect_log(Run.open(sys.argv[1]))['samples'][0]['scores']['heuristic-v1']['value']['care'])\n"
        "print(_row(read_results([sys.argv[1]])[0].safe[0])['care']['estimate'])\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "run"), str(tmp_path / "out")]
    told = subprocess.run(words, capture_output=True, text=True, check=True, timeout=300)
    assert told.stdout.split() == ["0.25", "0.25"]
    (swept,) = read_table(tmp_path / "out", "tiny-model-single-rvs")
    (_, yes_or_no, *_) = read_table(tmp_path / "out", "tiny-model-outcomes")
    (_, safe, *_) = read_table(tmp_path / "out", "tiny-model-safe")
    assert float(swept["care"]) == float(safe["care"]) == 0.25
    assert float(yes_or_no["half"]) == 0 == float(yes_or_no["half_change"]) and yes_or_no["half_p"] == "1.0"
    for figure in ("sweep", "alpha"):
        assert "care taken" in (tmp_path / "out" / "figures" / f"tiny-model-{figure}.svg").read_text()
