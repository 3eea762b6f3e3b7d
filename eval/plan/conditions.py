"""What is compared in a run: one condition is one way of answering every prompt."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

KINDS = ("baseline", "rv", "subspace", "random", "checkpoint", "named")


@dataclass(frozen=True)
class Condition:
    """One way of answering every prompt of a run.

    Attributes:
        id: unique in the run, stable across resumes, e.g. "baseline", "rv:L3:a1", "subspace:1,3,5-6:a0.5".
        kind: "baseline" (no intervention), "rv" (one layer's direction), "subspace" (QR of several layers), "random"
            (a random subspace of equal rank: the control), "checkpoint" (weights edited offline: an orthogonalized
            checkpoint, or with an id "adapter:..." a LoRA adapter),
            "named" (a module given on the command line).
        label: short text for tables and figures.
        alpha: ablation strength; 0 for the baseline.
        rank: dimension of what is removed; 0 for the baseline.
        source_layers: decoder blocks whose RVs span the basis; empty for baseline and random.
        layers: decoder blocks the intervention acts on, as text ("all", "7-10").
        site: "stream" (block outputs), "writes" (attention and MLP outputs), "weights" (checkpoint), or "" (baseline).
        request: keys merged into a request's extra_args for the engine; empty for baseline and checkpoint.
        source: sha256 of the file that holds the basis or of the checkpoint's manifest; "" for the baseline.
        tag: the tier or category of the prompts that its RVs were extracted from, e.g. "tier 2"; "" for all of them.
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

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"condition {self.id!r}: kind must be one of {', '.join(KINDS)}, found {self.kind!r}")

    def to_json(self) -> dict[str, Any]:
        """The condition as plain JSON types; without a tag as runs from before there were tags have it."""
        record = {**asdict(self), "source_layers": list(self.source_layers), "request": dict(self.request)}
        return record if self.tag else {key: value for key, value in record.items() if key != "tag"}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Condition":
        """Read what `to_json` wrote."""
        return cls(**{**record, "source_layers": tuple(record["source_layers"])})


BASELINE = Condition(id="baseline", kind="baseline", label="baseline")


def from_tag(tag: str) -> str:
    """How labels say which prompts the RVs of a condition are from; nothing for all of them."""
    return f", from {tag}" if tag else ""


def is_adapter(condition: Condition) -> bool:
    """Whether the condition's weights are edited by a LoRA adapter instead of in a checkpoint."""
    return condition.kind == "checkpoint" and condition.id.startswith("adapter:")
