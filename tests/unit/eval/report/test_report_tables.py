"""The numbers of a report: synthetic runs whose numbers are known, read back from page and CSV."""

import re
from dataclasses import replace

import pytest
from click.testing import CliRunner
from report_pages import Page, read_table, write_two_organisms
from synthetic_runs import HEURISTIC, RunMaker, checkpoint, distributed_like, random_control, rv, single_like, subspace

from eval.commands.judge import judge as judge_command
from eval.judge.endpoint.client import JudgeClient
from eval.judge.endpoint.endpoint_judge import EndpointJudge
from eval.judge.endpoint.fallback import FallbackJudge
from eval.judge.endpoint.guards import GUARDS
from eval.judge.endpoint.presets import REFUSAL_3WAY
from eval.judge.endpoint.rubric import STANDARD, Rubric
from eval.judge.judging import judge_run
from eval.judge.rules.heuristic import HeuristicJudge
from eval.plan.conditions import Condition
from eval.records.rows import SCORED, Verdict, item_id
from eval.report.chapter import make_chapter
from eval.report.console import headline
from eval.report.documents import Cell, Column, PValue, Table, csv_columns, csv_rows, display
from eval.report.planted import PlantedFacts
from eval.report.report import read_results, write_report
from eval.statistics.intervals import Interval
from eval.statistics.scores import ScoredRun


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The report of a single-direction and a distributed run."""
    return write_two_organisms(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def page(folder):
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def test_the_contrast_of_both_models_comes_first(page):
    assert next(iter(page.tables)) == "table-contrast"
    single, distributed = (
        page.row("table-contrast", "organisms/single"),
        page.row("table-contrast", "organisms/distributed"),
    )
    assert single["best single RV"].startswith("1.000 [0.97, 1.00]") and "layer 3" in single["best single RV"]
    assert distributed["best single RV"].startswith("0.070") and distributed["best subspace"].startswith("0.727")
    assert "planted ground truth" in single["model"]


def test_the_headline_says_whether_one_direction_is_enough(page):
    assert "subspace of layers 1,3,5-6 (rank 4) reaches 0.727" in page.words
    assert "does not rest on that one direction alone" in page.words  # distributed
    assert "the subspace adds nothing that this sample can show" in page.words  # single


def test_an_excluded_layer_is_shown_and_marked_but_never_the_best(folder, page):
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert page.row("organisms-distributed-table-single-rvs", "7")["compliance"].startswith("0.922")
    assert "RV of layer 7" not in page.row("table-contrast", "organisms/distributed")["best single RV"]
    assert len(re.findall(r'<tr class="muted"><td class="number" data-sort="7">', html)) == 2  # one per run


def test_planted_numbers_stand_beside_measured_ones(page):
    row = page.row("organisms-distributed-table-single-rvs", "3")
    assert row["planted"] == "0.030" and row["compliance"].startswith("0.039")
    assert page.row("organisms-distributed-table-subspaces", "baseline")["planted"] == "0.000"
    assert "not a fact about real models" in page.words


def test_a_run_without_ground_truth_has_no_planted_column(tmp_path):
    run = RunMaker(tmp_path / "run").add(rv(3), 0.5).write()
    page = Page(write_report([run], tmp_path / "out").read_text(encoding="utf-8"))
    assert "planted" not in page.words
    assert "planted" not in page.tables["tiny-model-table-single-rvs"][0]


def test_answers_cut_inside_their_reasoning_are_out_of_every_mean_and_counted(tmp_path):
    maker = RunMaker(tmp_path / "run", judge=HeuristicJudge().judge_id).add(rv(3), 1.0)
    maker.verdicts = []
    *others, a, b = maker.generations
    cut = [replace(row, response="<think> Well, the", finish_reason="length") for row in (a, b)]
    maker.generations = [*others, *cut]
    run = maker.write()
    judge_run(run, HeuristicJudge())
    assert cut[0].prompt_set == "safe"
    row = next(row for row in read_results([run])[0].safe if row.condition.kind == "rv")
    assert (row.n_scored, row.reasons, row.compliance.estimate) == (18, {"cut in reasoning": 2}, 1.0)
    told = CliRunner().invoke(judge_command, [str(run.path)])
    assert "78 scored, 2 unscored (2 cut in reasoning)" in told.stderr
    page = Page(write_report([run], tmp_path / "out").read_text(encoding="utf-8"))
    shown = page.row("tiny-model-table-unscored", "RV of layer 3")
    assert (shown["reason"], shown["responses"]) == ("cut in reasoning", "2")


def test_unscored_responses_are_shown_with_their_reason(page):
    row = page.row("organisms-distributed-table-single-rvs", "2")
    assert row["scored"] == "125 / 128"
    assert page.row("organisms-distributed-table-unscored", "RV of layer 2")["reason"] == "unreadable"
    assert page.row("organisms-distributed-table-single-rvs", "1")["scored"] == "128 / 128"


def test_a_condition_without_any_score_is_a_row_without_numbers(tmp_path):
    run = RunMaker(tmp_path / "run").add(rv(3), 1.0, n_unscored=20).add(rv(4), 0.5).write()
    page = Page(write_report([run], tmp_path / "out").read_text(encoding="utf-8"))
    row = page.row("tiny-model-table-single-rvs", "3")
    assert (row["scored"], row["compliance"], row["adjusted p"]) == ("0 / 20", "–", "–")
    assert page.row("tiny-model-table-single-rvs", "4")["compliance"].startswith("0.500")


def test_every_table_with_verdicts_names_its_judge(folder):
    for path in (folder / "tables").glob("*.csv"):
        rows = read_table(folder, path.stem)
        if not path.stem.endswith(("-layers", "-stages")):
            assert {row["judge"] for row in rows} == {f"heuristic judge ({HEURISTIC})"}, path.name


def test_the_csv_has_full_precision_and_intervals(folder):
    row = next(row for row in read_table(folder, "organisms-distributed-single-rvs") if row["layer"] == "2")
    assert float(row["compliance"]) == pytest.approx(3 / 125)
    assert float(row["compliance_low"]) < 3 / 125 < float(row["compliance_high"])
    assert (row["n"], row["n_scored"], row["n_unscored"], row["compliance_n"]) == ("128", "125", "3", "125")
    constant = next(row for row in read_table(folder, "organisms-distributed-single-rvs") if row["layer"] == "0")
    assert constant["compliance_method"] == "exact" and row["compliance_method"] == "bca"


def test_runtime_on_the_writes_agrees_with_the_checkpoint_and_the_stream_does_not(page):
    heads, *rows = page.tables["organisms-distributed-table-checkpoint"]
    writes, stream = (dict(zip(heads, row, strict=True)) for row in rows)
    assert (writes["runtime site"], writes["same verdict"][:5], writes["same text"]) == ("writes", "1.000", "1.000")
    assert stream["runtime site"] == "stream" and stream["same verdict"].startswith("0.930")


def test_strengths_tiers_categories_safe_prompts_and_controls_have_their_tables(page):
    alphas = [row[2] for row in page.tables["organisms-distributed-table-alpha"][1:]]
    assert alphas == ["0.5", "1", "1.5"]
    assert page.tables["organisms-distributed-table-by-tier"][0][-2:] == ["tier 1", "tier 2"]
    assert page.tables["organisms-distributed-table-by-category"][0][-3:] == ["fraud", "mischief", "theft"]
    assert page.row("organisms-distributed-table-safe", "QR of layers 1,3,5-6")["refused"].startswith("0.000")
    assert page.row("organisms-distributed-table-random", "random, rank 4")["compliance"] == "0.000 [0.00, 0.03]"


def test_the_detectable_difference_and_the_stages_are_given(page):
    assert re.search(r"With 125 prompts .* difference in compliance of 0\.\d\d is found with 80 % power", page.words)
    assert page.row("organisms-single-table-stages", "generate")["seconds"] == "41.5"


def _shown(results):
    """The compliance intervals that stand in the tables of a run's chapter, by identity."""
    tables = [table for section in make_chapter(results, "run").sections for table in section.tables]
    values = [cell for table in tables for cells in table.rows for cell in cells]
    return {id(value.value if isinstance(value, Cell) else value) for value in values}


