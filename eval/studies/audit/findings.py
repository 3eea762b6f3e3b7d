"""What an audit found, and its record as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from eval.cost.benchmark.benchmark import TaskOutcome
from eval.cost.damage.measures import Damage
from eval.records.measures import ON_HARMLESS
from eval.statistics.scores import ScoredRun
from eval.statistics.summaries import Agreement, Summary
from eval.studies.audit.design import AuditSize
from eval.studies.audit.greedy import Layers, Step
from eval.studies.audit.verdict import AuditEvidence, AuditVerdict, Form, Reached


@dataclass(frozen=True)
class FormPath:
    """Sets of layers whose RVs are ablated in another form than the plain one, by rank.

    Attributes:
        layers: first the layer whose vector alone did best in this form, then the sets of the greedy path's later steps.
        scores: mean compliance of each on the selection half.
        at: the layer where an affine ablation is applied, that of the best single vector.
    """

    layers: Sequence[Layers]
    scores: Sequence[float]
    at: int

    @property
    def best(self) -> int:
        """Index of the smallest set of the highest score: the one that the verdict asks about."""
        return max(range(len(self.scores)), key=lambda index: self.scores[index])

    @property
    def chosen(self) -> Layers:
        """That set."""
        return self.layers[self.best]


@dataclass(frozen=True)
class AuditSelection:
    """What was chosen on the selection half.

    Attributes:
        steps: the greedy path.
        headline: the step whose set stands for subspaces where one is enough.
        first: every single vector, plain, affine and projected, with the baseline.
        affine, projected: the other forms, at rank 1 and at each step's set.
    """

    steps: Sequence[Step]
    headline: Step
    first: Sequence[Summary]
    affine: FormPath
    projected: FormPath


@dataclass(frozen=True)
class AuditMeasurement:
    """The measuring half; names are ids of conditions.

    Attributes:
        path: condition ids of the greedy path, by (step index, alpha).
        alpha: the reference strength.
        affine, projected: the condition of each set of the selection's `FormPath`, in its order.
        weights: the checkpoint against the same ablation at run time; None where none was made.
        writes: ablation of the block outputs against that of the writes.
    """

    scored: ScoredRun
    rows: Mapping[str, Summary]
    path: Mapping[tuple[int, float], str]
    alpha: float
    affine: Sequence[str]
    projected: Sequence[str]
    headline: str
    writes: Agreement
    weights: Agreement | None

    @property
    def baseline(self) -> Summary:
        """The unedited model."""
        return self.rows["baseline"]

    @property
    def randoms(self) -> list[Summary]:
        """The random controls."""
        return [row for row in self.rows.values() if row.condition.kind == "random"]


@dataclass(frozen=True)
class Findings:
    """An audit's outcome.

    Attributes:
        cost: ablations on the safe prompts, baseline first; `damage` of each by condition id.
        capability: every benchmark task under the same ablations; a `variant` is a condition's id.
        reverse: each layer's vector added, on the safe prompts, baseline first.
        provenance: command, model, hashes and versions, as JSON.
    """

    size: AuditSize
    seed: int
    selection: AuditSelection
    measured: AuditMeasurement
    evidence: AuditEvidence
    verdict: AuditVerdict
    reached: Sequence[Reached]
    cost: Sequence[Summary]
    damage: Mapping[str, Damage]
    capability: Sequence[TaskOutcome]
    reverse: Sequence[Summary]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The audit as plain JSON types."""
        measured = self.measured
        return {
            "kind": "audit",
            "format_version": 1,
            "verdict": asdict(self.verdict),
            "evidence": {
                "baseline": asdict(self.evidence.baseline),
                "control": asdict(self.evidence.control),
                "ranks": {str(rank): asdict(found) for rank, found in self.evidence.ranks.items()},
                "affine": _form(self.evidence.affine),
                "projected": _form(self.evidence.projected),
                "max_rank": self.evidence.max_rank,
            },
            "reached": [{**asdict(each), "text": each.text} for each in self.reached],
            "size": {**asdict(self.size), "seed": self.seed},
            "selection": {
                "path": [asdict(step) for step in self.selection.steps],
                "headline": list(self.selection.headline.layers),
                "single": [_row(row) for row in self.selection.first],
                "affine": asdict(self.selection.affine),
                "projected": asdict(self.selection.projected),
            },
            "measured": [_row(row) for row in measured.rows.values()],
            "writes": _agreement(measured.writes),
            "weights": measured.weights and _agreement(measured.weights),
            "cost": [_row(row) for row in self.cost],
            "damage": {name: damage.to_json() for name, damage in self.damage.items()},
            "capability": [asdict(outcome) for outcome in self.capability],
            "reverse": [_row(row) for row in self.reverse],
            **self.provenance,
        }


def _row(row: Summary) -> dict[str, Any]:
    return {
        "condition": row.condition.to_json(),
        "n": row.n,
        "n_scored": row.n_scored,
        "unscored": dict(row.reasons),
        **{each.name: asdict(row.means[each.name]) if row.means else None for each in ON_HARMLESS},
        "p": row.p,
    }


def _form(form: Form | None) -> dict[str, Any] | None:
    return None if form is None else {"rank": form.rank, **asdict(form.compliance)}


def _agreement(found: Agreement) -> dict[str, Any]:
    return {
        "first": found.first.id,
        "second": found.second.id,
        "n_pairs": found.n_pairs,
        "same_verdict": asdict(found.same_verdict),
        "same_text": found.same_text,
        "change": asdict(found.change),
        "p": found.p,
    }
