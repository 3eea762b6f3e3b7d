"""What a benchmark compares: the model as it is, and edited ones, each known by what makes it what it is."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from eval.cost.benchmark.tasks import BenchmarkError
from eval.generation.job import made_from
from eval.plan.conditions import BASELINE, WEIGHTS, Condition
from eval.plan.plan import Plan
from surgery.files.artifacts import file_sha256, json_sha256
from surgery.model.models import ModelInfo, model_fingerprint
from surgery.weights import adapter
from vllm_refusal.settings.module_files import load_module
from vllm_refusal.settings.modules import AblationModule


def named_edits(
    info: ModelInfo, checkpoints: Sequence[Path], adapters: Sequence[Path], ablations: Mapping[str, Mapping[str, Any]]
) -> Plan:
    """The baseline and every edited model under the name of its folder or its ablation, checked against it.

    Args:
        ablations: name -> settings, as `vllm_refusal.settings.module_options.parse_ablation_options` reads them.
    Raises: BenchmarkError (two of one name), and what `identified` raises.
    """
    edited = [("checkpoint", folder) for folder in checkpoints] + [("adapter", folder) for folder in adapters]
    found = [BASELINE, *(Condition(folder.name, kind, folder.name, folder=folder) for kind, folder in edited)]
    for name, settings in ablations.items():
        alpha, layers = settings.get("alpha", 1.0), str(settings.get("layers", "all"))
        found.append(Condition(name, "named", name, alpha, layers=layers, request={"ablation": name}))
    check_names(found)
    return identified(Plan(tuple(found), ablations), info)


def check_names(conditions: Sequence[Condition]) -> None:
    """Raises: BenchmarkError when two are called the same."""
    names = [condition.id for condition in conditions]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BenchmarkError(f"two variants are called {twice[0]!r}; rename a folder or an ablation")


def identified(plan: Plan, info: ModelInfo) -> Plan:
    """The plan, the `source` of each condition a digest of all that distinguishes it.

    That is the model's fingerprint, the manifest and bytes of edited weights, or a basis with strength, layers and site.

    Raises: MismatchError (edited weights of another model), ArtifactError and what reading the files raises.
    """
    return replace(plan, conditions=tuple(replace(c, source=_identity(c, plan, info)) for c in plan.conditions))


def module_of(condition: Condition, plan: Plan, info: ModelInfo) -> AblationModule:
    """What a condition ablates, at its own strength and layers."""
    settings = plan.modules[condition.request["ablation"]]
    return load_module(condition.id, {**settings, "alpha": condition.alpha, "layers": condition.layers}, info)


def _identity(condition: Condition, plan: Plan, info: ModelInfo) -> str:
    if condition.kind == "baseline":
        return info.fingerprint
    if condition.kind not in WEIGHTS:
        module = module_of(condition, plan, info)
        return f"{module.sha256}:{module.alpha:g}:{module.layers}:{module.site}"
    folder = plan.folders[condition.id]
    manifest = made_from(info, folder, condition.kind)
    is_adapter = condition.kind == "adapter"
    return json_sha256([manifest, file_sha256(folder / adapter.WEIGHTS) if is_adapter else model_fingerprint(folder)])