NAMED = Condition("named:own", "named", "own", 1.0, 2, site="stream")


@pytest.mark.parametrize(
    "conditions",
    [
        [rv(layer) for layer in range(3)] + [replace(rv(n), id=f"at{n}", layers="2-3") for n in range(3)],
        [rv(0), replace(rv(0), id="from", tag="tier 2"), replace(rv(1), id="there", tag="theft", layers="1")],
        [replace(rv(0), id="only", tag="theft")],
        [rv(0), rv(1), rv(0, 0.5), replace(rv(1, 0.5), id="half there", layers="2")],
        [NAMED, checkpoint((1, 2))],
        [checkpoint((1, 2))],
        [subspace((1, 2)), checkpoint((1, 2)), checkpoint((1, 3)), random_control(2)],
    ],
    ids=["second layers", "tags", "only a tag", "strengths", "beside a named one", "alone", "one paired"],
)
def test_every_condition_on_harmful_prompts_has_its_compliance_in_a_table(tmp_path, conditions):
    maker = RunMaker(tmp_path / "run")
    for number, condition in enumerate(conditions, 1):
        maker.add(condition, number / 20)
    (results,) = read_results([maker.write()])
    shown = _shown(results)
    assert [row.condition.id for row in results.harmful if id(row.compliance) not in shown] == []


