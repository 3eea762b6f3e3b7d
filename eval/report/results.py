"""Everything that is computed of one run, once, for its tables, figures and sentences."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from eval.plan.conditions import WEIGHTS, Condition
from eval.records.manifest import PromptSetRecord
from eval.report.planted import PlantedFacts
from eval.statistics.confirmation import Confirmation, confirm_best
from eval.statistics.scores import ScoredRun
from eval.statistics.summaries import Summary, is_candidate, summarize_all, sweeps

HARMFUL, SAFE, OVER_REFUSAL = "harmful", "safe", "overrefusal"


class Results:
    """Summaries of one run, and the rows that the report singles out.

    "Reference" means the write-up's setting: alpha 1 where the run has it, ablation of block outputs, all layers.
    """

    def __init__(self, scored: ScoredRun):
        self.scored = scored
        self.manifest = scored.run.manifest
        self.planted = PlantedFacts(self.manifest.ground_truth)

    @property
    def judge(self) -> str:
        """Who gave the verdicts, as every table names them."""
        return self.scored.judge_label

    @property
    def model_name(self) -> str:
        """A short name: the organism's, the hub id, or the last part of a folder."""
        name = self.manifest.model.get("model") or self.scored.run.path.name
        is_folder = name.startswith(("/", ".", "~")) or name.count("/") > 1
        return Path(name).name if is_folder else name

    @property
    def analysis(self) -> Mapping[str, Any]:
        """Per-layer statistics of the refusal vectors, empty when the run has none."""
        return self.manifest.analysis

    @cached_property
    def n_layers(self) -> int:
        """Decoder blocks of the model, or as many as the run shows."""
        known = self.manifest.model.get("n_layers") or len(self.analysis.get("cohens_d") or ())
        return int(known or 1 + max((layer for c in self.scored.conditions for layer in c.source_layers), default=0))

    @cached_property
    def tiers(self) -> list[int]:
        """The tiers of the harmful prompts, ascending."""
        return sorted({prompt.tier for prompt in self.scored.prompts[HARMFUL] if prompt.tier is not None})

    @cached_property
    def harmful(self) -> list[Summary]:
        """All conditions on the harmful prompts, in the run's order."""
        return self.of_set(HARMFUL)

    @cached_property
    def safe(self) -> list[Summary]:
        """All conditions on the safe prompts; empty when none were answered."""
        return self.of_set(SAFE)

    def of_set(self, prompt_set: str) -> list[Summary]:
        """All conditions on one prompt set; empty when none of it was answered."""
        return self.by_set.get(prompt_set, [])

    @cached_property
    def by_set(self) -> dict[str, list[Summary]]:
        """Prompt set -> all conditions on it: harmful first, then safe, then the others in the run's order."""
        names = sorted(self.scored.prompts, key=lambda name: (name != HARMFUL, name != SAFE))
        return {name: summarize_all(self.scored, name) for name in names}

    def is_harmless(self, prompt_set: str) -> bool:
        """Whether prompts of this set ought to be answered, so that refusing one is a false refusal."""
        role = self.manifest.prompt_sets.get(prompt_set, PromptSetRecord()).get("role")
        return SAFE in (prompt_set, role) or prompt_set.replace("-", "").replace("_", "") == OVER_REFUSAL

    def of_kind(self, *kinds: str) -> list[Summary]:
        """Conditions of these kinds on the harmful prompts."""
        return [row for row in self.harmful if row.condition.kind in kinds]

    @property
    def baseline(self) -> Summary | None:
        """The unedited model on the harmful prompts."""
        return next(iter(self.of_kind("baseline")), None)

    @cached_property
    def alpha(self) -> float:
        """The reference strength: 1 where the run has it, else the least one above zero."""
        alphas = {row.condition.alpha for row in self.of_kind("rv", "subspace", "named", *WEIGHTS)}
        return 1.0 if 1.0 in alphas or not alphas else min(alphas)

    @cached_property
    def sweep(self) -> list[Summary]:
        """The reference sweep: one row per source layer, ascending."""
        return self.sweeps_by_tag.get("", [])

    @cached_property
    def sweeps_by_tag(self) -> dict[str, list[Summary]]:
        """The reference sweep of the RVs of all prompts (tag ""), and the same of those of each tag."""
        families = sweeps(row.condition for row in self.of_kind("rv"))
        if not families:
            return {}

        def preference(key: tuple[float, str, str, str]) -> tuple[bool, bool, bool, bool, int]:
            alpha, site, layers, tag = key
            return not tag, alpha == self.alpha, site == "stream", layers == "all", len(families[key])

        reference = max(families, key=preference)[:3]
        rows = {row.condition.id: row for row in self.harmful}
        return {
            key[3]: [rows[condition.id] for condition in sorted(families[key], key=lambda c: c.source_layers)]
            for key in families
            if key[:3] == reference
        }

    def is_candidate(self, row: Summary) -> bool:
        """Whether a single RV may be called the best: not from the last fifth of the layers."""
        return all(is_candidate(layer, self.n_layers) for layer in row.condition.source_layers)

    @cached_property
    def confirmation(self) -> Confirmation | None:
        """The best candidate of the reference sweep chosen on half of the prompts and confirmed on the other half."""
        unedited = self.baseline
        baseline = self.scored.scores(unedited.condition, HARMFUL) if unedited else None
        return confirm_best([self.scored.scores(row.condition, HARMFUL) for row in self.candidates], baseline)

    @property
    def candidates(self) -> list[Summary]:
        """The rows of the reference sweep that may be called the best and have scores, lowest layer first."""
        return self.candidates_of("")

    def candidates_of(self, tag: str) -> list[Summary]:
        """The same of the RVs of one tag."""
        rows = self.sweeps_by_tag.get(tag, [])
        return [row for row in rows if self.is_candidate(row) and row.means]

    @cached_property
    def best_rv(self) -> Summary | None:
        """The candidate of the reference sweep with the highest compliance (then coherence, then the lowest layer)."""
        return _highest(self.candidates)

    @cached_property
    def subspaces(self) -> list[Summary]:
        """Subspaces at the reference strength, site and layers, smallest rank first."""
        return self.subspaces_of("")

    def subspaces_of(self, tag: str) -> list[Summary]:
        """The same of the RVs of one tag."""
        rows = [row for row in self.of_kind("subspace") if row.condition.tag == tag]
        rows = [row for row in rows if row.condition.alpha == self.alpha]
        rows = [row for row in rows if row.condition.site == "stream"] or rows
        rows = [row for row in rows if row.condition.layers == "all"] or rows
        return sorted(rows, key=lambda row: row.condition.rank)

    @property
    def best_subspace(self) -> Summary | None:
        """The reference subspace with the highest compliance (then coherence, then the smallest rank)."""
        return _highest(self.subspaces)

    @cached_property
    def checkpoint_pairs(self) -> list[tuple[Condition, Condition]]:
        """(runtime, checkpoint) conditions that remove the same span at the same strength and layers."""
        runtime = [c for c in self.scored.conditions if c.kind in ("rv", "subspace", "named")]
        checkpoints = [c for c in self.scored.conditions if c.kind in WEIGHTS]
        pairs = [(a, b) for b in checkpoints for a in runtime if _same_removal(a, b) and self._both_scored(a, b)]
        return sorted(pairs, key=lambda pair: (pair[1].id, pair[0].site != "writes"))

    def _both_scored(self, *conditions: Condition) -> bool:
        scored = {row.condition.id for row in self.harmful if row.n_scored}
        return all(condition.id in scored for condition in conditions)


def _same_removal(a: Condition, b: Condition) -> bool:
    same = (a.source_layers, a.layers, a.alpha, a.tag) == (b.source_layers, b.layers, b.alpha, b.tag)
    return bool(a.source_layers) and same


def _highest(rows: Sequence[Summary]) -> Summary | None:
    return max((row for row in rows if row.means), key=lambda row: row.height, default=None)
