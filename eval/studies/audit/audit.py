"""The stages of an audit: choose on one half, measure on the other, then the cost and the reverse test."""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from eval.cost.benchmark.benchmark import TaskOutcome
from eval.cost.damage.records import load_damage
from eval.generation.answering import Start
from eval.generation.job import HARMFUL, SAFE
from eval.plan.conditions import BASELINE
from eval.plan.plan import Plan
from eval.statistics.intervals import Interval
from eval.statistics.scores import NoScoresError, ScoredRun
from eval.statistics.summaries import Agreement, Summary, agreement, is_candidate, summarize_all
from eval.studies.audit.bench import Bench
from eval.studies.audit.capability import Capability
from eval.studies.audit.design import N_RANDOM, AuditSize, split_in_halves
from eval.studies.audit.findings import AuditMeasurement, AuditSelection, Findings, FormPath
from eval.studies.audit.greedy import Layers, Step, forward_selection, headline_step
from eval.studies.audit.interventions import Interventions
from eval.studies.audit.kept_engine import KeptEngine
from eval.studies.audit.verdict import TARGETS, AuditEvidence, Form, Point, Reached, conclude, smallest_reaching
from eval.studies.study import run_command
from surgery.prompts import PromptSet
from surgery.residual.subspace import Subspace
from surgery.weights.manifest import read_manifest

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Audit:
    """One audit: what it asks, and with what.

    Attributes:
        selection, measuring: the halves of the harmful prompts.
        tell: shows one line of progress.
        capability: the benchmarks of what works best.
    """

    bench: Bench
    size: AuditSize
    seed: int
    selection: PromptSet[Any]
    measuring: PromptSet[Any]
    safe: PromptSet[Any]
    tell: Tell
    provenance: Mapping[str, Any]
    capability: Capability = field(default_factory=Capability)

    @property
    def alpha(self) -> float:
        """The reference strength: 1 where it is asked for, else the largest."""
        return 1.0 if 1.0 in self.size.alphas else max(self.size.alphas)

    def run(self) -> Findings:
        """Everything that is missing. Raises: RefusalError; what was answered is kept."""
        bench = self.bench
        made = Interventions(bench.info, bench.rvs, bench.folder / "modules")
        selection = self._select(made)
        checkpoint = self._checkpoint(selection.headline.layers) if self.size.weights else None
        measured = self._measure(made, selection, checkpoint)
        evidence = _evidence(measured, selection, self.size.largest)
        reached = _reached(measured, self.size.largest)
        best = self._best_ablations(made, selection, reached)
        cost, outcomes = self._cost(best), self._capability(best)
        reverse = self._reverse(made)
        record = load_damage(bench.path("cost"))
        return Findings(
            self.size,
            self.seed,
            selection,
            measured,
            evidence,
            conclude(evidence),
            reached,
            cost,
            record.conditions if record else {},
            outcomes,
            reverse,
            self.provenance,
        )

    def _select(self, made: Interventions) -> AuditSelection:
        """Stage 1: every single vector three ways; then greedy steps; then the sets of the path in the other forms."""
        n_layers = self.bench.info.n_layers
        plain = {layer: made.plain((layer,), self.alpha) for layer in range(n_layers)}
        affine = {layer: made.affine((layer,), layer) for layer in range(n_layers)}
        projected = {layer: made.projected((layer,)) for layer in range(n_layers)}
        scored = self._ask("selection-01", "every single vector", made.plan(), self.selection)
        found = {condition.id: _mean(scored, condition.id) for condition in scored.conditions}
        singles = {layer: found[name] for layer, name in plain.items()}
        with KeptEngine(self.size.largest, max(n_layers, 2 * self.size.largest)) as kept:
            score = self._scorer(made, singles, kept)
            steps = forward_selection(self.size.candidates, score, made.novelty, self.size.max_rank, found[BASELINE.id])
            forms = self._other_forms(made, steps, _best(affine, found), _best(projected, found), kept)
        return AuditSelection(steps, headline_step(steps), summarize_all(scored, HARMFUL), *forms)

    def _other_forms(
        self,
        made: Interventions,
        steps: Sequence[Step],
        affine: tuple[int, float],
        projected: tuple[int, float],
        kept: KeptEngine,
    ) -> tuple[FormPath, FormPath]:
        """The affine and the projected path: the best single layer with its score, then the sets of the later steps."""
        sets = [step.layers for step in steps[1:]]
        names = [made.affine(layers, affine[0]) for layers in sets], [made.projected(layers) for layers in sets]
        scores: list[list[float]] = [[], []]
        if sets:
            what = "the sets chosen in two other forms"
            scored = self._ask("selection-forms", what, made.plan(False), self.selection, start=kept.start)
            scores = [[_mean(scored, name) for name in each] for each in names]
        first, second = (
            FormPath([(layer,), *sets], [score, *later], layer)
            for (layer, score), later in zip((affine, projected), scores, strict=True)
        )
        return first, second

    def _scorer(
        self, made: Interventions, singles: Mapping[int, float], kept: KeptEngine
    ) -> Callable[[Sequence[Layers]], list[float]]:
        """Scores of sets of one size: of single vectors as they are known, of others by a run of their own."""

        def score(sets: Sequence[Layers]) -> list[float]:
            if len(sets[0]) == 1:
                return [singles[layer] for (layer,) in sets]
            names = [made.plain(layers, self.alpha) for layers in sets]
            stage, what = f"selection-{len(sets[0]):02}", f"{len(sets)} sets of {len(sets[0])} layers"
            scored = self._ask(stage, what, made.plan(False), self.selection, start=kept.start)
            return [_mean(scored, name) for name in names]

        return score

    def _measure(self, made: Interventions, selection: AuditSelection, checkpoint: Path | None) -> AuditMeasurement:
        """Stage 2: what was chosen, on the prompts that nothing was chosen on."""
        path = {
            (index, alpha): made.plain(step.layers, alpha)
            for index, step in enumerate(selection.steps)
            for alpha in self.size.alphas
        }
        headline = path[selection.steps.index(selection.headline), self.alpha]
        made.controls([made.subspace(step.layers).rank for step in selection.steps], N_RANDOM, self.alpha)
        affine = [made.affine(layers, selection.affine.at) for layers in selection.affine.layers]
        projected = [made.projected(layers) for layers in selection.projected.layers]
        writes = made.plain(selection.headline.layers, self.alpha, "writes")
        edited = made.checkpoint(checkpoint) if checkpoint else None
        scored = self._ask("measured", "what was chosen, on the other prompts", made.plan(), self.measuring)
        rows = {row.condition.id: row for row in summarize_all(scored, HARMFUL)}
        weights = edited and _agreement(scored, writes, edited)
        against = _agreement(scored, headline, writes)
        return AuditMeasurement(scored, rows, path, self.alpha, affine, projected, headline, against, weights or None)

    def _checkpoint(self, layers: Layers) -> Path:
        """The weights orthogonalized against the headline set, by the commands that a user would type."""
        subspace, checkpoint = self.bench.folder / "subspace.safetensors", self.bench.folder / "checkpoint"
        kept = [Subspace.load(subspace).source_layers] if subspace.exists() else []
        kept += [read_manifest(checkpoint)["basis"]["source_layers"]] if checkpoint.exists() else []
        again = ["--force"] if any(set(others) != set(layers) for others in kept) else []  # chosen by fewer verdicts
        commands: dict[Path, tuple[object, ...]] = {
            subspace: ("subspace", self.bench.rvs, "--layers", ",".join(map(str, layers))),
            checkpoint: ("orthogonalize", self.bench.info.path, subspace, "--alpha", self.alpha),
        }
        for target, words in commands.items():
            if again or not target.exists():
                with redirect_stdout(sys.stderr):
                    run_command(*words, "-o", target, *again)
        return checkpoint

    def _best_ablations(self, made: Interventions, selection: AuditSelection, reached: Sequence[Reached]) -> Plan:
        """The subspace chosen, the ablations that reach the targets, and the best of the other forms."""
        wanted = [(selection.headline.layers, self.alpha)]
        points = [each.point for each in reached if each.point and each.point.rank > 0]
        wanted += [(selection.steps[point.step].layers, point.alpha) for point in points]
        for layers, alpha in dict.fromkeys(wanted):
            made.plain(layers, alpha)
        made.affine(selection.affine.chosen, selection.affine.at)
        made.projected(selection.projected.chosen)
        return made.plan()

    def _cost(self, best: Plan) -> list[Summary]:
        """Stage 3: safe prompts under the ablations that work best, and how far distributions move."""
        scored = self._ask("cost", "safe prompts under the ablations that work best", best, self.safe, SAFE)
        with redirect_stdout(sys.stderr):
            run_command("damage", self.bench.path("cost"))
        return summarize_all(scored, SAFE)

    def _capability(self, best: Plan) -> list[TaskOutcome]:
        """Stage 4: benchmarks under the same ablations."""
        if self.capability.tasks:
            self.tell(f"capability: {self.capability}")
        with redirect_stdout(sys.stderr):
            return self.capability.measure(self.bench, best, self._progress)

    def _progress(self, line: str) -> None:
        self.bench.check_interrupted()
        self.tell(line)

    def _reverse(self, made: Interventions) -> list[Summary]:
        """Stage 5: each layer's vector added to safe prompts."""
        for layer in range(self.bench.info.n_layers):
            made.added(layer)
        scored = self._ask("reverse", "each vector added to safe prompts", made.plan(), self.safe, SAFE)
        return summarize_all(scored, SAFE)

    def _ask(
        self,
        stage: str,
        what: str,
        plan: Plan,
        prompts: PromptSet[Any],
        prompt_set: str = HARMFUL,
        start: Start | None = None,
    ) -> ScoredRun:
        self.tell(f"{stage}: {what} ({len(plan.conditions)} conditions x {len(prompts)} prompts)")
        return self.bench.ask(stage, plan, prompt_set, prompts, start)