def test_a_vector_at_other_layers_is_named_with_them(tmp_path):
    maker = RunMaker(tmp_path / "run").add(rv(3), 0.5).add(replace(rv(3), id="there", layers="2-3"), 0.75)
    page = Page(write_report([maker.write()], tmp_path / "out").read_text(encoding="utf-8"))
    assert page.row("tiny-model-table-other-rvs", "RV of layer 3, at layers 2-3")["compliance"].startswith("0.750")
    assert not any("tiny-model-table-other-rvs" in name for name in _page_without(tmp_path).tables)


def _page_without(path):
    run = RunMaker(path / "without").add(rv(3), 0.5).write()
    return Page(write_report([run], path / "page").read_text(encoding="utf-8"))


def _judged_twice(path):
    """Every response refused by the heuristic judge, complied by the language model."""
    run = RunMaker(path).add(rv(3), 0.0).write()
    run.manifest.judges["model-x"] = {"kind": "llm", "model": "big-model", "rubric_version": "1"}
    run.save_manifest()
    keys = [row.item_id for row in run.generations()]
    run.append_verdicts(Verdict(key, "model-x", SCORED, 1.0, 1.0, "compliance") for key in keys)
    return run


def test_a_language_model_judge_is_preferred_and_never_mixed_with_the_heuristic_one(tmp_path):
    run = _judged_twice(tmp_path / "run")
    preferred = Page(write_report([run], tmp_path / "a").read_text(encoding="utf-8"))
    heuristic = Page(write_report([run], tmp_path / "b", judge_id=HEURISTIC).read_text(encoding="utf-8"))
    assert preferred.row("tiny-model-table-single-rvs", "3")["compliance"].startswith("1.000")
    assert heuristic.row("tiny-model-table-single-rvs", "3")["compliance"].startswith("0.000")
    assert "LLM judge big-model, rubric 1 (model-x)" in preferred.words and "Verdicts: heuristic" not in preferred.words
    assert "Verdicts: heuristic judge (heuristic-v1)" in heuristic.words and "LLM judge" not in heuristic.words


def test_the_label_of_a_judge_tells_its_rubric_its_guard_and_its_fallback_apart(tmp_path):
    reader, second = (JudgeClient(f"http://127.0.0.1:{port}/v1") for port in (8, 9))
    rubrics = [
        STANDARD,
        REFUSAL_3WAY,
        *(Rubric(name="own", version=0, text=text) for text in ("One reading.", "Another reading.")),
    ]
    judges = [EndpointJudge("reader", reader, question=rubric) for rubric in rubrics]
    judges += [
        EndpointJudge("reader", reader, GUARDS["wildguard"]),
        FallbackJudge(judges[0], EndpointJudge("second", second)),
    ]
    run = RunMaker(
        tmp_path / "run", manifest={"judges": {judge.judge_id: judge.describe() for judge in judges}}
    ).write()
    labels = [ScoredRun(run, judge.judge_id).judge_label for judge in judges]
    assert len(set(labels)) == 6
    assert labels[0].startswith("LLM judge reader, rubric standard 1 (llm:reader-")
    assert labels[1].startswith("LLM judge reader, rubric refusal-3way 1 (llm:reader/refusal-3way-")
    assert labels[4].startswith("guard reader, rubric wildguard 1 (guard:reader/wildguard-")
    assert labels[5].startswith("LLM judge reader, else second, rubric standard 1 (llm:reader+second-")


def test_the_headline_for_a_terminal_gives_the_contrast(tmp_path):
    runs = [single_like(tmp_path / "s", 20).write().path, distributed_like(tmp_path / "d", 20).write().path]
    single, distributed, judge = headline(runs).splitlines()
    assert "best single RV 1.000" in single and "best subspace 0.750" in distributed
    assert judge.endswith("heuristic judge (heuristic-v1).")


def test_the_best_layer_is_taken_from_the_reference_strength(tmp_path):
    run = RunMaker(tmp_path / "run").add(rv(3), 0.5).add(rv(4, 1.5), 1.0).add(rv(7), 1.0).add(rv(2), 0.2).write()
    (results,) = read_results([run])
    assert results.alpha == 1.0 and results.best_rv.condition == rv(3)
    assert [row.condition.source_layers for row in results.sweep] == [(2,), (3,), (7,)]


