"""Every set of prompts other than the harmful one: refusals, and damage to what is answered."""

import re

from eval.records.measures import ON_HARMLESS, SHARES
from eval.report.documents import Section, Table, display
from eval.report.results import HARMFUL, OVER_REFUSAL, SAFE, Results
from eval.report.sections.columns import DESCRIBED, N, changes, in_order, measured, table_of
from eval.report.sections.outcomes import flip_columns, flip_notes
from eval.report.sections.subspaces import span_name


def sections(results: Results, chapter_id: str) -> list[Section]:
    """One for each set, safe first."""
    names = [name for name in results.by_set if name != HARMFUL]
    return [
        section for name in names for section in Section.of(_set_id(name), _title(name), [_set_table(results, name)])
    ]


def _set_table(results: Results, prompt_set: str) -> Table | None:
    """All conditions on one of them."""
    rows, harmless = in_order(results.of_set(prompt_set)), results.is_harmless(prompt_set)
    shares = [measure for measure in SHARES if measure in ON_HARMLESS]
    flips = [column for measure in shares for column in flip_columns(rows, measure)]
    columns = [*DESCRIBED, N, *measured(results, ON_HARMLESS, prompt_set), *flips, *changes(rows)]
    notes = ["“refused” is a false refusal here; a fall of compliance or coherence is damage."] if harmless else []
    told = "false refusals and damage" if harmless else "compliance and refusals"
    caption, notes = f"{_title(prompt_set)}: {told}", notes + flip_notes(rows)
    return table_of(results, _set_id(prompt_set), caption, columns, rows, notes=notes)


def _set_id(prompt_set: str) -> str:
    """A prompt set's name fit for anchors and file names; that of another set never equals a table's own id."""
    stem = re.sub(r"[^a-z0-9]+", "-", prompt_set.lower()).strip("-")
    return SAFE if prompt_set == SAFE else f"set-{stem or 'other'}"


def _title(prompt_set: str) -> str:
    named = "over-refusal" if prompt_set == OVER_REFUSAL else prompt_set
    return f"{named[:1].upper()}{named[1:]} prompts"


def sentence(results: Results) -> str:
    """Compliance on safe prompts, unedited and under what does best on harmful ones, for the headline."""
    last = results.best_subspace or results.best_rv
    edited = next((row for row in results.safe if last and row.condition.id == last.condition.id), None)
    unedited = next((row for row in results.safe if row.condition.kind == "baseline"), None)
    if not (edited and unedited and edited.means and unedited.means):
        return ""
    ablated = f"{display(edited.compliance)} with the {span_name(edited)} ablated"
    return f"On {SAFE} prompts compliance is {display(unedited.compliance)} unedited and {ablated}."
