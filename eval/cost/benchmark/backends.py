"""What is compared with a model, as the user names it, and which of it a server has."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.cost.benchmark.compared import check_names, module_of, named_edits
from eval.cost.benchmark.tasks import BenchmarkError
from eval.generation.study_date import dates_of
from eval.plan.conditions import Condition
from eval.plan.plan import Plan
from surgery.model.models import ModelInfo
from vllm_refusal.settings.module_options import parse_ablation_options

if TYPE_CHECKING:
    from eval.cost.benchmark.benchmark import Backend
    from eval.cost.benchmark.served_backend import Server


@dataclass(frozen=True)
class Edits:
    """What the user wants compared with the model.

    Attributes:
        ablations: --ablation, each as NAME=FILE[,...]; or, of a server, a name alone.
    """

    checkpoints: Sequence[Path] = ()
    adapters: Sequence[Path] = ()
    ablations: Sequence[str] = ()
    allow_other_model: bool = False

    def modules(self) -> dict[str, dict[str, Any]]:
        """Settings of the ablations that are files. Raises: OptionError, AlphaError."""
        return parse_ablation_options([text for text in self.ablations if "=" in text], self.allow_other_model)

    def dates(self) -> dict[str, str]:
        """Files and folders of the edits -> the date in the prompts behind them, where they say one."""
        files = [Path(settings["path"]) for settings in self.modules().values()]
        return dates_of(files, [*self.checkpoints, *self.adapters])

    def plan(self, info: ModelInfo) -> Plan:
        """The variants, ablations all of files. Raises: BenchmarkError, and what `named_edits` raises."""
        names = self.names()
        if names:
            raise BenchmarkError(
                f"--ablation {names[0]!r}: expected NAME=FILE[,alpha=A,layers=L,source_layer=N,site=S]; a name alone is of "
                "a server (--backend served)"
            )
        return named_edits(info, self.checkpoints, self.adapters, self.modules())

    def names(self) -> list[str]:
        """The ablations that are a server's own."""
        return [text.strip() for text in self.ablations if "=" not in text]


def served_backend(info: ModelInfo, edits: Edits, server: "Server") -> "tuple[Sequence[Condition], Backend]":
    """The server's model and ablations: those named, those of files that it has too, or all that it lists.

    Raises: BenchmarkError for edited weights, which cannot be told from others over HTTP, and for an ablation that the
        server does not have; ServersError likewise.
    """
    from eval.cost.benchmark.served_backend import ServedBackend

    elsewhere = [*edits.checkpoints, *edits.adapters]
    if elsewhere:
        raise BenchmarkError(
            f"{elsewhere[0]}: a server does not show which weights it has; benchmark it with --backend vllm or hf"
        )
    backend, settings, names = ServedBackend(server, info), edits.modules(), edits.names()
    plan = named_edits(info, (), (), settings)
    backend.use_files({each.id: module_of(each, plan, info) for each in plan.conditions[1:]}, settings)
    own = backend.use_own(names) if names or not settings else []
    variants = [*plan.conditions, *own]
    check_names(variants)
    return variants, backend