def halves(prompts: PromptSet[Any], seed: int) -> tuple[PromptSet[Any], PromptSet[Any]]:
    """A selection and a measuring half that know where they are from. Raises: AuditError with too few prompts."""
    first, second = split_in_halves(prompts, seed)
    return replace(prompts, prompts=tuple(first)), replace(prompts, prompts=tuple(second))


def _mean(scored: ScoredRun, condition_id: str) -> float:
    """Mean compliance. Raises: NoScoresError when nothing of the condition is scored."""
    condition = next(each for each in scored.conditions if each.id == condition_id)
    return scored.scores(condition, HARMFUL).mean()


def _best(names: Mapping[int, str], found: Mapping[str, float]) -> tuple[int, float]:
    """The candidate layer of the highest score, and that; of equal ones the first."""
    candidates = [layer for layer in names if is_candidate(layer, len(names))]
    best = max(candidates, key=lambda layer: found[names[layer]])
    return best, found[names[best]]


def _evidence(measured: AuditMeasurement, selection: AuditSelection, largest: int) -> AuditEvidence:
    """The intervals that the verdict rests on."""
    ranks: dict[int, Interval] = {}
    for index in range(len(selection.steps)):
        row = measured.rows[measured.path[index, measured.alpha]]
        ranks.setdefault(row.condition.rank, _compliance(row))
    control = max((_compliance(row) for row in measured.randoms), key=lambda interval: interval.high)
    chosen = (measured.affine[selection.affine.best], measured.projected[selection.projected.best])
    rows = (measured.rows[name] for name in chosen)
    affine, projected = (Form(row.condition.rank, _compliance(row)) for row in rows)
    return AuditEvidence(_compliance(measured.baseline), control, ranks, largest, affine, projected)


def _reached(measured: AuditMeasurement, largest: int) -> list[Reached]:
    rows = [(index, measured.rows[name]) for (index, _), name in measured.path.items()]
    points = [Point(0, 0.0, _compliance(measured.baseline))]
    points += [Point(row.condition.rank, row.condition.alpha, _compliance(row), index) for index, row in rows]
    return [smallest_reaching(points, target, largest) for target in TARGETS]


def _compliance(row: Summary) -> Interval:
    """Of a row that has numbers. Raises: NoScoresError."""
    if row.compliance is None:
        raise NoScoresError(f"{row.condition.id}: none of its {row.n} responses is scored ({dict(row.reasons)})")
    return row.compliance


def _agreement(scored: ScoredRun, first: str, second: str) -> Agreement:
    conditions = {condition.id: condition for condition in scored.conditions}
    return agreement(scored, HARMFUL, conditions[first], conditions[second])
