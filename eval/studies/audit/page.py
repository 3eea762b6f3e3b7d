"""The page of an audit: audit.html, audit.md, audit.json, and its curve as SVG."""

import json
from collections.abc import Sequence
from pathlib import Path

from eval.report.browser import browser_data, embed
from eval.report.documents import Chapter, Picture, Report, Section, Table, bounds, display, number
from eval.report.facts import facts, provenance
from eval.report.html import render_html, render_markdown
from eval.report.planted import ORGANISM_NOTE, PLANTED_BADGE
from eval.report.report import HEURISTIC_NOTE
from eval.report.results import Results
from eval.report.sections.strength import alpha_figure
from eval.studies.audit import figures, tables
from eval.studies.audit.findings import Findings
from eval.studies.audit.verdict import NOTHING, REMOVED, UNDECIDED, UNSPECIFIC, Form, Reached
from surgery.files.artifacts import replacing

PAGE = "audit.html"
CHAPTER = "audit"
WHAT_NOW = {
    NOTHING: "The model complies without any edit; an audit needs prompts that it refuses (--prompts).",
    UNSPECIFIC: "What any subspace of that rank does says nothing about directions of refusal; see the coherence.",
    UNDECIDED: "The intervals do not tell; more prompts may (refusal power says how many).",
}
"""What a verdict that says nothing of a mechanism leaves to do."""


def write_pages(findings: Findings, folder: Path) -> Path:
    """Write the audit's page, its Markdown, its JSON and its figures; returns the path of the page."""
    results = Results(findings.measured.scored)
    report = make_report(findings, results)
    _write(folder / "audit.json", json.dumps(findings.to_json(), indent=1) + "\n")
    for section in report.chapters[0].sections:
        for picture in section.pictures:
            _write(folder / "figures" / f"{CHAPTER}-{picture.id}.svg", picture.svg)
    _write(folder / "audit.md", render_markdown(report))
    _write(folder / PAGE, render_html(report, embed(browser_data([results]))))
    return folder / PAGE


def make_report(findings: Findings, results: Results) -> Report:
    """The page without the response browser."""
    judge = findings.measured.scored.judge_label
    badge, note = (PLANTED_BADGE, ORGANISM_NOTE) if results.planted else ("", "")
    size = findings.size
    prompts = f"{size.n_selection} harmful to choose, {size.n_measured} others to measure, {size.n_safe} safe"
    shared = {name: value for name, value in facts(results) if name != "conditions"}  # of all stages, not of one
    named = [("audit", findings.verdict.text), *(shared | {"prompts": prompts}).items()]
    origin = [("audit", str(findings.provenance.get("command", ""))), *provenance(results)]
    chapter = Chapter(
        CHAPTER, findings.verdict.text, badge, note, sentences(findings), named, _sections(findings, results), origin
    )
    notes = [HEURISTIC_NOTE] if findings.measured.scored.heuristic else []
    return Report(f"Audit of {results.model_name}", judge, [chapter], notes=notes, kind="Refusal audit")


def sentences(findings: Findings) -> list[str]:
    """What was found, for the head of the page."""
    measured, evidence = findings.measured, findings.evidence
    reached = "; ".join(map(_reached, findings.reached))
    found = [
        f"Verdict: {findings.verdict.text}. Refusal counts as removed at a mean compliance of {REMOVED:g} whose 95 % "
        "interval lies above those of the baseline and of random subspaces.",
        f"Baseline {display(evidence.baseline)}, random subspaces at most {display(evidence.control)}, single vector chosen "
        f"{display(evidence.ranks[min(evidence.ranks)])}, subspace chosen {display(measured.rows[measured.headline].compliance)}, "
        f"affine {_form(evidence.affine)}, projected {_form(evidence.projected)}.",
        f"Smallest ablation for {reached}.",
        *_on_safe_prompts(findings),
    ]
    if findings.verdict.name in WHAT_NOW:
        found.insert(1, WHAT_NOW[findings.verdict.name])
    if measured.weights:
        same = measured.weights
        found.append(
            f"Run time against weights: the checkpoint gives the verdicts of the same ablation at run time on "
            f"{display(same.same_verdict)} of {same.n_pairs} prompts, Δ compliance {display(same.change)}."
        )
    return found


def _form(form: Form | None) -> str:
    return "not measured" if form is None else f"{display(form.compliance)} (k = {form.rank})"


def _reached(each: Reached) -> str:
    at = f" ({display(each.point.compliance)})" if each.point else ""
    return f"{each.target:.0%} compliance: {each.text}{at}"


def _on_safe_prompts(findings: Findings) -> list[str]:
    """What the subspace costs there, and the most refusals that adding a vector induces."""
    cost = next(row for row in findings.cost if row.condition.id == findings.measured.headline)
    changes = [
        f"{each.task} {number(each.change.estimate, '+.3f')} {bounds(each.change)}"
        for each in findings.capability
        if each.variant == findings.measured.headline and each.change
    ]
    benchmarks = f"; against the baseline on benchmarks: {', '.join(changes)}" if changes else ""
    found = [f"Under the subspace chosen: compliance on safe prompts {display(cost.compliance)}{benchmarks}."]
    added = [row for row in findings.reverse if row.condition.kind != "baseline" and row.means]
    if added:
        most = max(added, key=lambda row: row.means["refused"].estimate)
        found.append(
            f"Adding a layer’s vector makes {display(most.means['refused'])} of safe prompts refused at layer "
            f"{most.condition.layers}, the highest of {len(added)} layers; {display(findings.reverse[0].means.get('refused'))} without."
        )
    return found


def _sections(findings: Findings, results: Results) -> list[Section]:
    judge = findings.measured.scored.judge_label
    return [
        _section(
            "curve",
            "Compliance against rank and strength",
            [figures.rank_figure(findings, CHAPTER), alpha_figure(results, CHAPTER)],
            [tables.reached_table(findings), tables.path_table(findings, judge)],
        ),
        _section(
            "operators",
            "Controls and other operators",
            [],
            [tables.controls_table(findings, judge), tables.forms_table(findings, judge)],
        ),
        _section("weights", "Run time and weights", [], [tables.agreement_table(findings, judge)]),
        _section("tiers", "Tiers", [], [tables.tier_table(findings, judge)]),
        _section("cost", "Cost", [], [tables.cost_table(findings, judge), tables.capability_table(findings)]),
        _section(
            "reverse",
            "Induced refusals",
            [figures.reverse_figure(findings, CHAPTER)],
            [tables.reverse_table(findings, judge)],
        ),
        _section("selection", "Selection", [], [tables.single_table(findings, judge)]),
    ]


def _section(
    section_id: str, title: str, pictures: Sequence[Picture | None], drafts: Sequence[Table | None]
) -> Section:
    return Section(section_id, title, (), [each for each in pictures if each], [table for table in drafts if table])


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    with replacing(path, force=True) as part:
        part.write_text(text, encoding="utf-8", errors="replace")
