"""The command `refusal benchmark`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eval.endpoints.address import KEY_ENV
from surgery.commands.options import date_option, engine_dtype_option
from surgery.console.given import given

if TYPE_CHECKING:
    from eval.cost.benchmark.backends import Edits
    from eval.cost.benchmark.benchmark import Backend, BenchmarkResults
    from eval.plan.conditions import Condition
    from surgery.model.models import ModelInfo

PATH = click.Path(path_type=Path)
_OF_ENGINES: dict[str, Any] = {"eager": None, "engine_args": ()}
_OF_SERVERS: dict[str, Any] = {"base_url": None, "served_model": None, "api_key_env": KEY_ENV}


@click.command()
@click.argument("model")
@click.option("--checkpoint", "checkpoints", type=PATH, multiple=True, help="Orthogonalized checkpoint; repeatable.")
@click.option("--adapter", "adapters", type=PATH, multiple=True, help="LoRA adapter (refusal adapter); repeatable.")
@click.option(
    "--ablation",
    "ablations",
    multiple=True,
    metavar="NAME=FILE[,alpha=A,layers=L,source_layer=N,site=S]",
    help="The subspace or refusal vectors in FILE, ablated at run time; repeatable. Of a server NAME alone is its own; "
    "without any, all that it lists.",
)
@click.option(
    "--tasks",
    default="local",
    show_default=True,
    help='"local" (small, in the package), tasks of lm-evaluation-harness such as mmlu,gsm8k, or a task\'s YAML file.',
)
@click.option("--limit", type=click.IntRange(1), help="Use only the first N documents of each task.")
@click.option(
    "--num-fewshot", type=click.IntRange(0), help="Worked examples before each document. Default: the task's."
)
@click.option("--chat-template/--no-chat-template", default=True, show_default=True)
@date_option
@click.option(
    "--backend",
    type=click.Choice(["hf", "vllm", "served"]),
    default="hf",
    show_default=True,
    help="What answers: transformers; vLLM in this process, ablations as they are served; or a server (--base-url).",
)
@click.option("--base-url", metavar="URL", help="Of the server (refusal serve), with --backend served.")
@click.option("--served-model", metavar="NAME", help="MODEL's name there, where the server has several.")
@click.option(
    "--api-key-env",
    metavar="NAME",
    default=KEY_ENV,
    show_default=True,
    help="Environment variable that holds the server's key; none is sent when the default is not set.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    help="Documents at once. Default: 16 in transformers, 32 to a server, what vLLM chooses in vLLM.",
)
@click.option("--eager/--compile", default=None, help="Of vLLM. Default: eager on CPU, compiled on GPU.")
@click.option(
    "--engine-arg",
    "engine_args",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any further flag of vLLM, e.g. tensor-parallel-size=2; repeatable.",
)
@engine_dtype_option
@click.option("--revision", help="Branch, tag or commit of a Hugging Face model.")
@click.option("--allow-other-model", is_flag=True, help="Accept vectors of other weights of the same shape.")
@click.option("-o", "--output", "out", type=PATH, required=True, help="Folder; the same command goes on there.")
@click.option("--force", is_flag=True, help="Run all anew.")
def benchmark(
    model: str,
    checkpoints: Sequence[Path],
    adapters: Sequence[Path],
    ablations: Sequence[str],
    tasks: str,
    limit: int | None,
    num_fewshot: int | None,
    chat_template: bool,
    date: str | None,
    dtype: str,
    revision: str | None,
    allow_other_model: bool,
    out: Path,
    force: bool,
    **chosen: Any,
) -> None:
    """Benchmark MODEL and edited variants of it on the same documents, by lm-evaluation-harness.

    All variants are asked by one backend, with the same template, shots and documents, in the same token ids. In vLLM
    and over HTTP an ablation is the one that is served; in transformers it acts by forward hooks, which comes to the same
    (refusal doctor). Differences are paired by document.

    Beside the scores: KL divergence of the first answer token from the baseline's on 65 built-in harmless prompts, over
    the whole vocabulary (not over HTTP), and perplexity on a built-in text, as refusal damage measures them.

    \b
    Examples:
      refusal benchmark MODEL --checkpoint edited --ablation sub=sub.safetensors,alpha=0.5 -o bench
      refusal benchmark MODEL --backend vllm --ablation sub=sub.safetensors --tasks mmlu,gsm8k --limit 200 -o bench
      refusal benchmark MODEL --backend served --base-url http://127.0.0.1:8000/v1 -o bench
    """
    from eval.commands.generation import command_words
    from eval.cost.benchmark.backends import Edits
    from eval.cost.benchmark.benchmark import Benchmark
    from eval.cost.benchmark.settings import Settings
    from eval.cost.benchmark.tasks import tasks_for
    from surgery.model.chat import chat_template as check_template
    from surgery.model.models import describe_model, load_tokenizer

    if date and not chat_template:
        raise click.UsageError("--date goes with a chat template, which --no-chat-template leaves out")
    edits = Edits(checkpoints, adapters, ablations, allow_other_model)
    if allow_other_model and not edits.modules():
        raise click.UsageError("--allow-other-model is of vectors; it goes with --ablation NAME=FILE")
    _check_options(chosen, dtype)
    info = describe_model(model, revision)
    asked = tasks_for(info, tasks)
    if chat_template:
        check_template(load_tokenizer(info))
    dtype = _dtype(info, dtype, chosen["backend"])
    variants, backend = _backend(info, edits, dtype, chosen)
    settings = Settings(limit, num_fewshot, chat_template, dtype, date)
    study = Benchmark(out, info, variants, settings, backend, made=edits.dates())
    results = study.run(asked, lambda line: click.echo(line, err=True), command_words(), force)
    click.echo("\n".join([*table(results), "", *damage_table(results)]))


def _check_options(chosen: dict[str, Any], dtype: str) -> None:
    """Raises: click.UsageError for an option that the backend does not have."""
    backend = chosen["backend"]
    others = {"hf": _OF_ENGINES | _OF_SERVERS, "vllm": _OF_SERVERS, "served": _OF_ENGINES | {"dtype": "auto"}}[backend]
    for name in given({**chosen, "dtype": dtype}, others):
        option = {"engine_args": "engine-arg", "eager": "eager/--compile"}.get(name, name.replace("_", "-"))
        where = "is the server's; set it there" if backend == "served" else f"does not go with --backend {backend}"
        raise click.UsageError(f"--{option} {where}")
    if backend == "served" and not chosen["base_url"]:
        raise click.UsageError("--backend served needs --base-url")


def _dtype(info: "ModelInfo", dtype: str, backend: str) -> str:
    """--dtype as it is run and recorded; of quantized weights, and of a server, "auto" stays what it is."""
    from surgery.model.dtypes import KNOWN, said_dtype, said_engine_dtype

    if backend == "served":
        return dtype
    if backend == "vllm":
        return said_engine_dtype(info, dtype)
    return said_dtype(info, dtype, None) if info.dtype in KNOWN else dtype


def _backend(
    info: "ModelInfo", edits: "Edits", dtype: str, chosen: dict[str, Any]
) -> "tuple[Sequence[Condition], Backend]":
    from eval.generation.engine_arguments import parse_engine_arguments
    from vllm_refusal.engine.engine import EngineOptions

    size = chosen["batch_size"]
    if chosen["backend"] == "served":
        from eval.cost.benchmark.backends import served_backend
        from eval.cost.benchmark.served_backend import Server
        from eval.generation.job import api_key_of

        server = Server(chosen["base_url"], api_key_of(chosen["api_key_env"]), chosen["served_model"], size)
        return served_backend(info, edits, server)
    plan = edits.plan(info)
    if chosen["backend"] == "hf":
        from eval.cost.benchmark.hf_backend import TransformersBackend

        return plan.conditions, TransformersBackend(info, plan, dtype, size)
    from eval.cost.benchmark.vllm_backend import VllmBackend

    arguments = parse_engine_arguments(chosen["engine_args"])
    return plan.conditions, VllmBackend(info, plan, EngineOptions(dtype, chosen["eager"], size, vllm=arguments))


def table(results: "BenchmarkResults") -> list[str]:
    """The scores as lines of text."""
    from eval.report.documents import bounds, display, number

    width = max(len(each.variant) for each in results.outcomes)
    head = f"{'task':<18} {'variant':<{width}} {'measure':<12} {'n':>5}  {'score':<20} {'paired difference'}"
    lines = [head]
    for each in results.outcomes:
        change = "" if each.change is None else f"{number(each.change.estimate, '+.3f')} {bounds(each.change)}"
        lines.append(
            f"{each.task:<18} {each.variant:<{width}} {each.measure:<12} {each.score.n:>5}  "
            f"{display(each.score):<20} {change}".rstrip()
        )
    return lines


def damage_table(results: "BenchmarkResults") -> list[str]:
    """Divergence and perplexity as lines of text."""
    from eval.commands.damage import interval_text

    width = max(len("variant"), *map(len, results.damage))
    lines = [f"{'variant':<{width}}  {'KL (nats)':<26} {'n':>4}  {'perplexity':>10}  {'nats per token':<27} {'n':>4}"]
    for name, found in results.damage.items():
        kl, nats = interval_text(found.kl, ".4f"), interval_text(found.nats, "+.4f")
        n_prompts, n_windows = (each.n if each else "" for each in (found.kl, found.nats))
        lines.append(
            f"{name:<{width}}  {kl:<26} {n_prompts:>4}  {found.perplexity:>10.3f}  {nats:<27} {n_windows:>4}".rstrip()
        )
    return lines
