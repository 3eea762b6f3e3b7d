"""The report of synthetic runs whose numbers are known: read back from HTML, Markdown and CSV."""

import csv
import json
import re
from html.parser import HTMLParser

import pytest
from click.testing import CliRunner
from synthetic_runs import HEURISTIC, RunMaker, checkpoint, distributed_like, random_control, rv, single_like, subspace

from eval.intervals import Interval
from eval.records import SCORED, Verdict, item_id
from eval.report.browser import embed_json
from eval.report.commands import headline, report
from eval.report.documents import Cell, Column, Count, Measured, PValue, Table, csv_columns, csv_rows, display, sort_key
from eval.report.html import escape_markdown, html_cell
from eval.report.planted import PlantedFacts
from eval.report.report import read_results, write_report
from eval.scores import JudgeChoiceError, NoScoresError
from surgery.errors import ArtifactError, OutputExistsError

QUARTET = (1, 3, 5, 6)
INJECTION = "</script><script>window.injected = true</script><img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """What a browser would see: visible text, tables by anchor, the embedded data, tags and links."""

    def __init__(self, html):
        super().__init__()
        self.tables, self.tags, self.attributes, self.text = {}, [], [], []
        self._anchor, self._row, self._in_cell, self._skip, self._data = "", None, False, "", []
        self.feed(html)
        self.data = json.loads("".join(self._data))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs.items()]
        if tag == "div" and attrs.get("class") == "table":
            self._anchor = attrs["id"]
            self.tables[self._anchor] = []
        if tag in ("script", "style"):
            self._skip = attrs.get("id", tag)
        if tag == "tr":
            self._row = []
            self.tables[self._anchor].append(self._row)
        if tag in ("td", "th"):
            self._in_cell = True
            self._row.append("")

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self._skip = ""
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data):
        if self._skip == "data":
            self._data.append(data)
        elif not self._skip:
            self.text.append(data)
            if self._in_cell:
                self._row[-1] += data

    def row(self, table, first):
        """The row of a table that starts with this cell, as {head: cell}."""
        heads, *rows = self.tables[table]
        return next(dict(zip(heads, row, strict=True)) for row in rows if row[0].startswith(first))

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The report of a single-direction and a distributed run."""
    path = tmp_path_factory.mktemp("report")
    runs = [single_like(path / "single").write(), distributed_like(path / "distributed").write()]
    write_report(runs, path / "out")
    return path / "out"


