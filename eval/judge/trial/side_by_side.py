"""Judges of one run side by side: every two on the responses that both scored, and all of them together."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from eval.records.rows import SCORED
from eval.records.run import Run
from eval.statistics.agreement import confusion, kappa_of_counts, krippendorff_alpha
from eval.statistics.intervals import Interval, wilson
from surgery.console.errors import RefusalError

POINTS = (0.0, 0.5, 1.0)


class AgreementError(RefusalError):
    """There are no two judges to compare."""


@dataclass(frozen=True)
class JudgeAgreement:
    """Two judges' compliance of the same responses, by the first scored verdict of each.

    Attributes:
        first, second: judge ids.
        n: responses that both scored.
        means: of compliance by either judge, over these responses.
        same: share of them with equal compliance, with Wilson's interval.
        confusion: [3, 3] counts at compliance 0, 0.5, 1; rows by the first judge.
        kappa_binary: Cohen's kappa of "gives something" (0.5 or 1) against "gives nothing" (0).
        kappa_weighted: Cohen's kappa on the three points with linear weights.
        alpha, alpha_interval: Krippendorff's alpha, ordinal and interval.
    """

    first: str
    second: str
    n: int
    means: tuple[float, float]
    same: Interval
    confusion: tuple[tuple[int, ...], ...]
    kappa_binary: float
    kappa_weighted: float
    alpha: float
    alpha_interval: float


def compliance_by_judge(run: Run) -> dict[str, dict[str, float]]:
    """judge_id -> {item_id: compliance} of the first scored repeat of each response."""
    scores: dict[str, dict[str, float]] = defaultdict(dict)
    for row in sorted(run.verdicts(), key=lambda row: row.repeat):
        if row.status == SCORED and row.compliance is not None:
            scores[row.judge_id].setdefault(row.item_id, row.compliance)
    return dict(scores)


def compare_judges(run: Run) -> list[JudgeAgreement]:
    """Every two judges of a run on the responses that both scored; pairs without a common response are left out."""
    return _compare(compliance_by_judge(run))


def judges_side_by_side(run: Run) -> tuple[list[JudgeAgreement], float]:
    """Every two judges of a run with responses in common, and Krippendorff's ordinal alpha of all of them.

    Raises: AgreementError when fewer than two judges scored a response in common.
    """
    scores = compliance_by_judge(run)
    pairs = _compare(scores)
    if not pairs:
        known = ", ".join(sorted(scores)) or "none"
        raise AgreementError(
            f"{run.path}: agreement needs two judges with scores of the same responses, found: {known}; judge the run "
            "by another one as well"
        )
    items = sorted(set().union(*scores.values()))
    return pairs, krippendorff_alpha([[row.get(item, np.nan) for item in items] for row in scores.values()], "ordinal")


def _compare(scores: Mapping[str, Mapping[str, float]]) -> list[JudgeAgreement]:
    pairs = combinations(sorted(scores), 2)
    return [_agreement(*pair, scores) for pair in pairs if scores[pair[0]].keys() & scores[pair[1]].keys()]


def _agreement(first: str, second: str, scores: Mapping[str, Mapping[str, float]]) -> JudgeAgreement:
    common = sorted(scores[first].keys() & scores[second].keys())
    one, other = rows = [[scores[judge][item] for item in common] for judge in (first, second)]
    table = confusion(one, other, POINTS)
    gives = np.array([[table[0, 0], table[0, 1:].sum()], [table[1:, 0].sum(), table[1:, 1:].sum()]])
    return JudgeAgreement(
        first=first,
        second=second,
        n=len(common),
        means=(float(np.mean(one)), float(np.mean(other))),
        same=wilson(int(np.trace(table)), len(common)),
        confusion=tuple(tuple(int(n) for n in row) for row in table),
        kappa_binary=kappa_of_counts(gives),
        kappa_weighted=kappa_of_counts(table, "linear"),
        alpha=krippendorff_alpha(rows, "ordinal"),
        alpha_interval=krippendorff_alpha(rows, "interval"),
    )
