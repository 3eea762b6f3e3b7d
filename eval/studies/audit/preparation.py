"""From the command line to an audit: everything read and checked before a response is asked for."""

import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from eval.cost.benchmark.harness import check_tasks
from eval.cost.benchmark.tasks import tasks_for
from eval.judge.choice import choose_judge
from eval.records import replacement
from eval.records.run import Run
from eval.studies.audit.audit import Audit, halves
from eval.studies.audit.bench import Bench
from eval.studies.audit.capability import NONE, Capability
from eval.studies.audit.design import AuditSize
from eval.studies.audit.page import PAGE
from eval.studies.study import run_command
from surgery.console.errors import ArtifactError, OutputExistsError
from surgery.console.given import given
from surgery.files.artifacts import file_sha256, json_sha256, package_versions, replacing
from surgery.files.folders import check_folder, make_folder
from surgery.model.dtypes import said_engine_dtype
from surgery.model.models import ModelInfo, describe_model
from surgery.prompts import PromptSet, load_pairs, load_prompts
from surgery.prompts.loading import say_origin
from vllm_refusal.engine.engine import EngineOptions, Sampling
from vllm_refusal.settings.module_files import check_architecture

DESIGN = "design.json"


@dataclass(frozen=True)
class AuditRequest:
    """An audit that is asked for.

    Attributes:
        options: of the command, by name.
        prompts, safe: what is asked.
        pairs: what the refusal vectors are extracted from; None where they are given.
        capability: the benchmarks.
        arguments: the words after `refusal`.
    """

    info: ModelInfo
    size: AuditSize
    prompts: PromptSet[Any]
    safe: PromptSet[Any]
    pairs: PromptSet[Any] | None
    capability: Capability
    options: Mapping[str, Any]
    arguments: Sequence[str]

    @property
    def identity(self) -> dict[str, Any]:
        """What an audit that is gone on with must share, as JSON."""
        chosen = [
            "max_tokens",
            "seed",
            "dtype",
            "eager",
            "tasks",
            "task_limit",
            *([] if self.options["rvs"] else ["pairs"]),
        ]
        return {
            "model": self.info.to_json(),
            "size": asdict(self.size) | {"alphas": list(self.size.alphas)},
            "prompts": self.prompts.provenance(),
            "safe prompts": self.safe.provenance(),
            "refusal vectors": file_sha256(self.options["rvs"]) if self.options["rvs"] else None,
            "extraction pairs": self.pairs.provenance() if self.pairs else None,
            "judge": self.judge().judge_id,
            **{name.replace("_", " "): self.options[name] for name in chosen},
        }

    def judge(self) -> Any:
        """The judge that the options choose."""
        return choose_judge(**{name: value for name, value in self.options.items() if name.startswith("judge_")})

    def audit(self, folder: Path, check_interrupted: Callable[[], None]) -> Audit:
        """The audit, once the refusal vectors are there."""
        rvs = self._refusal_vectors(folder)
        sampling = Sampling(self.options["max_tokens"])
        engine = EngineOptions(self.options["dtype"], self.options["eager"], self.options["max_num_seqs"])
        bench = Bench(folder, self.info, rvs, sampling, engine, self.judge, self.arguments, check_interrupted)
        selection, measuring = halves(self.prompts, self.options["seed"])
        provenance = {
            "command": shlex.join(["refusal", *self.arguments]),
            "model": self.info.to_json(),
            "refusal_vectors": {"path": str(rvs), "sha256": file_sha256(rvs)},
            "prompts": self.prompts.provenance(),
            "safe_prompts": self.safe.provenance(),
            "versions": package_versions(),
        }
        seed = self.options["seed"]
        return Audit(bench, self.size, seed, selection, measuring, self.safe, _say, provenance, self.capability)

    def _refusal_vectors(self, folder: Path) -> Path:
        """The vectors given, or extracted into the folder by the command that a user would type."""
        if self.options["rvs"]:
            return self.options["rvs"]
        revision = ["--revision", self.info.revision] if self.info.revision else []
        command = ("extract", self.info.model, "--pairs", self.options["pairs"], "--dtype", self.options["dtype"])
        rvs = folder / "rvs.safetensors"
        if not rvs.exists():
            with redirect_stdout(sys.stderr):
                run_command(*command, *revision, "-o", rvs)
        return rvs


