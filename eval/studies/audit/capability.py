"""What the ablations that work best cost on benchmarks, scored as `refusal benchmark` scores them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from eval.cost.benchmark.benchmark import Benchmark, TaskOutcome
from eval.cost.benchmark.compared import identified
from eval.cost.benchmark.settings import Settings
from eval.cost.benchmark.tasks import Task, count_documents
from eval.cost.benchmark.vllm_backend import VllmBackend
from eval.generation.study_date import made_on
from eval.plan.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Callable

    from eval.studies.audit.bench import Bench

NONE = "none"
"""The value of --tasks that leaves benchmarks out."""


@dataclass(frozen=True)
class Capability:
    """The benchmarks of an audit.

    Attributes:
        tasks: empty to leave them out.
        limit: documents of each (sub)task; None for all.
    """

    tasks: Sequence[Task] = field(default_factory=tuple)
    limit: int | None = None

    def __str__(self) -> str:
        names = ", ".join(f"{task.name} ({self._n_documents(task)})" for task in self.tasks)
        return f"benchmarks, of the baseline and of at most five ablations: {names or NONE}"

    def measure(self, bench: "Bench", plan: Plan, tell: "Callable[[str], None]") -> "list[TaskOutcome]":
        """Score what is missing under the plan's run-time conditions, by the engine that answered the rest.

        Returns: one outcome per task and condition, whose id is its `variant`.
        Raises: what `Benchmark.run` raises; what was scored is kept.
        """
        if not self.tasks:
            return []

        plan = identified(plan, bench.info)
        settings = Settings(self.limit, dtype=bench.engine.dtype, date=bench.date)
        backend, made = VllmBackend(bench.info, plan, bench.engine), made_on(plan, None)
        asked = (bench.folder / "capability", bench.info, plan.conditions, settings, backend)
        return list(Benchmark(*asked, with_damage=False, made=made).run(self.tasks, tell, bench.arguments).outcomes)

    def _n_documents(self, task: Task) -> str:
        n_all = count_documents(task)
        if n_all is None:
            return f"at most {self.limit} documents a task" if self.limit else "all documents"
        return f"{min(n_all, self.limit or n_all)} documents"
