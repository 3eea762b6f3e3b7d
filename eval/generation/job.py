"""What one generating command is to do: everything chosen and checked before an engine is started."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eval.endpoints.address import CONCURRENCY, KEY_ENV
from eval.generation.answering import Start, check_samples, generate_run
from eval.generation.beside import asked_judge, judging_beside
from eval.generation.progress import Tally, shown_progress
from eval.generation.study_date import made_on, recorded_date, study_date
from eval.plan.plan import Plan, PlanBuilder
from eval.records.beginning import make_manifest, resume_or_create
from eval.records.redacting import RedactionError
from eval.records.redaction import Redaction
from eval.records.replacement import replacing_run
from eval.records.run import Run
from surgery.console.errors import ArtifactError, MismatchError
from surgery.console.given import given
from surgery.model.dtypes import said_engine_dtype
from surgery.model.models import ModelInfo
from surgery.prompts import PromptSet
from surgery.weights.manifest import ADAPTER_KIND, KIND, read_manifest
from vllm_refusal.engine.engine import EngineOptions, Sampling

if TYPE_CHECKING:
    from eval.judge.protocol import Judge

HARMFUL, SAFE, OVER_REFUSAL = "harmful", "safe", "overrefusal"
RESPONSES, PROMPTS = "responses", "prompts"
_OF_SERVERS = {"served_model": None, "api_key_env": KEY_ENV, "concurrency": CONCURRENCY}
_OF_ENGINES: dict[str, Any] = {
    "eager": None,
    "max_num_seqs": None,
    "tensor_parallel_size": None,
    "pipeline_parallel_size": None,
}
_OF_ENGINES |= {"engine_args": (), "dtype": "auto"}


@dataclass(frozen=True)
class Job:
    """A run that is wanted.

    Attributes:
        files: prompt set -> where its prompts are from.
        servers: what answers in place of an engine of this process (eval.endpoints.servers.Servers), or None.
        start: gives the engine of the runtime conditions, by default a new one.
        judge: what scores the responses meanwhile, or None.
        arguments: the words after `refusal` that asked for it.
        date: that chat templates are told, YYYY-MM-DD; None leaves it to `study_date`.
        redact: whose text is kept out of the run: "" (nobody's), "responses", or "prompts" (and responses).
    """

    info: ModelInfo
    plan: Plan
    files: Mapping[str, str]
    prompt_sets: Mapping[str, PromptSet[Any]]
    sampling: Sampling
    engine: EngineOptions
    samples: int = 1
    servers: Any = None
    judge: "Judge | None" = None
    rvs: Path | None = None
    arguments: Sequence[str] = field(default_factory=tuple)
    redact: str = ""
    start: Start | None = None
    date: str | None = None

    @property
    def size(self) -> str:
        """The run in numbers."""
        n_prompts = sum(map(len, self.prompt_sets.values()))
        size = f"{len(self.plan.conditions)} conditions x {n_prompts} prompts"
        return size if self.samples == 1 else f"{size} x {self.samples} samples"

    @property
    def next_command(self) -> str:
        """What one does with the run."""
        return "judge" if self.judge is None else "report"

    def run(self, out: Path, force: bool, check_interrupted: Callable[[], None]) -> int:
        """Generate what is missing; returns how many responses that were.

        Args:
            force: replace a run that is there, once this one has responses.
            check_interrupted: called after each response; may raise.
        """
        with replacing_run(out, force):
            date = study_date(self.info, self.date, made_on(self.plan, self.rvs), recorded_date(out))
            run = resume_or_create(out, self._begun(out, date))
            check_redaction(run, self.redact)
            with judging_beside(run, self.judge) as beside, shown_progress("generating", beside=beside.__str__) as show:

                def update(tally: Tally) -> None:
                    check_interrupted()
                    show(tally)

                asked = (run, self.info, self.plan, self.prompt_sets, self.sampling, self.engine, update)
                how = {"servers": self.servers, "write": beside.write, "start": self.start}
                return generate_run(*asked, samples=self.samples, **how)

    def _begun(self, out: Path, date: str | None) -> dict[str, Any]:
        """The manifest, as a run that is there says it: one begun with `auto` may go on with the dtype that it ran in.

        Raises: MismatchError when nothing but the dtype is another.
        """
        manifest = self._manifest(date)
        try:
            begun = Run.open(out).manifest
        except ArtifactError:
            return manifest
        ran_in = begun.engine.get("dtype")
        if self.servers is not None or ran_in is None or begun.plan_sha256 == manifest["plan_sha256"]:
            return manifest
        for dtype in ("auto", ran_in):
            other = replace(self, engine=replace(self.engine, dtype=dtype))._manifest(date)
            if other["plan_sha256"] == begun.plan_sha256:
                if ran_in == self.engine.dtype:
                    return other
                raise MismatchError(
                    f"{out}: was begun in {ran_in}, and would go on in {_named(self.engine.dtype)}; give --dtype {ran_in}, "
                    "or another output"
                )
        return manifest

    def _manifest(self, date: str | None) -> dict[str, Any]:
        redaction = {"redaction": Redaction.new(self.redact == PROMPTS).to_json()} if self.redact else {}
        return redaction | make_manifest(
            self.info,
            self.plan,
            self.files,
            self.prompt_sets,
            self.sampling,
            self.engine,
            self.arguments,
            self.rvs,
            self.samples,
            self.servers is not None,
            date,
        )


def make_job(
    model: str,
    add_conditions: Callable[[PlanBuilder, ModelInfo], None],
    options: Mapping[str, Any],
    arguments: Sequence[str] = (),
    rvs: Path | None = None,
) -> Job:
    """Read and check all that a generating command names.

    Args:
        add_conditions: puts the command's own conditions into the builder.
        options: as `generation_options` gives them.
    """
    from surgery.model.chat import chat_template
    from surgery.model.models import describe_model, load_tokenizer

    sampling = Sampling(options["max_tokens"], options["temperature"], options["seed"])
    check_samples(options["samples"], sampling)
    engine_arguments = _engine_arguments(options)
    judge = asked_judge({name: value for name, value in options.items() if name.startswith("judge_")})
    files, sets = _prompt_sets(options)
    info = describe_model(model, options["revision"])
    dtype = options["dtype"] if options["base_urls"] else said_engine_dtype(info, options["dtype"])
    engine = EngineOptions(dtype, options["eager"], options["max_num_seqs"], vllm=engine_arguments)
    plan = _plan(info, add_conditions, options)
    chat_template(load_tokenizer(info))
    servers = _servers(info, plan, options)
    redact = _redaction(options, judge)
    asked = (info, plan, files, sets, sampling, engine, options["samples"], servers, judge, rvs, tuple(arguments))
    return Job(*asked, redact, date=options["date"])


def _named(dtype: str) -> str:
    return "what vLLM chooses" if dtype == "auto" else dtype


def check_redaction(run: Run, redact: str) -> None:
    """Raises: RedactionError when a run that is gone on with keeps text that is now to be kept out, or the reverse."""
    has = "" if run.redaction is None else PROMPTS if run.redaction.prompts else RESPONSES
    if has != redact:
        words = {"": "neither", RESPONSES: "--redact", PROMPTS: "--redact-prompts"}
        raise RedactionError(
            f"{run.path}: was begun with {words[has]}, now asked for with {words[redact]} of --redact and "
            "--redact-prompts; repeat its own command, or redact it when it is judged (refusal redact)"
        )


def _redaction(options: Mapping[str, Any], judge: "Judge | None") -> str:
    """What is kept out. Raises: click.UsageError without a judge, for text that is not kept cannot be judged later."""
    asked = PROMPTS if options["redact_prompts"] else RESPONSES if options["redact"] else ""
    if asked and judge is None:
        raise click.UsageError(
            "--redact needs a judge beside (--judge or --judge-model): no text is kept for a later one"
        )
    return asked


def _prompt_sets(options: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, PromptSet[Any]]]:
    """(prompt set -> source, prompt set -> prompts)."""
    from surgery.prompts import load_prompts
    from surgery.prompts.loading import say_origin

    asked = {HARMFUL: options["prompts"], SAFE: options["safe_prompts"], OVER_REFUSAL: options["overrefusal"]}
    files = {name: source for name, source in asked.items() if source}
    roles = {HARMFUL: HARMFUL, SAFE: SAFE, OVER_REFUSAL: SAFE}
    return files, {
        name: say_origin(load_prompts(source, roles[name]))[: options["limit"]] for name, source in files.items()
    }


def _plan(
    info: ModelInfo, add_conditions: Callable[[PlanBuilder, ModelInfo], None], options: Mapping[str, Any]
) -> Plan:
    from vllm_refusal.settings.module_files import check_architecture

    builder = PlanBuilder(info.n_layers, info.d_model)
    add_conditions(builder, info)
    for folder in options["checkpoints"]:
        builder.weights("checkpoint", folder, made_from(info, folder, "checkpoint"))
    for folder in options["adapters"]:
        builder.weights("adapter", folder, made_from(info, folder, "adapter"))
    plan = builder.build()
    if plan.modules:
        check_architecture(info.architecture)
    return plan


def made_from(info: ModelInfo, folder: Path, kind: str) -> Mapping[str, Any]:
    """The manifest of edited weights, once it is sure that the run's model is their base.

    Args:
        kind: "checkpoint" or "adapter".
    Raises: MismatchError, and what `read_manifest` raises.
    """
    manifest = read_manifest(folder, ADAPTER_KIND if kind == "adapter" else KIND)
    base = manifest["base_model"]
    if base["fingerprint"] != info.fingerprint:
        raise MismatchError(
            f"{folder} was made from {base['model']} (fingerprint {base['fingerprint'][:12]}) but the run's model is "
            f"{info.model} (fingerprint {info.fingerprint[:12]}); give {_article(kind)} {kind} of this model"
        )
    return manifest


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"


def _engine_arguments(options: Mapping[str, Any]) -> dict[str, Any]:
    """Raises: EngineArgumentError; click.UsageError for options of an engine where servers answer."""
    from eval.generation.engine_arguments import parse_engine_arguments

    sizes = {name: options[name] for name in ("tensor_parallel_size", "pipeline_parallel_size")}
    arguments = parse_engine_arguments(options["engine_args"], sizes)
    if options["base_urls"]:
        for name in given(options, _OF_ENGINES):
            option = "engine-arg" if name == "engine_args" else name.replace("_", "-")
            raise click.UsageError(f"--{option} is the server's where --base-url is given; set it there")
    return arguments


def _servers(info: ModelInfo, plan: Plan, options: Mapping[str, Any]) -> Any:
    """The servers of --base-url, or None."""
    if not options["base_urls"]:
        for name in given(options, _OF_SERVERS):
            raise click.UsageError(f"--{name.replace('_', '-')} needs --base-url")
        return None
    from eval.endpoints.served_models import Needs, ServersError
    from eval.endpoints.servers import Servers
    from vllm_refusal.settings.module_files import load_module

    elsewhere = list(plan.folders)
    if elsewhere:
        raise ServersError(f"{elsewhere[0]} is answered by an engine of its own; generate it without --base-url")
    plan.save_made()
    modules = {name: load_module(name, settings, info) for name, settings in plan.modules.items()}
    return Servers(
        options["base_urls"],
        Needs(modules, plan.modules),
        api_key=api_key_of(options["api_key_env"]),
        served_model=options["served_model"],
        concurrency=options["concurrency"],
        notify=lambda line: click.echo(line, err=True),
    )


def api_key_of(name: str) -> str:
    """The key in an environment variable, "" without one. Raises: click.UsageError for a variable asked for by name."""
    key = os.environ.get(name, "")
    if not key and name != KEY_ENV:
        raise click.UsageError(f"--api-key-env {name}: that environment variable is not set")
    return key
