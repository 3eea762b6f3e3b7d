"""The table of damage: what each condition does to harmless prompts and to running text."""

from collections.abc import Sequence

from eval.cost.damage.measures import Damage
from eval.cost.damage.records import DamageRecord, load_damage
from eval.report.documents import Column, Measured, Table, Value
from eval.report.results import Results
from eval.report.sections.columns import ALPHA, CONDITION, SITE, condition_name, described, in_order
from eval.statistics.summaries import Summary

KL = Column("kl", "KL of the first token", "Mean D(baseline ‖ condition) over harmless prompts, nats; 95 % interval")
SAME = Column("same_token", "same first token", "Share of prompts whose most probable first token is the baseline’s")
PERPLEXITY = Column("perplexity", "perplexity", "exp of the mean nats per token of the text")
NATS = Column("nats", "Δ nats per token", "Mean change against the baseline, paired by window of text; 95 % interval")


def damage_table(results: Results) -> Table | None:
    """What `refusal damage` measured of the run; None where nothing was measured."""
    record = load_damage(results.scored.run.path)
    if record is None:
        return None
    rows = in_order(results.harmful)
    body: list[list[Value]] = [[*described(row), *_cells(record.conditions.get(row.condition.id))] for row in rows]
    columns = [CONDITION, SITE, ALPHA, KL, SAME, PERPLEXITY, NATS]
    return Table("damage", "Damage on harmless input", columns, body, notes=_notes(record, rows))


def _cells(damage: Damage | None) -> list[Value]:
    if damage is None:
        return [None] * 4
    same = None if damage.same_token is None else Measured(damage.same_token, ".3f")
    return [damage.kl, same, Measured(damage.perplexity, ".4g"), damage.nats]


def _notes(record: DamageRecord, rows: Sequence[Summary]) -> list[str]:
    inputs = record.inputs
    notes = [
        f"Measured in {inputs.dtype} on {inputs.n_prompts} prompts (sha256 {inputs.prompts_sha256[:12]}) and on "
        f"{inputs.n_windows} windows of {inputs.window} tokens of text ({inputs.text}, sha256 {inputs.text_sha256[:12]}); "
        "no judge takes part. Intervals: BCa bootstrap over prompts and over windows."
    ]
    missing = [condition_name(row) for row in rows if row.condition.id not in record.conditions]
    return notes + ([f"Not measured: {', '.join(missing)}."] if missing else [])
