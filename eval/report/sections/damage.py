"""Damage: what each condition does to harmless prompts and to running text."""

from eval.cost.damage.measures import Damage
from eval.cost.damage.records import DamageRecord, load_damage
from eval.report.documents import Column, Section, Table, Value, formatted
from eval.report.results import Results
from eval.report.sections.columns import DESCRIBED, condition_name, described, in_order

KL = Column("kl", "KL of the first token", "Mean D(baseline ‖ condition) over harmless prompts, nats; 95 % interval")
SAME = Column("same_token", "same first token", "Share of prompts whose most probable first token is the baseline’s")
PERPLEXITY = Column("perplexity", "perplexity", "exp of the mean nats per token of the text")
NATS = Column("nats", "Δ nats per token", "Mean change against the baseline, paired by window of text; 95 % interval")


def sections(results: Results, chapter_id: str) -> list[Section]:
    """What `refusal damage` measured of the run; nothing where it measured nothing."""
    record = load_damage(results.scored.run.path)
    if record is None:
        return []
    rows = in_order(results.harmful)
    body = [[*described(row), *damage_cells(record.conditions.get(row.condition.id))] for row in rows]
    missing = [condition_name(row) for row in rows if row.condition.id not in record.conditions]
    notes = [_inputs(record), *([f"Not measured: {', '.join(missing)}."] if missing else [])]
    table = Table("damage", "Damage on harmless input", [*DESCRIBED, KL, SAME, PERPLEXITY, NATS], body, notes=notes)
    return Section.of("damage", "Damage", [table])


def damage_cells(damage: Damage | None) -> list[Value]:
    """The cells under KL, SAME, PERPLEXITY and NATS."""
    if damage is None:
        return [None] * 4
    return [damage.kl, formatted(damage.same_token, ".3f"), formatted(damage.perplexity, ".4g"), damage.nats]


def _inputs(record: DamageRecord) -> str:
    inputs = record.inputs
    return (
        f"Measured in {inputs.dtype} on {inputs.n_prompts} prompts (sha256 {inputs.prompts_sha256[:12]}) and on "
        f"{inputs.n_windows} windows of {inputs.window} tokens of text ({inputs.text}, sha256 {inputs.text_sha256[:12]}); "
        "no judge takes part. Intervals: BCa bootstrap over prompts and over windows."
    )
