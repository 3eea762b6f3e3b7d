"""Scores of a run, arranged by condition, prompt set and prompt; what is unscored is counted with its reason."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from eval.plan.conditions import Condition
from eval.records.manifest import JudgeRecord
from eval.records.measures import MEASURES, response_means
from eval.records.rows import SCORED, Generation, Verdict
from eval.records.run import Run
from surgery.console.errors import RefusalError

NOT_GENERATED, NOT_JUDGED = "not generated", "not judged"


class NoScoresError(RefusalError):
    """Nothing was scored where a number is asked for."""


class JudgeChoiceError(RefusalError):
    """The judge asked for did not judge this run, or no judge fits all runs."""


@dataclass(frozen=True)
class PromptKey:
    """One prompt of a prompt set, with its tags."""

    id: str
    prompt: str
    category: str
    tier: int | None


@dataclass(frozen=True)
class Scores:
    """One condition's scores on one prompt set.

    A response's value is the mean over the judge's scored repeats of it, and a prompt's the mean over its scored
    responses: repeats and samples of one prompt are not independent, prompts are.

    Attributes:
        prompts: [n_prompts], the same order for every condition of the run.
        values: measure's name -> [n_prompts] float64 in 0..1; NaN where no sample of the prompt is scored.
        scored_share: [n_prompts], share of the samples asked for that are scored.
        n, n_scored: responses asked for, and those with scores.
        reasons: why the others are unscored -> how many.
    """

    condition: Condition
    prompt_set: str
    prompts: tuple[PromptKey, ...]
    values: Mapping[str, NDArray[np.float64]]
    scored_share: NDArray[np.float64]
    n: int
    n_scored: int
    reasons: Mapping[str, int] = field(default_factory=dict)

    @property
    def compliance(self) -> NDArray[np.float64]:
        """[n_prompts], as in `values`."""
        return self.values["compliance"]

    @property
    def n_unscored(self) -> int:
        """Responses without scores."""
        return self.n - self.n_scored

    def scored(self, measure: str) -> NDArray[np.float64]:
        """[n] values of the scored prompts. Raises: NoScoresError when there is none."""
        kept = self.values[measure]
        kept = kept[~np.isnan(kept)]
        if kept.size == 0:
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(self.reasons.items())) or "no prompts"
            raise NoScoresError(
                f"{self.condition.id}, {self.prompt_set} prompts: 0 of {self.n} responses are scored ({reasons}); "
                "judge the run again"
            )
        return kept

    def mean(self, measure: str = "compliance") -> float:
        """Mean over the scored prompts. Raises: NoScoresError when there is none."""
        return float(self.scored(measure).mean())

    def only(self, keep: Sequence[bool] | NDArray[np.bool_]) -> "Scores":
        """The same scores on a subset of the prompts (counts are then of prompts)."""
        mask = np.asarray(keep, dtype=bool)
        prompts = tuple(prompt for prompt, kept in zip(self.prompts, mask, strict=True) if kept)
        values = {name: each[mask] for name, each in self.values.items()}
        n_scored = int((~np.isnan(values["compliance"])).sum())
        share = self.scored_share[mask]
        return Scores(self.condition, self.prompt_set, prompts, values, share, len(prompts), n_scored)


class ScoredRun:
    """A run read once, with the verdicts of one judge."""

    def __init__(self, run: Run, judge_id: str):
        self.run, self.judge_id = run, judge_id
        self.conditions = run.conditions
        self.generations = run.generations()
        self.repeats: dict[str, list[Verdict]] = defaultdict(list)
        for verdict in run.verdicts(judge_id):
            self.repeats[verdict.item_id].append(verdict)

    @property
    def judge_label(self) -> str:
        """Who gave the verdicts: the kind of judge, its models and rubric, and its id, which no other judge has."""
        if self.heuristic:
            return f"heuristic judge ({self.judge_id})"
        known = self.run.manifest.judges.get(self.judge_id, JudgeRecord())
        model, second = known.get("model", self.judge_id), known.get("fallback", {}).get("model")
        kind = "guard" if known.get("kind") == "guard" else "LLM judge"
        rubric = " ".join(str(known[key]) for key in ("rubric", "rubric_version") if key in known)
        told = [f"{kind} {model}", f"else {second}" if second else "", f"rubric {rubric}" if rubric else ""]
        return ", ".join(filter(None, told)) + (f" ({self.judge_id})" if self.judge_id != model else "")

    @property
    def heuristic(self) -> bool:
        """Whether the judge is the heuristic one."""
        return is_heuristic(self.run, self.judge_id)

    @cached_property
    def verdicts(self) -> dict[str, Verdict]:
        """Item id -> the first scored repeat of its verdict, or its first one where none is scored."""
        return {
            key: min(rows, key=lambda row: (row.status != SCORED, row.repeat)) for key, rows in self.repeats.items()
        }

    @cached_property
    def prompts(self) -> dict[str, tuple[PromptKey, ...]]:
        """Prompt set -> its prompts, in the order of the first appearance."""
        seen: dict[str, dict[str, PromptKey]] = defaultdict(dict)
        for row in self.generations:
            seen[row.prompt_set].setdefault(row.prompt_id, PromptKey(row.prompt_id, row.prompt, row.category, row.tier))
        return {name: tuple(prompts.values()) for name, prompts in seen.items()}

    @cached_property
    def _grouped(self) -> dict[tuple[str, str], list[Generation]]:
        groups: dict[tuple[str, str], list[Generation]] = defaultdict(list)
        for row in self.generations:
            groups[row.condition_id, row.prompt_set].append(row)
        return groups

    @cached_property
    def n_samples(self) -> int:
        """Samples per prompt: as many as the run asks for, or has."""
        written = 1 + max((row.sample for row in self.generations), default=0)
        return max(written, self.run.manifest.samples)

    def responses(self, condition_id: str, prompt_set: str) -> list[Generation]:
        """The responses of one condition, in the order they were written."""
        return self._grouped.get((condition_id, prompt_set), [])

    def has(self, condition: Condition, prompt_set: str) -> bool:
        """Whether the condition answered any prompt of the set."""
        return (condition.id, prompt_set) in self._grouped

    def scores(self, condition: Condition, prompt_set: str) -> Scores:
        """The condition's scores on a prompt set; prompts that it never answered count as unscored."""
        return self._scores[condition.id, prompt_set]

    @cached_property
    def _scores(self) -> dict[tuple[str, str], Scores]:
        sets = list(self.prompts)
        return {(c.id, name): self._arrange(c, name) for c in self.conditions for name in sets if self.has(c, name)}

    def _arrange(self, condition: Condition, prompt_set: str) -> Scores:
        prompts, rows = self.prompts[prompt_set], self.responses(condition.id, prompt_set)
        position = {prompt.id: index for index, prompt in enumerate(prompts)}
        reasons = Counter({NOT_GENERATED: len(prompts) * self.n_samples - len(rows)})
        sums, n_scored = {each.name: np.zeros(len(prompts)) for each in MEASURES}, np.zeros(len(prompts))
        for row in rows:
            means = response_means(self.repeats.get(row.item_id, ()))
            if means is None:
                verdict = self.verdicts.get(row.item_id)
                reasons[verdict.reason if verdict is not None else NOT_JUDGED] += 1
                continue
            n_scored[position[row.prompt_id]] += 1
            for name, value in means.items():
                sums[name][position[row.prompt_id]] += value
        n, counts = len(prompts) * self.n_samples, np.where(n_scored > 0, n_scored, np.nan)
        values = {name: total / counts for name, total in sums.items()}
        share, reasons = n_scored / self.n_samples, +reasons
        return Scores(condition, prompt_set, prompts, values, share, n, int(n_scored.sum()), dict(reasons))


