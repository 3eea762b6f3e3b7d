"""The options that every generating command shares: prompts, output, decoding, engine, servers, judge."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from eval.commands.judge_options import judge_options
from eval.endpoints.address import CONCURRENCY, KEY_ENV
from surgery.commands.options import date_option, engine_dtype_option
from surgery.commands.prompts import SOURCE_HELP

PATH = click.Path(path_type=Path)

_PROMPTS = (
    click.option("--prompts", metavar="SOURCE", required=True, help=f"Harmful prompts: {SOURCE_HELP}"),
    click.option("--safe-prompts", metavar="SOURCE", help="Safe prompts answered beside them, likewise."),
    click.option(
        "--overrefusal",
        metavar="SOURCE",
        help="Safe prompts that look harmful (as XSTest's), likewise: how many of them are refused.",
    ),
    click.option("--limit", type=click.IntRange(1), help="Use only the first N prompts of each set."),
    click.option(
        "-o", "--output", "out", type=PATH, required=True, help="Run folder to write; the same command resumes it."
    ),
    click.option("--force", is_flag=True, help="Replace the output if it is already there."),
)
_WEIGHTS = (
    click.option(
        "--checkpoint",
        "checkpoints",
        type=PATH,
        multiple=True,
        metavar="DIR",
        help="Also answer by this orthogonalized checkpoint of MODEL, in stock vLLM; repeatable.",
    ),
    click.option(
        "--adapter",
        "adapters",
        type=PATH,
        multiple=True,
        metavar="DIR",
        help="Also answer by this LoRA adapter of MODEL (refusal adapter), through vLLM's LoRA; repeatable.",
    ),
)
_DECODING = (
    click.option("--max-tokens", type=click.IntRange(1), default=256, show_default=True, help="Longest response."),
    click.option("--temperature", type=click.FloatRange(0), default=0.0, show_default=True, help="0 is greedy."),
    click.option(
        "--samples",
        type=click.IntRange(1),
        default=1,
        show_default=True,
        help="Responses of each condition to each prompt, at temperatures above 0.",
    ),
    date_option,
    click.option("--seed", type=int, default=0, show_default=True, help="Of sampling, at temperatures above 0."),
)
_ENGINE = (
    engine_dtype_option,
    click.option("--revision", help="Branch, tag or commit of a Hugging Face model."),
    click.option("--allow-other-model", is_flag=True, help="Accept vectors of other weights of the same shape."),
    click.option("--eager/--compile", default=None, help="Default: eager on CPU, compiled on GPU."),
    click.option("--max-num-seqs", type=click.IntRange(1), help="Requests in one batch."),
    click.option("--tensor-parallel-size", type=click.IntRange(1), metavar="N", help="Accelerators per layer."),
    click.option("--pipeline-parallel-size", type=click.IntRange(1), metavar="N", help="Stages of layers."),
    click.option(
        "--engine-arg",
        "engine_args",
        multiple=True,
        metavar="KEY=VALUE",
        help="Any further vLLM flag, e.g. gpu-memory-utilization=0.8; repeatable.",
    ),
)
_REDACTION = (
    click.option(
        "--redact",
        is_flag=True,
        help="Keep hashes, lengths and verdicts of responses, never their text; needs a judge beside.",
    ),
    click.option("--redact-prompts", is_flag=True, help="The same, and of prompts too."),
)
_SERVERS = (
    click.option(
        "--base-url",
        "base_urls",
        multiple=True,
        metavar="URL",
        help="Have this server (refusal serve) answer instead of an engine here; repeatable: requests go to all.",
    ),
    click.option("--served-model", metavar="NAME", help="MODEL's name there, where a server has several."),
    click.option(
        "--api-key-env",
        metavar="NAME",
        default=KEY_ENV,
        show_default=True,
        help="Environment variable that holds the servers' key; none is sent when the default is not set.",
    ),
    click.option(
        "--concurrency",
        type=click.IntRange(1),
        default=CONCURRENCY,
        show_default=True,
        help="Requests in flight at each server.",
    ),
)


def generation_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """All of them; those of the judge last."""
    command = judge_options(command)
    for option in reversed((*_PROMPTS, *_WEIGHTS, *_DECODING, *_ENGINE, *_SERVERS, *_REDACTION)):
        command = option(command)
    return command
