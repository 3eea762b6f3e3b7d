"""Planted ground truth: what a model organism is known to do under a condition, looked up for a run's conditions."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from eval.plan.conditions import Condition

PLANTED_BADGE = "planted ground truth"
ORGANISM_NOTE = (
    "This model is a model organism: its refusals were planted on purpose. The numbers show that the instruments work; "
    "they are not a fact about real models."
)
PLANTED_NOTE = f"{ORGANISM_NOTE} “Planted” columns give what its own exact check found."
_KINDS = {
    "baseline": "none",
    "rv": "refusal-vector",
    "subspace": "subspace",
    "random": "random",
    "checkpoint": "weights",
    "adapter": "weights",
}


class PlantedFacts:
    """The ground truth stored with a run; every lookup gives None where nothing was planted or measured."""

    def __init__(self, truth: Mapping[str, Any] | None):
        self._truth = truth or {}

    def __bool__(self) -> bool:
        return bool(self._truth)

    @property
    def organism(self) -> str:
        """Name of the organism, "" when the model is none."""
        return str(self._truth.get("organism", ""))

    @property
    def cohens_d(self) -> list[float] | None:
        """Cohen's d per layer as measured when the organism was made."""
        return self._truth.get("cohens_d")

    def compliance(self, condition: Condition, prompt_set: str) -> float | None:
        """Mean compliance that the organism's own exact check found under the same condition.

        An intervention on `writes` equals orthogonalized weights, so it is compared with those. Of several random
        controls of one rank the mean is given.
        """
        found = [
            row[f"{prompt_set}_compliance"] for row in self._matching(condition) if f"{prompt_set}_compliance" in row
        ]
        return sum(found) / len(found) if found else None

    def _matching(self, condition: Condition) -> Iterator[Mapping[str, Any]]:
        kind = "weights" if condition.site == "writes" else _KINDS.get(condition.kind)
        if condition.layers != "all" or condition.tag or kind is None:
            return
        for row in self._rows():
            same = row.get("kind") == kind and row.get("rank", condition.rank) == condition.rank
            if same and _same_basis(row, condition) and _same_alpha(row, condition):
                yield row

    def _rows(self) -> Sequence[Mapping[str, Any]]:
        rows = self._truth.get("conditions", [])
        return list(rows.values()) if isinstance(rows, Mapping) else rows


def _same_basis(row: Mapping[str, Any], condition: Condition) -> bool:
    return condition.kind in ("baseline", "random") or tuple(row.get("layers", ())) == condition.source_layers


def _same_alpha(row: Mapping[str, Any], condition: Condition) -> bool:
    return condition.kind == "baseline" or row.get("alpha", 1.0) == condition.alpha
