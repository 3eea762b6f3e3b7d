"""Judging while a run is generated, as `generate` and `sweep` are asked to by the options of a judge."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from eval.generation.answering import Write
    from eval.judge.protocol import Judge
    from eval.records.run import Run


class JudgingBeside:
    """What the generation needs to know of the judging.

    Attributes:
        write: takes finished responses; None leaves them to the run.
    """

    def __init__(self, write: "Write | None" = None):
        self.write = write
        self._judged = self._put = 0

    def count(self, judged: int, put: int) -> None:
        """Remember how far the judging is."""
        self._judged, self._put = judged, put

    def __str__(self) -> str:
        return f"; {self._judged} judged" if self._put else ""


def asked_judge(choice: Mapping[str, Any]) -> "Judge | None":
    """The judge that the options of a generating command ask for; None when they name none.

    Raises: click.UsageError for options of a judge without --judge or --judge-model, and what `JudgeChoice.make` raises.
    """
    from eval.judge.choice import JudgeChoice

    asked = JudgeChoice(**choice)
    if asked.judge_name is None and asked.judge_model is None:
        asked.refuse(asked.given, "needs --judge or --judge-model")
        return None
    return asked.make()


@contextmanager
def judging_beside(run: "Run", judge: "Judge | None") -> Iterator[JudgingBeside]:
    """Have `judge` score what is written to the run meanwhile, and say at the end what it did; nothing without one.

    A judge that fails stops the judging only; a line says so and the command is to be repeated by `refusal judge`.
    """
    if judge is None:
        yield JudgingBeside()
        return
    from eval.judge.overlap import OverlappedJudging

    judge.keep_accounts(run.path)
    beside = JudgingBeside()
    with OverlappedJudging(run, judge, progress=beside.count) as judging:
        beside.write = judging.put
        yield beside
    if judging.fault is not None:
        click.echo(
            f"judging stopped: {judging.fault}; all responses are kept; refusal judge {run.path} goes on", err=True
        )
    elif judging.summary is not None:
        found = judging.summary
        click.echo(f"{found.judge_id}: {found.n_scored} scored, {found.n_unscored} unscored", err=True)