def is_heuristic(run: Run, judge_id: str) -> bool:
    """Whether a judge is the built-in heuristic rather than a language model."""
    return "heuristic" in run.manifest.judges.get(judge_id, JudgeRecord()).get("kind", judge_id).lower()


def open_scored(runs: Sequence[Run], judge_id: str | None = None) -> list[ScoredRun]:
    """Read runs with one judge for all of them, so that no table mixes judges.

    Args:
        judge_id: the judge to use; without it a language-model judge is preferred to the heuristic one, then the judge
            with the most scores.
    Raises: JudgeChoiceError when that judge did not judge every run, or no judge did; NoScoresError when a run has no
        score or no scored baseline.
    """
    counts = [count_scored(run) for run in runs]
    chosen = judge_id or _preferred_judge(runs, counts)
    for run, count in zip(runs, counts, strict=True):
        if not count[chosen]:
            known = ", ".join(sorted(count)) or "none"
            raise JudgeChoiceError(
                f"{run.path}: no response is scored by judge {chosen!r} (judges with scores: {known})"
            )
    return [ScoredRun(run, chosen) for run in runs]


def count_scored(run: Run) -> Counter[str]:
    """Judge id -> responses of the run that it scored."""
    return Counter(
        judge for judge, _ in {(row.judge_id, row.item_id) for row in run.verdicts() if row.status == SCORED}
    )


def _preferred_judge(runs: Sequence[Run], counts: Sequence[Counter[str]]) -> str:
    for run, count in zip(runs, counts, strict=True):
        if not count:
            raise NoScoresError(f"{run.path}: no response is scored; judge it first: refusal judge {run.path}")
    common = set.intersection(*(set(count) for count in counts))
    if not common:
        found = "; ".join(f"{run.path}: {', '.join(sorted(count))}" for run, count in zip(runs, counts, strict=True))
        raise JudgeChoiceError(
            f"no judge scored all runs ({found}); judge them with the same one, or report them apart"
        )
    total = sum(counts, Counter())
    return max(sorted(common), key=lambda judge: (not is_heuristic(runs[0], judge), total[judge]))
