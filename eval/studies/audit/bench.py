"""Putting conditions to prompts: one judged run folder for each stage of an audit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.generation.answering import Start
from eval.generation.job import Job
from eval.generation.study_date import recorded_date
from eval.plan.plan import Plan
from eval.records.run import Run
from eval.statistics.scores import ScoredRun, open_scored
from eval.studies.audit.design import AuditError
from surgery.model.models import ModelInfo
from surgery.prompts import PromptSet
from vllm_refusal.engine.engine import EngineOptions, Sampling

if TYPE_CHECKING:
    from eval.judge.protocol import Judge


@dataclass(frozen=True)
class Bench:
    """What all stages share.

    Attributes:
        folder: of the audit; each stage is a run in `folder/runs`.
        make_judge: a judge of the same settings for each stage.
        arguments: the words after `refusal` that asked for the audit.
        check_interrupted: called after each response; may raise.
    """

    folder: Path
    info: ModelInfo
    rvs: Path
    sampling: Sampling
    engine: EngineOptions
    make_judge: "Callable[[], Judge]"
    arguments: Sequence[str] = ()
    check_interrupted: Callable[[], None] = lambda: None

    def path(self, stage: str) -> Path:
        """A stage's run folder."""
        return self.folder / "runs" / stage

    @property
    def date(self) -> str | None:
        """That chat templates are told, as the stages so far have it; None before the first or where none asks."""
        return next(filter(None, map(recorded_date, sorted(self.folder.glob("runs/*")))), None)

    def ask(
        self, stage: str, plan: Plan, prompt_set: str, prompts: PromptSet[Any], start: Start | None = None
    ) -> ScoredRun:
        """Answer and judge what the stage still lacks.

        Args:
            start: gives the engine, by default a new one.
        Raises: AuditError when the judging stopped before the end; NoScoresError when nothing was scored.
        """
        judge, path = self.make_judge(), self.path(stage)
        files, sets = {prompt_set: prompts.source}, {prompt_set: prompts}
        asked = Job(self.info, plan, files, sets, self.sampling, self.engine, judge=judge, rvs=self.rvs)
        asked = replace(asked, arguments=tuple(self.arguments), start=start, date=self.date)
        asked.run(path, False, self.check_interrupted)
        run = Run.open(path)
        check_judged(run, judge.judge_id)
        return open_scored([run], judge.judge_id)[0]


def check_judged(run: Run, judge_id: str) -> None:
    """Raises: AuditError when responses have no verdict, not even that they cannot be scored."""
    missing = run.generated_ids() - {verdict.item_id for verdict in run.verdicts(judge_id)}
    if missing:
        raise AuditError(f"{run.path}: {len(missing)} responses are not judged yet; the same command goes on")