def test_what_was_chosen_on_the_same_prompts_says_so(tmp_path):
    maker = RunMaker(tmp_path / "run").add(subspace((1, 2)), 0.5).add(subspace((1, 2, 3)), 0.8)
    for layer in range(6):
        maker.add(rv(layer), 0.0)
    for index in range(18):  # three layers, each with six prompts of its own: any of them may look best by chance
        key = item_id(rv(index // 6).id, "harmful", f"harmful-{index}")
        maker.verdicts.append(Verdict(key, HEURISTIC, SCORED, 1.0, 1.0, "compliance"))
    run = maker.write()
    (results,) = read_results([run])
    page = Page(write_report([run], tmp_path / "out").read_text(encoding="utf-8"))
    assert "highest of 6 candidate layers, so biased upwards" in page.words and "the highest of 2 tried" in page.words
    assert results.best_rv.p_adjusted > results.best_rv.p + 0.01
    assert page.row("tiny-model-table-subspaces", "RV of layer 0")["p"] == display(PValue(results.best_rv.p_adjusted))


def test_planted_facts_are_matched_on_span_strength_and_site():
    row = {
        "kind": "subspace",
        "layers": [1, 3],
        "alpha": 1.0,
        "rank": 2,
        "harmful_compliance": 0.7,
        "safe_compliance": 1.0,
    }
    edited = row | {"kind": "weights", "harmful_compliance": 0.6}
    facts = PlantedFacts({"conditions": {"qr-1-3": row, "weights-1-3": edited}})
    assert facts.compliance(subspace((1, 3)), "harmful") == 0.7
    assert (
        facts.compliance(subspace((1, 3), site="writes"), "harmful")
        == 0.6
        == facts.compliance(checkpoint((1, 3)), "harmful")
    )
    assert facts.compliance(subspace((1, 3), 0.5), "harmful") is None
    assert facts.compliance(subspace((1, 4)), "harmful") is None and facts.compliance(rv(1), "harmful") is None
    assert facts.compliance(random_control(2), "harmful") is None and not PlantedFacts(None)


def test_a_missing_value_keeps_the_csv_rectangular():
    table = Table("t", "", [Column("a", "a"), Column("b", "b")], [[None, 1], [Interval(0.5, 0.4, 0.6, 9, "bca"), None]])
    assert csv_columns(table) == ["a", "a_low", "a_high", "a_n", "a_method", "b"]
    assert csv_rows(table) == [["", "", "", "", "", 1], [0.5, 0.4, 0.6, 9, "bca", ""]]


def test_conditions_at_a_subset_of_the_layers_are_named_so_and_are_not_the_reference(tmp_path):
    part = replace(rv(3), id="rv:L3:a1:at2-5", layers="2-5")
    wide, narrow = subspace((1, 2)), replace(subspace((1, 2)), id="subspace:1-2:a1:at2-5", layers="2-5")
    edited = replace(checkpoint((1, 2)), id="adapter:1-2:a1:at2-5", kind="adapter", layers="2-5")
    maker = RunMaker(tmp_path / "run").add(rv(2), 0.1).add(rv(3), 0.2).add(part, 0.9)
    run = maker.add(wide, 0.3).add(narrow, 0.8).add(edited, 0.8).write()
    (results,) = read_results([run])
    assert results.best_rv.condition == rv(3) and results.best_subspace.condition == wide
    assert results.checkpoint_pairs == [(narrow, edited)]
    page = Page(write_report([run], tmp_path / "out").read_text(encoding="utf-8"))
    assert page.row("tiny-model-table-subspaces", "QR of layers 1-2, at layers 2-5")["compliance"].startswith("0.800")
    assert page.row("tiny-model-table-checkpoint", "layers 1-2, at layers 2-5 (adapter)")["same verdict"][:5] == "1.000"
    assert [row[0] for row in page.tables["tiny-model-table-single-rvs"][1:]] == ["2", "3"]


def test_samples_that_the_run_asks_for_and_lacks_are_counted_as_missing(tmp_path):
    run = RunMaker(tmp_path / "run", manifest={"samples": 2}).add(rv(3), 0.5).write()
    page = Page(write_report([run], tmp_path / "out").read_text(encoding="utf-8"))
    assert page.row("tiny-model-table-single-rvs", "3")["scored"] == "20 / 40"
    assert page.row("tiny-model-table-unscored", "RV of layer 3")["reason"] == "not generated"


@pytest.mark.parametrize(
    ("model", "name"),
    [("/data/models/small", "small"), ("out/single/small", "small"), ("org/small", "org/small"), ("small", "small")],
)
def test_a_model_is_named_by_its_hub_id_or_by_the_last_part_of_its_folder(tmp_path, model, name):
    run = RunMaker(tmp_path / "run", model=model).add(rv(3), 0.5).write()
    assert read_results([run])[0].model_name == name
