"""What is compared in a run: one condition is one way of answering every prompt."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

WEIGHTS = ("checkpoint", "adapter")
KINDS = ("baseline", "rv", "subspace", "random", "named", *WEIGHTS)


@dataclass(frozen=True)
class Condition:
    """One way of answering every prompt of a run.

    Attributes:
        id: unique in the run, stable across resumes, e.g. "baseline", "rv:L3:a1", "subspace:1,3,5-6:a0.5".
        kind: "baseline" (no intervention), "rv" (one layer's direction), "subspace" (QR of several layers), "random"
            (a random subspace of equal rank: the control), "named" (a module given on the command line), "checkpoint"
            (weights orthogonalized offline) or "adapter" (a LoRA adapter).
        label: short text for tables and figures.
        alpha: ablation strength; 0 for the baseline.
        rank: dimension of what is removed; 0 for the baseline.
        source_layers: decoder blocks whose RVs span the basis; empty for baseline and random.
        layers: decoder blocks the intervention acts on, as text ("all", "7-10").
        site: "stream" (block outputs), "writes" (attention and MLP outputs), "weights" (edited offline), or "" (baseline).
        request: keys merged into a request's extra_args for the engine; empty unless it is ablated at run time.
        source: a digest of what it is made of: in a run of the file that holds the basis, or of the manifest of edited
            weights; "" for the baseline.
        tag: the tier or category of the prompts that its RVs were extracted from, e.g. "tier 2"; "" for all of them.
        folder: where edited weights are now; no part of the record.
    """

    id: str
    kind: str
    label: str
    alpha: float = 0.0
    rank: int = 0
    source_layers: tuple[int, ...] = ()
    layers: str = "all"
    site: str = ""
    request: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    tag: str = ""
    folder: Path | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"condition {self.id!r}: kind must be one of {', '.join(KINDS)}, found {self.kind!r}")

    @property
    def edit(self) -> str:
        """How the model is edited: not at all ("baseline"), at run time ("ablation"), or by a "checkpoint" or "adapter"."""
        return self.kind if self.kind in ("baseline", *WEIGHTS) else "ablation"

    def to_json(self) -> dict[str, Any]:
        """The condition as plain JSON types, as run.json has always had it: without an empty tag, an adapter as a checkpoint."""
        record = {**asdict(self), "source_layers": list(self.source_layers), "request": dict(self.request)}
        left_out = {"folder"} if self.tag else {"folder", "tag"}
        record["kind"] = "checkpoint" if self.kind == "adapter" else self.kind
        return {key: value for key, value in record.items() if key not in left_out}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Condition":
        """Read what `to_json` wrote; an adapter is known by its id."""
        kind = "adapter" if record["id"].startswith("adapter:") else record["kind"]
        return cls(**{**record, "kind": kind, "source_layers": tuple(record["source_layers"])})


BASELINE = Condition(id="baseline", kind="baseline", label="baseline")


def from_tag(tag: str) -> str:
    """How labels say which prompts the RVs of a condition are from; nothing for all of them."""
    return f", from {tag}" if tag else ""
