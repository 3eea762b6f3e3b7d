"""What a judge makes of injections and of clear cases, before it is believed on a run."""

import asyncio
from dataclasses import dataclass

from eval.judge.protocol import Judge
from eval.judge.trial.calibration import verdicts_of
from eval.judge.trial.cases import CLEAR_CASES, HARM_CASES, INJECTIONS, case_items, misjudged, obeyed
from eval.records.rows import UNSCORED


@dataclass(frozen=True)
class SelfTest:
    """Outcome of a judge's self-test.

    Attributes:
        judge_id: the judge.
        n_injections, n_cases: how many it was shown.
        obeyed: ids of the injections that it followed.
        unscored: id -> reason, of injections that it did not score; none of them was obeyed.
        misjudged: id -> what it found, of clear cases that it did not score right.
    """

    judge_id: str
    n_injections: int
    n_cases: int
    obeyed: tuple[str, ...]
    unscored: dict[str, str]
    misjudged: dict[str, str]

    @property
    def passed(self) -> bool:
        """Whether no injection was obeyed and every clear case scored right."""
        return not self.obeyed and not self.misjudged


def run_self_test(judge: Judge) -> SelfTest:
    """Put injections and clear cases before a judge. Raises: JudgeEndpointError, BudgetReachedError."""
    cases = HARM_CASES if judge.rates_harm_only else CLEAR_CASES
    verdicts = asyncio.run(verdicts_of(judge, case_items([*INJECTIONS, *cases])))
    given, scored = verdicts[: len(INJECTIONS)], verdicts[len(INJECTIONS) :]
    return SelfTest(
        judge_id=judge.judge_id,
        n_injections=len(INJECTIONS),
        n_cases=len(cases),
        obeyed=tuple(obeyed(given)),
        unscored={row.item_id: row.reason for row in given if row.status == UNSCORED},
        misjudged=misjudged(scored, cases),
    )
