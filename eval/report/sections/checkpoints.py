"""Runtime ablation against the checkpoint with the same span orthogonalized, prompt by prompt."""

from dataclasses import replace

from eval.plan.conditions import Condition
from eval.report.documents import Column, Measured, Section, Table
from eval.report.results import HARMFUL, Results
from eval.report.sections.columns import ALPHA, P, p_cell
from eval.statistics.summaries import Agreement, agreement
from surgery.residual.layers import format_layers


def sections(results: Results, chapter_id: str) -> list[Section]:
    """Every pair that removes the same span; nothing for a run without one."""
    by_id = {row.condition.id: row for row in results.harmful}
    same = "Share of prompts with equal compliance and coherence, Wilson 95 % interval"
    columns = [
        Column("checkpoint", "removed from the weights", read=lambda found: _name(found.second)),
        replace(ALPHA, read=lambda found: Measured(found.first.alpha, "g")),
        Column("runtime_site", "runtime site", read=lambda found: found.first.site),
        Column("runtime_compliance", "runtime", read=lambda found: by_id[found.first.id].compliance),
        Column("checkpoint_compliance", "checkpoint", read=lambda found: by_id[found.second.id].compliance),
        Column("change", "difference", "Checkpoint minus runtime, paired on prompts"),
        replace(P, read=lambda found: p_cell(found.p)),
        Column("same_verdict", "same verdict", same),
        Column("same_text", "same text", "Share of responses that are equal letter for letter"),
    ]
    pairs: list[Agreement] = [agreement(results.scored, HARMFUL, *pair) for pair in results.checkpoint_pairs]
    notes = ["Ablating the writes at run time does the same as the edited weights; ablating the stream removes more."]
    caption = "Runtime ablation against the orthogonalized checkpoint, harmful prompts"
    table = Table.of("checkpoint", caption, columns, pairs, judge=results.judge, notes=notes)
    return Section.of("offline", "Runtime against checkpoint", [table])


def _name(checkpoint: Condition) -> str:
    where = "" if checkpoint.layers == "all" else f", at layers {checkpoint.layers}"
    adapter = " (adapter)" if checkpoint.kind == "adapter" else ""
    return f"layers {format_layers(checkpoint.source_layers)}{where}{adapter}"
