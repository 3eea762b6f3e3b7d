"""The command `refusal extract`."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from surgery.commands.options import PATH, date_option, dtype_option, force_option, revision_option
from surgery.commands.prompts import SOURCE_HELP
from surgery.console.progress import progress_bar
from surgery.residual.sites import RESID_POST, RESID_SITES

ARGUMENTS = "vllm_refusal.arguments"  # where the command group keeps the words of the command line


@click.command()
@click.argument("model")
@click.option("--pairs", metavar="SOURCE", help=f"Matched pairs: {SOURCE_HELP}")
@click.option("--harmful", metavar="SOURCE", help="Instead of pairs: harmful prompts, held against …")
@click.option("--harmless", metavar="SOURCE", help="… unmatched harmless ones; the numbers may differ.")
@click.option("-o", "--output", type=PATH, required=True, help="The refusal-vector file to write (.safetensors).")
@click.option(
    "--engine",
    type=click.Choice(["hf", "vllm"]),
    default="hf",
    show_default=True,
    help="What runs the model: transformers with hooks, or vLLM, which reads the last token only.",
)
@dtype_option
@click.option(
    "--device-map", help='Placement, as in transformers, e.g. "auto". Default: the GPU if there is one, else CPU.'
)
@click.option(
    "--site", type=click.Choice(RESID_SITES), default=RESID_POST, show_default=True, help="Where vectors are read."
)
@click.option("--position", type=int, default=-1, show_default=True, help="Token read; -1 is the last of the prompt.")
@click.option(
    "--sites", type=click.Choice([*RESID_SITES, "all"]), multiple=True, help="Keep vectors of more sites too."
)
@click.option("--positions", default="", help='Keep more end-of-instruction tokens too: "all", or "-3,-1".')
@click.option(
    "--estimator",
    type=click.Choice(["mean", "median-of-means", "winsorized", "svd"]),
    default="mean",
    show_default=True,
    help="Difference of means, or one that outliers move less, or the leading direction of paired differences.",
)
@click.option("--components", type=click.IntRange(min=0), default=0, help="Keep this many singular directions a layer.")
@click.option("--template-option", "options", multiple=True, help="Of the chat template, e.g. enable_thinking=false.")
@date_option
@click.option("--batched", is_flag=True, help="Run prompts of equal token length together: no padding, much faster.")
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=64, show_default=True, help="With --batched: at most."
)
@click.option(
    "--held-out", metavar="SOURCE", help="Pairs that are not fitted on, only projected, for an honest Cohen's d."
)
@click.option("--held-out-harmful", metavar="SOURCE", help="Instead of held-out pairs: harmful prompts, and …")
@click.option("--held-out-harmless", metavar="SOURCE", help="… unmatched harmless ones.")
@revision_option
@force_option
def extract(
    model: str,
    pairs: str | None,
    harmful: str | None,
    harmless: str | None,
    output: Path,
    engine: str,
    dtype: str,
    device_map: str | None,
    site: str,
    position: int,
    sites: tuple[str, ...],
    positions: str,
    estimator: str,
    components: int,
    options: tuple[str, ...],
    date: str | None,
    batched: bool,
    batch_size: int,
    held_out: str | None,
    held_out_harmful: str | None,
    held_out_harmless: str | None,
    revision: str | None,
    force: bool,
) -> None:
    """Extract refusal vectors from MODEL, a local folder or a Hugging Face id.

    Reads the residual stream after every block at the last prompt token, one prompt at a time, and writes per layer
    the mean over harmful prompts minus the mean over safe ones: their counterparts (--pairs), or harmless prompts on
    other topics (--harmful and --harmless). On some models only one of the two finds a direction that controls refusals;
    refusal show says which it was.

    \b
    Examples:
      refusal extract meta-llama/Llama-3.2-1B-Instruct --pairs pairs.jsonl -o rvs.safetensors
      refusal extract MODEL --pairs builtin --held-out builtin --positions all --batched -o rvs.safetensors
      refusal extract MODEL --harmful builtin --harmless builtin:harmless -o unmatched.safetensors
      refusal extract MODEL --pairs builtin --held-out builtin --engine vllm -o rvs.safetensors
      refusal extract Qwen/Qwen3-1.7B --pairs pairs.jsonl --template-option enable_thinking=false -o rvs.safetensors
    """
    from surgery.architecture.table import entry_of
    from surgery.commands.engines import VLLM, check_engine, opened_source
    from surgery.commands.summary import render, summarize
    from surgery.files.artifacts import check_output_file
    from surgery.model.chat import chat_template
    from surgery.model.dtypes import said_dtype, said_engine_dtype
    from surgery.model.models import describe_model, load_tokenizer
    from surgery.prompts.builtin import EVALUATION, EXTRACTION
    from surgery.reading.contrast import check_held_out
    from surgery.statistics.extraction import ExtractionPlan, check_pairing
    from surgery.statistics.extraction import extract as extract_vectors

    check_output_file(output, force)
    check_engine(engine, position, positions, device_map, batched)
    contrast = _contrast(("--pairs", "--harmful", "--harmless"), (pairs, harmful, harmless), EXTRACTION)
    if contrast is None:
        raise click.UsageError("no prompts to extract from: give --pairs, or --harmful and --harmless")
    options_held_out = ("--held-out", "--held-out-harmful", "--held-out-harmless")
    others = _contrast(options_held_out, (held_out, held_out_harmful, held_out_harmless), EVALUATION)
    plan = ExtractionPlan(
        site=site,
        position=position,
        sites=RESID_SITES if "all" in sites else sites,
        positions=positions,
        estimator=estimator,
        n_components=components,
        batch_size=batch_size if batched else 1,
        template_options=dict(map(_template_option, options)),
        held_out=others or (),
        folder=output.parent,
    )
    check_pairing(contrast, plan.estimator, plan.n_components)
    if others and (n_near := check_held_out(others, contrast)):
        n = len(others.texts)
        click.echo(f"warning: {n_near} of {n} held-out prompts are near-duplicates of prompts fitted on", err=True)
    info = describe_model(model, revision)
    entry_of(info.architecture)
    tokenizer = load_tokenizer(info, date)
    chat_template(tokenizer)  # before the weights are loaded
    dtype = said_engine_dtype(info, dtype) if engine == VLLM else said_dtype(info, dtype, device_map)
    with (
        opened_source(engine, info, dtype, device_map, plan.batch_size) as source,
        progress_bar("extracting", "prompt") as progress,
    ):
        rvs = extract_vectors(source, tokenizer, contrast, info, progress, plan)
    command = click.get_current_context().meta.get(ARGUMENTS, [])
    replace(rvs, header={**rvs.header, "command": ["refusal", *command] if command else []}).save(output, force)
    click.echo(f"wrote {output}\n\n{render(summarize(output), whole=False)}")


def _contrast(options: tuple[str, str, str], sources: tuple[str | None, str | None, str | None], split: str) -> Any:
    """The prompts that three options ask for; None where none is given."""
    from surgery.prompts.loading import load_pairs, load_prompts, say_origin
    from surgery.reading.contrast import Contrast

    pairs, harmful, harmless = sources
    if (harmful is None) != (harmless is None) or (pairs and harmful):
        raise click.UsageError("give {}, or both {} and {}".format(*options))
    if pairs:
        return Contrast.of_pairs(say_origin(load_pairs(pairs, split)))
    if harmful is None or harmless is None:
        return None
    groups = (load_prompts(harmful, "harmful", split), load_prompts(harmless, "safe", split))
    return Contrast.of_groups(*map(say_origin, groups))


def _template_option(text: str) -> tuple[str, Any]:
    """`key=value` with the value read as JSON where it is (false, 3), as text where it is not."""
    key, equals, value = text.partition("=")
    if not (key.isidentifier() and equals):
        raise click.UsageError(f"--template-option {text!r}: expected name=value, e.g. enable_thinking=false")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value
