"""Random subspaces, the control for removing any direction at all."""

from eval.report.documents import Section, display
from eval.report.results import Results
from eval.report.sections.columns import comparison, in_order


def sections(results: Results, chapter_id: str) -> list[Section]:
    """Baseline and random subspaces; nothing for a run without them."""
    randoms = in_order(results.of_kind("random"))
    rows = [row for row in (results.baseline, *randoms) if row and randoms]
    caption = "Control: random directions and subspaces, harmful prompts"
    return Section.of("random", "Random control", [comparison(results, "random", caption, rows)])


def sentence(results: Results) -> str:
    """The highest of them, for the headline."""
    rows = [row for row in results.of_kind("random") if row.means]
    if not rows:
        return ""
    highest = max(rows, key=lambda row: row.means["compliance"].estimate)
    controls = "a random subspace" if len(rows) == 1 else f"the highest of {len(rows)} random subspaces"
    ranks = sorted({row.condition.rank for row in rows})
    told = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks[:-1]))} and {ranks[-1]}"
    return f"Control: {controls} ({told}) reaches {display(highest.compliance)}."
