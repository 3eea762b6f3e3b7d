"""One run as a chapter: which sections it has, and what stands in them."""

import re
from collections.abc import Callable, Sequence

from eval.report import figures
from eval.report.documents import Chapter, Picture, Section, Table
from eval.report.methods import statistics_notes
from eval.report.results import Results
from eval.report.sections import judges as judge_tables
from eval.report.sections import sets as set_tables
from eval.report.sections import tables
from eval.report.sections.angles import angle_table
from eval.report.sections.confirmation import confirmation_table
from eval.report.sections.damage import damage_table
from eval.report.sections.tiers import tier_contrast_tables
from eval.report.sections.transfer import transfer_tables
from eval.report.sentences import PLANTED_BADGE, PLANTED_NOTE, facts, headline, judge_label, provenance


def make_chapter(results: Results, chapter_id: str) -> Chapter:
    """The chapter of one run; sections for which the run has no data are left out."""
    judge = judge_label(results.scored)
    sections = [
        _section(
            "vectors",
            "Refusal vectors",
            _caveats(results),
            _drawn(results, chapter_id, "separability", "cosine"),
            [tables.layer_table(results), angle_table(results)],
        ),
        _section(
            "single", "Single-vector ablation", (), _drawn(results, chapter_id, "sweep"), _sweep_tables(results, judge)
        ),
        _section("subspaces", _compared(results), (), (), [tables.subspace_table(results, judge)]),
        _section(
            "strength", "Strength", (), _drawn(results, chapter_id, "alpha"), [tables.alpha_table(results, judge)]
        ),
        _section(
            "groups",
            "Tiers and categories",
            (),
            (),
            [
                tables.group_table(results, "tier", judge),
                *tier_contrast_tables(results, judge),
                tables.group_table(results, "category", judge),
            ],
        ),
        _section("transfer", "Transfer between tiers", (), (), transfer_tables(results, judge)),
        *(_set_section(results, name, judge) for name in set_tables.other_sets(results)),
        _section("damage", "Damage", (), (), [damage_table(results)]),
        _section("random", "Random control", (), (), [tables.random_table(results, judge)]),
        _section("offline", "Runtime against checkpoint", (), (), [tables.checkpoint_table(results, judge)]),
        _section("outcomes", "Complied or refused", (), (), [set_tables.outcome_table(results, judge)]),
        _section(
            "judge",
            "The judge",
            (),
            (),
            [judge_tables.repeat_table(results, judge), judge_tables.agreement_table(results)],
        ),
        _section("statistics", "Statistics", statistics_notes(results), (), [tables.unscored_table(results, judge)]),
        _section("time", "Time", (), (), [tables.stage_table(results)]),
    ]
    badge, note = (PLANTED_BADGE, PLANTED_NOTE) if results.planted else ("", "")
    return Chapter(
        chapter_id,
        results.model_name,
        badge,
        note,
        headline(results),
        facts(results),
        [section for section in sections if section],
        provenance(results),
    )


def chapter_ids(all_results: Sequence[Results]) -> list[str]:
    """A short id per run, fit for file names and anchors, each once."""
    ids: list[str] = []
    for results in all_results:
        stem = re.sub(r"[^a-z0-9]+", "-", results.model_name.lower()).strip("-") or "run"
        taken = [other for other in ids if other == stem or re.fullmatch(re.escape(stem) + r"-\d+", other)]
        ids.append(f"{stem}-{len(taken) + 1}" if taken else stem)
    return ids


def _section(
    section_id: str,
    title: str,
    paragraphs: Sequence[str],
    pictures: Sequence[Picture | None],
    drafts: Sequence[Table | None],
) -> Section | None:
    shown, kept = [picture for picture in pictures if picture], [table for table in drafts if table]
    return Section(section_id, title, paragraphs, shown, kept) if shown or kept or section_id == "statistics" else None


def _drawn(results: Results, prefix: str, *names: str) -> list[Picture | None]:
    draw: dict[str, Callable[[Results, str], Picture | None]] = {
        "separability": figures.separability_figure,
        "cosine": figures.cosine_figure,
        "sweep": figures.sweep_figure,
        "alpha": figures.alpha_figure,
    }
    return [draw[name](results, prefix) for name in names]


def _sweep_tables(results: Results, judge: str) -> list[Table | None]:
    swept = [tables.sweep_table(results, judge), confirmation_table(results, judge)] if results.sweep else []
    return [*swept, tables.other_rvs_table(results, judge)]


def _compared(results: Results) -> str:
    return "Subspace ablation" if results.of_kind("subspace") else "Against the baseline"


def _set_section(results: Results, prompt_set: str, judge: str) -> Section | None:
    tables_of_set = [set_tables.set_table(results, prompt_set, judge)]
    return _section(set_tables.set_id(prompt_set), set_tables.set_title(prompt_set), (), (), tables_of_set)


def _caveats(results: Results) -> list[str]:
    return [" ".join(results.analysis["caveats"])] if results.analysis.get("caveats") else []
