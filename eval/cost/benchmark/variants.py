"""What a benchmark compares: the model as it is, and edited ones, each named by what makes it what it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.cost.benchmark.tasks import BenchmarkError
from surgery.model.models import ModelInfo

if TYPE_CHECKING:
    from vllm_refusal.settings.modules import AblationModule

BASELINE, OWN_WEIGHTS = "baseline", ("checkpoint", "adapter")


@dataclass(frozen=True)
class Variant:
    """One model to be benchmarked.

    Attributes:
        name: unique; "baseline" for the model itself.
        kind: "baseline", "checkpoint", "adapter" or "ablation".
        folder: of its weights, or of the adapter.
        identity: a digest of what distinguishes it: weights, adapter, or basis with strength, layers and site.
        module: the ablation at run time.
    """

    name: str
    kind: str
    folder: Path
    identity: str
    module: "AblationModule | None" = None


def make_variants(
    info: ModelInfo, checkpoints: Sequence[Path], adapters: Sequence[Path], ablations: Mapping[str, Mapping[str, Any]]
) -> list[Variant]:
    """The baseline and every edited model, checked against it.

    Args:
        ablations: name -> settings, as `vllm_refusal.settings.options.parse_ablation_options` reads them.
    Raises: BenchmarkError (two of one name), MismatchError, ArtifactError and what reading the files raises.
    """
    from vllm_refusal.settings.module_files import load_module

    found = [Variant(BASELINE, "baseline", Path(info.path), info.fingerprint)]
    found += [_edited(info, folder, "checkpoint") for folder in checkpoints]
    found += [_edited(info, folder, "adapter") for folder in adapters]
    for name, settings in ablations.items():
        module = load_module(name, settings, info)
        identity = f"{module.sha256}:{module.alpha:g}:{module.layers}:{module.site}"
        found.append(Variant(name, "ablation", Path(info.path), identity, module))
    names = [variant.name for variant in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BenchmarkError(f"two variants are called {twice[0]!r}; rename a folder or an ablation")
    return found


def _edited(info: ModelInfo, folder: Path, kind: str) -> Variant:
    from eval.generation.job import made_from
    from surgery.files.artifacts import file_sha256, json_sha256
    from surgery.model.models import model_fingerprint
    from surgery.weights.adapter import WEIGHTS
    from surgery.weights.manifest import ADAPTER_KIND, read_manifest

    manifest = read_manifest(folder, ADAPTER_KIND) if kind == "adapter" else read_manifest(folder)
    made_from(info, folder, manifest, kind)
    weights = file_sha256(folder / WEIGHTS) if kind == "adapter" else model_fingerprint(folder)
    return Variant(folder.name, kind, folder, json_sha256([manifest, weights]))
