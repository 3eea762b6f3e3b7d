"""Beginning a run, or going on with the one that the same comparison began."""

import json
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eval.plan.plan import Plan
from eval.records.manifest import Manifest
from eval.records.run import Run
from surgery.console.errors import ArtifactError, OutputExistsError
from surgery.files.artifacts import json_sha256, package_versions
from surgery.model.models import ModelInfo
from surgery.prompts import Prompt, PromptSet, prompts_sha256
from surgery.weights.manifest import is_edited
from vllm_refusal.engine.engine import EngineOptions, Sampling


def make_manifest(
    info: ModelInfo,
    plan: Plan,
    prompt_files: Mapping[str, Path | str],
    prompt_sets: Mapping[str, Sequence[Prompt]],
    sampling: Sampling,
    options: EngineOptions,
    arguments: Sequence[str] = (),
    rvs: Path | None = None,
    samples: int = 1,
    served: bool = False,
    date: str | None = None,
) -> dict[str, Any]:
    """The manifest of a new run; `plan_sha256` identifies what is compared, so that the same command resumes it.

    Args:
        arguments: the words after `refusal` that made the run.
        rvs: the refusal vectors behind it, whose per-layer statistics the report shows.
        samples: responses of each condition to each prompt.
        served: whether servers answer it, and not an engine of this command.
        date: that the chat template puts into prompts; None where it does not ask.
    """
    sets = {
        name: {
            "path": str(prompt_files[name]),
            "n": len(prompts),
            "sha256": prompts_sha256(prompts),
            **_origin(prompts),
        }
        for name, prompts in prompt_sets.items()
    }
    conditions = [condition.to_json() for condition in plan.conditions]
    compared = {
        "model": info.fingerprint,
        "conditions": conditions,
        "prompt_sets": {name: record["sha256"] for name, record in sets.items()},
        "sampling": asdict(sampling),
        "dtype": options.dtype,
        **_departures(samples, served, options, date),
    }
    manifest = {
        "model": info.to_json(),
        "conditions": conditions,
        "modules": {name: dict(spec) for name, spec in plan.modules.items()},
        "checkpoints": {condition: str(folder) for condition, folder in plan.folders.items()},
        "prompt_sets": sets,
        "sampling": asdict(sampling),
        "samples": samples,
        "served": served,
        "date": date,
        "engine_arguments": dict(options.vllm),
        "plan_sha256": json_sha256(compared),
        "versions": package_versions(),
        "arguments": list(arguments),
        "command": shlex.join(["refusal", *arguments]),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "edited": "every condition but the baseline is an ablated variant of the model",
    }
    if rvs is not None:
        manifest |= _analysis(rvs, plan)
    ground_truth = Path(info.path) / "ground_truth.json"
    if ground_truth.is_file() and not is_edited(Path(info.path)):  # of an organism, not of an edited copy of one
        manifest["ground_truth"] = json.loads(ground_truth.read_text(encoding="utf-8"))
    return manifest


def _departures(samples: int, served: bool, options: EngineOptions, date: str | None) -> dict[str, Any]:
    """What else is compared where it is not as usual, so that runs from before these choices can be resumed."""
    chosen = {"samples": samples, "served": served, "engine_arguments": dict(options.vllm), "date": date}
    usual = {"samples": 1, "served": False, "engine_arguments": {}, "date": None}
    return {name: value for name, value in chosen.items() if value != usual[name]}


def resume_or_create(path: Path, manifest: Mapping[str, Any], force: bool = False) -> Run:
    """Open the run that the same comparison began, or make a new one.

    Raises: OutputExistsError when there is something else, ArtifactError when it is another comparison; not with `force`.
    """
    if path.exists() and not force:
        try:
            run = Run.open(path)
        except ArtifactError as err:
            raise OutputExistsError(path) from err
        if run.manifest.plan_sha256 != manifest["plan_sha256"]:
            raise ArtifactError(
                f"{path}: holds another comparison ({_differences(run.manifest, Manifest.of(manifest))} differ); repeat its command to "
                f"resume it ({run.manifest.command}), choose another output, or pass --force to replace it"
            )
        return run
    return Run.create(path, manifest, force=force)


def _differences(old: Manifest, new: Manifest) -> str:
    """What two manifests of different plans do not share, in words."""

    def compared(manifest: Manifest) -> dict[str, Any]:
        return {
            "the models": manifest.model.get("fingerprint"),
            "the conditions": manifest.conditions,
            "the prompts": {name: record.get("sha256") for name, record in manifest.prompt_sets.items()},
            "the decoding options": manifest.sampling,
            "the samples": manifest.samples,
            "what answers": manifest.served,
            "the date": manifest.date,
            "the engine's arguments": manifest.engine_arguments,
        }

    before, after = compared(old), compared(new)
    return ", ".join(name for name in after if before[name] != after[name]) or "the dtypes"


def _origin(prompts: Sequence[Prompt]) -> dict[str, Any]:
    return prompts.provenance() if isinstance(prompts, PromptSet) else {}


def _analysis(rvs: Path, plan: Plan) -> dict[str, Any]:
    """Statistics of the refusal vectors, and the angles between the tiers' spans for the layers that the plan names."""
    from surgery.residual.vectors import RefusalVectors
    from surgery.statistics.separability import analysis
    from surgery.statistics.tier_angles import tier_angles

    vectors = RefusalVectors.load(rvs)
    named = {c.source_layers for c in plan.conditions if c.kind in ("rv", "subspace")}
    spans = sorted(named, key=lambda layers: (len(layers), layers))
    angles = tier_angles(vectors, spans)
    return {"analysis": analysis(vectors), **({"tier_angles": angles} if angles else {})}
