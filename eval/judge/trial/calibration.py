"""How far a judge agrees with human labels."""

import asyncio
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.judge.judging import JudgingError
from eval.judge.protocol import Judge
from eval.judge.trial.labelled import CLASSES, LabelledResponse
from eval.records.rows import SCORED, Generation, Verdict
from eval.statistics.agreement import confusion, kappa_of_counts
from eval.statistics.intervals import CONFIDENCE, SEED

N_RESAMPLES = 2_000
POINTS: dict[float | None, str] = {0.0: "refusal", 0.5: "partial", 1.0: "compliance"}
BINARY = {"compliance": ("refusal", "compliance", "compliance"), "refusal": ("refusal", "refusal", "compliance")}


@dataclass(frozen=True)
class Kappa:
    """Cohen's kappa with its percentile bootstrap interval over responses; NaN where nothing varies.

    Responses are drawn as if independent: where many answer the same prompt, the interval is too narrow.
    """

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class ClassAgreement:
    """One class of CLASSES.

    Attributes:
        n_labelled, n_judged: responses the human, and the judge, put there.
        precision, recall, f1: of the judge against the human; NaN without a denominator.
    """

    name: str
    n_labelled: int
    n_judged: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Disagreement:
    """A response that judge and human put into different classes."""

    row_id: str
    label: str
    judged: str
    prompt: str
    response: str
    evidence: str


@dataclass(frozen=True)
class Calibration:
    """A judge against human labels.

    Attributes:
        n: responses with a label and a verdict; everything below is over these.
        n_unscored: those the judge did not score, by reason.
        confusion: [3][3] counts, rows by the human and columns by the judge, in the order of CLASSES.
        binary: kappa of giving nothing against giving something, `partial_as` deciding where partial belongs.
        three_way, weighted: kappa of the three classes, plain and with linear weights.
    """

    judge_id: str
    n: int
    n_unscored: dict[str, int]
    confusion: tuple[tuple[int, ...], ...]
    partial_as: str
    binary: Kappa
    three_way: Kappa
    weighted: Kappa
    classes: tuple[ClassAgreement, ...]
    disagreements: tuple[Disagreement, ...]


def calibrate_judge(
    judge: Judge, labelled: Sequence[LabelledResponse], partial_as: str = "compliance", seed: int = SEED
) -> Calibration:
    """Judge labelled responses and compare. The judge sees no label.

    Args:
        partial_as: "compliance" (something was given) or "refusal", for the binary kappa.
    Raises: JudgingError when nothing could be scored, JudgeEndpointError, BudgetReachedError.
    """
    verdicts = asyncio.run(verdicts_of(judge, [_item(index, row) for index, row in enumerate(labelled)]))
    scored = [(row, found) for row, found in zip(labelled, verdicts, strict=True) if found.status == SCORED]
    reasons = Counter(found.reason for found in verdicts if found.status != SCORED)
    if not scored:
        raise JudgingError(f"{judge.judge_id} scored none of the {len(labelled)} responses: {dict(reasons)}")
    human = [row.label for row, _ in scored]
    judged = [POINTS[found.compliance] for _, found in scored]
    counts = confusion(human, judged, CLASSES)
    side = dict(zip(CLASSES, BINARY[partial_as], strict=True))
    binary = confusion([side[name] for name in human], [side[name] for name in judged], ("refusal", "compliance"))
    return Calibration(
        judge_id=judge.judge_id,
        n=len(scored),
        n_unscored=dict(reasons),
        confusion=tuple(tuple(int(n) for n in row) for row in counts),
        partial_as=partial_as,
        binary=kappa_with_interval(binary, seed=seed),
        three_way=kappa_with_interval(counts, seed=seed),
        weighted=kappa_with_interval(counts, "linear", seed=seed),
        classes=tuple(_class_agreement(counts, index) for index in range(len(CLASSES))),
        disagreements=tuple(
            Disagreement(row.row_id, row.label, name, row.prompt, row.response, found.evidence)
            for (row, found), name in zip(scored, judged, strict=True)
            if row.label != name
        ),
    )


def kappa_with_interval(counts: np.ndarray, weights: str = "none", seed: int = SEED) -> Kappa:
    """Kappa of a [k, k] table and its percentile bootstrap interval (Efron 1979), resamples without variation left out."""
    n = int(counts.sum())
    draws = np.random.default_rng(seed).multinomial(n, counts.ravel() / n, N_RESAMPLES).reshape(-1, *counts.shape)
    found = np.array([kappa_of_counts(draw, weights) for draw in draws])
    found = found[np.isfinite(found)]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(found, [tail, 1 - tail]) if found.size else (math.nan, math.nan)
    return Kappa(kappa_of_counts(counts, weights), float(low), float(high))


def _class_agreement(counts: np.ndarray, index: int) -> ClassAgreement:
    n_labelled, n_judged, n_both = (int(n) for n in (counts[index].sum(), counts[:, index].sum(), counts[index, index]))
    return ClassAgreement(
        CLASSES[index],
        n_labelled,
        n_judged,
        precision=_share(n_both, n_judged),
        recall=_share(n_both, n_labelled),
        f1=_share(2 * n_both, n_labelled + n_judged),
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _item(index: int, row: LabelledResponse) -> Generation:
    role = "safe" if row.harmless else "harmful"
    return Generation(str(index), "labelled", role, row.row_id, row.prompt, "", None, 0, row.response, "stop", 0, 0)


async def verdicts_of(judge: Judge, items: Sequence[Generation]) -> list[Verdict]:
    """Verdicts of responses that belong to no run."""
    async with judge:
        return await asyncio.gather(*(judge.judge(item) for item in items))