@pytest.fixture(scope="module")
def page(folder):
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def _csv(folder, name):
    with open(folder / "tables" / f"{name}.csv", encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


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
        rows = _csv(folder, path.stem)
        if not path.stem.endswith(("-layers", "-stages")):
            assert {row["judge"] for row in rows} == {f"heuristic judge ({HEURISTIC})"}, path.name


def test_the_csv_has_full_precision_and_intervals(folder):
    row = next(row for row in _csv(folder, "organisms-distributed-single-rvs") if row["layer"] == "2")
    assert float(row["compliance"]) == pytest.approx(3 / 125)
    assert float(row["compliance_low"]) < 3 / 125 < float(row["compliance_high"])
    assert (row["n"], row["n_scored"], row["n_unscored"], row["compliance_n"]) == ("128", "125", "3", "125")
    constant = next(row for row in _csv(folder, "organisms-distributed-single-rvs") if row["layer"] == "0")
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


def test_the_page_needs_no_network_and_no_other_file(folder, page):
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|url\((?!#)|@import|src=", html.replace(json.dumps(page.data), ""))
    links = [value for tag, name, value in page.attributes if name in ("href", "xlink:href")]
    assert links and all(link.startswith(("#", "data:")) for link in links)
    assert page.tags.count("svg") == 8


def test_anchors_are_unique_and_every_link_has_its_target(page):
    ids = [value for _, name, value in page.attributes if name == "id"]
    targets = [
        value[1:] for tag, name, value in page.attributes if name == "href" and value.startswith("#") and tag == "a"
    ]
    assert len(ids) == len(set(ids))
    assert set(targets) <= set(ids)


def test_text_in_figures_stays_text_and_follows_the_page_colours(folder):
    html = (folder / "report.html").read_text(encoding="utf-8")
    figure = html[html.index('id="organisms-distributed-figure-sweep"') :].split("</figure>")[0]
    assert ">source layer of the refusal vector</text>" in figure
    assert "var(--compliance)" in figure and "#d55e00" not in figure
    alone = (folder / "figures" / "organisms-distributed-sweep.svg").read_text(encoding="utf-8")
    assert "#d55e00" in alone and 'xmlns="http://www.w3.org/2000/svg"' in alone


def test_markup_in_model_output_stays_text(tmp_path):
    maker = RunMaker(tmp_path / "run", model=f"x{INJECTION}").add(rv(3), 0.5, response=INJECTION)
    maker.manifest = {"command": INJECTION, "stages": {INJECTION: 1.0}}
    path = write_report([maker.write()], tmp_path / "out")
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    assert INJECTION in page.data["texts"]  # the response is there, whole
    assert page.tags.count("script") == 2 and "img" not in page.tags and "<script>window" not in html
    assert "<script>" not in (path.parent / "report.md").read_text(encoding="utf-8").replace("\\<", "")


@pytest.mark.parametrize("text", ["</script>", "<!--<script>", "\u2028\u2029", "\ud83d", 'a"b\\c', "é中"])
def test_embedded_json_reads_back_and_cannot_close_its_script(text):
    embedded = embed_json({"text": text})
    assert "<" not in embedded and "\u2028" not in embedded
    assert json.loads(embedded)["text"] == text.encode("utf-8", "replace").decode()


def test_the_response_browser_holds_every_response_with_equal_texts_once(page):
    single, distributed = page.data["runs"]
    assert len(distributed["answers"]) == 16 * 256 and len(distributed["conditions"]) == 16
    assert len(page.data["texts"]) == len(set(page.data["texts"])) < 20
    assert single["conditions"][0]["kind"] == "baseline" and distributed["best"] == subspace(QUARTET).id


def test_markdown_has_the_same_numbers_and_links_its_figures(folder):
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert "0.727 \\[0.64, 0.80\\]" in text
    figures = re.findall(r"\]\((figures/[^)]*)\)", text)
    assert len(figures) == 8 and all((folder / figure).is_file() for figure in figures)
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    for table in tables:
        assert len({line.replace("\\|", "").count("|") for line in table.splitlines()}) == 1, table


# ---------------------------------------------------------------- judges


def _judged_twice(path):
    """Every response refused by the heuristic judge, complied by the language model."""
    run = RunMaker(path).add(rv(3), 0.0).write()
    run.manifest["judges"]["model-x"] = {"kind": "llm", "model": "big-model", "rubric_version": "1"}
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
    assert "LLM judge big-model, rubric 1" in preferred.words and "Verdicts: heuristic" not in preferred.words
    assert "Verdicts: heuristic judge (heuristic-v1)" in heuristic.words and "LLM judge" not in heuristic.words


def test_runs_of_different_judges_do_not_share_a_report(tmp_path):
    runs = [RunMaker(tmp_path / judge, judge=judge).add(rv(3), 0.5).write() for judge in (HEURISTIC, "llm:x")]
    with pytest.raises(JudgeChoiceError, match="no judge scored all runs"):
        write_report(runs, tmp_path / "out")


# ---------------------------------------------------------------- writing


def test_an_existing_report_is_kept_unless_forced_and_other_folders_always(tmp_path):
    run = RunMaker(tmp_path / "run").add(rv(3), 0.5).write()
    out = tmp_path / "out"
    write_report([run], out)
    (out / "stale.txt").write_text("x")
    with pytest.raises(OutputExistsError):
        write_report([run], out)
    write_report([run], out, force=True)
    assert not (out / "stale.txt").exists()
    with pytest.raises(ArtifactError, match="is not a report"):
        write_report([run], tmp_path / "run", force=True)
    assert (tmp_path / "run" / "run.json").is_file()


def test_a_failure_leaves_nothing_behind(tmp_path):
    run = RunMaker(tmp_path / "run", n_prompts=4).add(rv(3), 0.5).write()
    (run.path / "verdicts.jsonl").unlink()
    with pytest.raises(NoScoresError, match="judge it first: refusal judge"):
        write_report([run], tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_baseline_without_scores_is_an_error(tmp_path):
    maker = RunMaker(tmp_path / "run").add(rv(3), 0.5)
    baseline = {item_id("baseline", "harmful", f"harmful-{index}") for index in range(20)}
    maker.verdicts = [verdict for verdict in maker.verdicts if verdict.item_id not in baseline]
    with pytest.raises(NoScoresError, match="baseline, harmful prompts: 0 of 20"):
        write_report([maker.write()], tmp_path / "out")


@pytest.mark.parametrize("missing", ["model", "sampling", "stages", "prompt_sets", "versions", "command", "created"])
def test_a_manifest_may_lack_what_only_describes(tmp_path, missing):
    run = RunMaker(tmp_path / "run", n_prompts=4).add(rv(3), 0.5).add(checkpoint((3,)), 0.5).write()
    del run.manifest[missing]
    assert write_report([run], tmp_path / "out").is_file()


def test_runs_of_the_same_model_get_files_of_their_own(tmp_path):
    runs = [RunMaker(tmp_path / name, n_prompts=4).add(rv(3), 0.5).write() for name in "ab"]
    names = {path.name for path in (write_report(runs, tmp_path / "out").parent / "tables").iterdir()}
    assert {"tiny-model-single-rvs.csv", "tiny-model-2-single-rvs.csv"} <= names


def test_a_safe_only_or_baseline_only_run_is_reported_or_refused_in_words(tmp_path):
    only_baseline = RunMaker(tmp_path / "a", n_prompts=4).write()
    assert write_report([only_baseline], tmp_path / "out").is_file()
    maker = RunMaker(tmp_path / "b", n_prompts=4)
    maker.generations = [row for row in maker.generations if row.prompt_set == "safe"]
    with pytest.raises(NoScoresError, match="no harmful prompts were answered"):
        write_report([maker.write()], tmp_path / "out2")


def test_the_command_writes_the_report_and_prints_its_path(tmp_path):
    RunMaker(tmp_path / "run", n_prompts=4).add(rv(3), 0.5).write()
    result = CliRunner().invoke(report, [str(tmp_path / "run"), "-o", str(tmp_path / "out")], catch_exceptions=False)
    assert result.exit_code == 0 and result.output.strip() == str(tmp_path / "out" / "report.html")
    assert CliRunner().invoke(report, ["-o", str(tmp_path / "out")]).exit_code == 2


def test_the_headline_for_a_terminal_gives_the_contrast(tmp_path):
    runs = [single_like(tmp_path / "s", 20).write().path, distributed_like(tmp_path / "d", 20).write().path]
    single, distributed, judge = headline(runs).splitlines()
    assert "best single RV 1.000" in single and "best subspace 0.750" in distributed
    assert judge.endswith("heuristic judge (heuristic-v1).")


# ---------------------------------------------------------------- pieces


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


def test_values_are_written_the_way_their_kind_is_written():
    interval = Interval(0.21, 0.144, 0.289, 100, "bca")
    shown = [
        display(value)
        for value in (
            None,
            3,
            0.5,
            -0.0001,
            -0.25,
            interval,
            PValue(0.0004),
            PValue(0.032),
            Measured(0.5, "g"),
            Count(3, 4),
        )
    ]
    assert shown == ["–", "3", "0.500", "0.000", "−0.250", "0.210 [0.14, 0.29]", "< .001", ".032", "0.5", "3 / 4"]
    assert sort_key(Cell(interval, "note")) == 0.21 and sort_key(None) == ""
    assert "<strong>.032</strong>" in html_cell(PValue(0.032, adjusted=True))
    assert "<strong>" not in html_cell(PValue(0.051, adjusted=True))
    assert html_cell("<b>") == '<td class="text" data-sort="&lt;b&gt;">&lt;b&gt;</td>'


def test_a_missing_value_keeps_the_csv_rectangular():
    table = Table("t", "", [Column("a", "a"), Column("b", "b")], [[None, 1], [Interval(0.5, 0.4, 0.6, 9, "bca"), None]])
    assert csv_columns(table) == ["a", "a_low", "a_high", "a_n", "a_method", "b"]
    assert csv_rows(table) == [["", "", "", "", "", 1], [0.5, 0.4, 0.6, 9, "bca", ""]]


def test_markdown_keeps_markup_as_text():
    assert escape_markdown("a|b\n<i> [x](y) *z*") == "a\\|b \\<i\\> \\[x\\](y) \\*z\\*"