def prepare(
    model: str, alphas: tuple[float, ...], options: Mapping[str, Any], arguments: Sequence[str]
) -> AuditRequest:
    """Read and check what the command names.

    Raises: RefusalError (prompts, model, architecture, too few prompts, tasks), click.UsageError (judge, pairs beside vectors).
    """
    if options["rvs"] and given(options, {"pairs": "builtin"}):
        raise click.UsageError("--pairs are to extract from; --rvs gives what was extracted: leave one of them out")
    prompts = say_origin(load_prompts(options["prompts"], "harmful"))[: options["limit"]]
    safe = say_origin(load_prompts(options["safe_prompts"], "safe"))[: options["limit"]]
    pairs = None if options["rvs"] else load_pairs(options["pairs"])
    info = describe_model(model, options["revision"])
    check_architecture(info.architecture, "an audit")
    options = {**options, "dtype": said_engine_dtype(info, options["dtype"])}
    selection, measuring = halves(prompts, options["seed"])
    counts = len(selection), len(measuring), len(safe)
    size = AuditSize(info.n_layers, options["max_rank"], alphas, *counts, options["weights"])
    request = AuditRequest(info, size, prompts, safe, pairs, _capability(info, options), options, arguments)
    request.judge()
    return request


def _capability(info: ModelInfo, options: Mapping[str, Any]) -> Capability:
    """The benchmarks asked for, their data loaded. Raises: BenchmarkError, click.UsageError."""
    if options["tasks"] == NONE:
        if options["task_limit"]:
            raise click.UsageError(f"--task-limit does not go with --tasks {NONE}")
        return Capability()
    tasks = tasks_for(info, options["tasks"])
    check_tasks(tasks)
    return Capability(tasks, options["task_limit"])


def replacing_audit(folder: Path, force: bool) -> AbstractContextManager[None]:
    """With `force`, keep an audit that is there aside until the one made in its place is finished; see `replacing`."""
    return replacement.replacing(folder, force, _AUDIT)


def begin(folder: Path, request: AuditRequest) -> None:
    """Make the folder, or find that the same audit began it.

    Raises: OutputExistsError when something else is there, ArtifactError when it is another audit.
    """
    identity, path = request.identity, folder / DESIGN
    if path.is_file():
        _check_same(json.loads(path.read_text(encoding="utf-8")), identity, folder)
        return
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise OutputExistsError(folder)
    make_folder(folder)
    with replacing(path) as part:
        part.write_text(json.dumps(identity, indent=1) + "\n", encoding="utf-8")


def _check_same(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Raises: ArtifactError; what the first of them, of an older version, did not record cannot be compared.

    A dtype left to vLLM is compared by each run with the one that its engine ran in.
    """
    known = {name for name in now if name in before and not (name == "dtype" and before[name] == "auto")}
    differing = [name for name in now if name in known and json_sha256(before[name]) != json_sha256(now[name])]
    if differing:
        raise ArtifactError(
            f"{folder}: holds another audit ({', '.join(differing)} differ); repeat its command to go on with it, choose "
            "another output, or pass --force to replace it"
        )


def _check_audit(folder: Path) -> None:
    check_folder(folder, True, kind="an audit", is_kind=lambda found: (found / DESIGN).is_file())
    for manifest in folder.glob("runs/*/run.json"):
        with Run(manifest.parent).writing():
            pass


def _is_begun(folder: Path) -> bool:
    return any(map(replacement.has_responses, folder.glob("runs/*")))


_AUDIT = replacement.Kind(_check_audit, _is_begun, lambda folder: (folder / PAGE).is_file())


def _say(line: str) -> None:
    click.secho(f"\n{line}", bold=True, err=True)
