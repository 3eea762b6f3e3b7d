"""One run as a chapter: which sections it has, and in which order its headline is told."""

import re
from collections.abc import Sequence

from eval.report.documents import Chapter
from eval.report.facts import facts, provenance
from eval.report.planted import PLANTED_BADGE, PLANTED_NOTE
from eval.report.results import Results
from eval.report.sections import (
    checkpoints,
    controls,
    damage,
    groups,
    judges,
    outcomes,
    sets,
    single,
    stages,
    statistics,
    strength,
    subspaces,
    transfer,
    vectors,
)

SECTIONS = (
    vectors.sections,
    single.sections,
    subspaces.sections,
    strength.sections,
    groups.sections,
    transfer.sections,
    sets.sections,
    damage.sections,
    controls.sections,
    checkpoints.sections,
    outcomes.sections,
    judges.sections,
    statistics.sections,
    stages.sections,
)
HEADLINE = (
    single.sentence,
    single.confirmation_sentence,
    subspaces.sentence,
    controls.sentence,
    sets.sentence,
    transfer.sentence,
)


def make_chapter(results: Results, chapter_id: str) -> Chapter:
    """The chapter of one run; sections for which the run has no data are left out."""
    return Chapter(
        chapter_id,
        results.model_name,
        PLANTED_BADGE if results.planted else "",
        PLANTED_NOTE if results.planted else "",
        [sentence for tell in HEADLINE if (sentence := tell(results))],
        facts(results),
        [section for make in SECTIONS for section in make(results, chapter_id)],
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
