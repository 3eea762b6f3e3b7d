"""The page of a report and its Markdown: self-contained, escaped, every response in its browser."""

import json
import re
from dataclasses import replace

import pytest
from report_pages import Page, write_two_organisms
from synthetic_runs import RunMaker, rv, subspace

from eval.report.browser import embed_json
from eval.report.documents import Cell, Column, Count, Measured, PValue, display, sort_key
from eval.report.html import escape_markdown, html_cell
from eval.report.report import write_report
from eval.statistics.intervals import Interval

P = Column("p", "p")
QUARTET = (1, 3, 5, 6)
INJECTION = "</script><script>window.injected = true</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The report of a single-direction and a distributed run."""
    return write_two_organisms(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def page(folder):
    return Page((folder / "report.html").read_text(encoding="utf-8"))


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
    assert "<strong>.032</strong>" in html_cell(PValue(0.032, adjusted=True), P)
    assert "<strong>" not in html_cell(PValue(0.051, adjusted=True), P)
    assert html_cell("<b>", P) == '<td class="text" data-sort="&lt;b&gt;">&lt;b&gt;</td>'
    assert html_cell("<b>", replace(P, prose=True)) == '<td class="text prose" data-sort="&lt;b&gt;">&lt;b&gt;</td>'


def test_markdown_keeps_markup_as_text():
    assert escape_markdown("a|b\n<i> [x](y) *z*") == "a\\|b \\<i\\> \\[x\\](y) \\*z\\*"
