"""Which backend answers, and the variants that it has."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.cost.benchmark.tasks import BenchmarkError
from eval.cost.benchmark.variants import Variant, make_variants
from eval.generation.study_date import dates_of
from surgery.model.models import ModelInfo
from vllm_refusal.settings.options import parse_ablation_options

if TYPE_CHECKING:
    from eval.cost.benchmark.served_backend import Server
    from eval.cost.benchmark.study import Backend

BACKENDS = ("hf", "vllm", "served")


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

    def names(self) -> list[str]:
        """The ablations that are a server's own."""
        return [text.strip() for text in self.ablations if "=" not in text]


def transformers_backend(
    info: ModelInfo, edits: Edits, dtype: str, batch_size: int | None
) -> "tuple[list[Variant], Backend]":
    """The variants, each to be loaded in transformers. Raises: what `make_variants` raises."""
    from eval.cost.benchmark.hf_backend import TransformersBackend

    variants = make_variants(info, edits.checkpoints, edits.adapters, _files_only(edits))
    return variants, TransformersBackend(info, dtype, batch_size)


def vllm_backend(
    info: ModelInfo, edits: Edits, dtype: str, batch_size: int | None, eager: bool | None, arguments: Mapping[str, Any]
) -> "tuple[list[Variant], Backend]":
    """The variants, to be answered by engines in this process. Raises: also BenchmarkError, as `VllmBackend`."""
    from eval.cost.benchmark.vllm_backend import VllmBackend
    from vllm_refusal.engine.engine import EngineOptions

    modules = _files_only(edits)
    variants = make_variants(info, edits.checkpoints, edits.adapters, modules)
    options = EngineOptions(dtype, eager, batch_size, vllm=dict(arguments))
    return variants, VllmBackend(info, variants, modules, options)


def served_backend(info: ModelInfo, edits: Edits, server: "Server") -> "tuple[list[Variant], Backend]":
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
    variants = make_variants(info, (), (), settings)
    backend.use_files({each.name: each.module for each in variants if each.module is not None}, settings)
    own = backend.use_own(names) if names or not settings else []
    both = {each.name for each in variants} & {each.name for each in own}
    if both:
        raise BenchmarkError(f"two variants are called {both.pop()!r}; rename an ablation")
    return [*variants, *own], backend


def _files_only(edits: Edits) -> dict[str, dict[str, Any]]:
    names = edits.names()
    if names:
        raise BenchmarkError(
            f"--ablation {names[0]!r}: expected NAME=FILE[,alpha=A,layers=L,source_layer=N,site=S]; a name alone is of a "
            "server (--backend served)"
        )
    return edits.modules()
