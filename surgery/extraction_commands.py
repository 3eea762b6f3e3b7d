"""The command `refusal extract`."""

from pathlib import Path
from typing import Any

import click

from surgery.command_options import PATH, SITES, force_option, progress_bar, revision_option
from surgery.prompt_commands import SOURCE_HELP, say_origin


@click.command()
@click.argument("model")
@click.option("--pairs", metavar="SOURCE", required=True, help=f"Matched pairs: {SOURCE_HELP}")
@click.option("-o", "--output", type=PATH, required=True, help="The refusal-vector file to write (.safetensors).")
@click.option(
    "--engine",
    type=click.Choice(["hf", "vllm"]),
    default="hf",
    show_default=True,
    help="What runs the model: transformers with hooks, or vLLM, faster on many prompts, last token only.",
)
@click.option(
    "--dtype", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), default="auto", show_default=True
)
@click.option(
    "--device-map", help='Placement, as in transformers, e.g. "auto". Default: the GPU if there is one, else CPU.'
)
@click.option(
    "--site", type=click.Choice(SITES), default="resid_post", show_default=True, help="Where vectors are read."
)
@click.option("--position", type=int, default=-1, show_default=True, help="Token read; -1 is the last of the prompt.")
@click.option("--sites", type=click.Choice([*SITES, "all"]), multiple=True, help="Keep vectors of more sites too.")
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
@click.option("--batched", is_flag=True, help="Run prompts of equal token length together: no padding, much faster.")
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=64, show_default=True, help="With --batched: at most."
)
@click.option(
    "--held-out", metavar="SOURCE", help="Pairs that are not fitted on, only projected, for an honest Cohen's d."
)
@revision_option
@force_option
def extract(
    model: str,
    pairs: str,
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
    batched: bool,
    batch_size: int,
    held_out: str | None,
    revision: str | None,
    force: bool,
) -> None:
    """Extract refusal vectors from MODEL, a local folder or a Hugging Face id.

    Reads the residual stream after every block at the last prompt token, one prompt at a time, and writes per layer
    the mean over harmful prompts minus the mean over their safe counterparts.

    \b
    Examples:
      refusal extract meta-llama/Llama-3.2-1B-Instruct --pairs pairs.jsonl -o rvs.safetensors
      refusal extract MODEL --pairs builtin --held-out builtin --positions all --batched -o rvs.safetensors
      refusal extract MODEL --pairs builtin --held-out builtin --engine vllm -o rvs.safetensors
      refusal extract Qwen/Qwen3-1.7B --pairs pairs.jsonl --template-option enable_thinking=false -o rvs.safetensors
    """
    from surgery.artifacts import check_output_file
    from surgery.chat import chat_template
    from surgery.engines import check_engine, opened_source
    from surgery.extraction import Plan, extract_from
    from surgery.families import family_of
    from surgery.models import describe_model, load_tokenizer
    from surgery.prompts import load_pairs
    from surgery.summary import render, summarize

    check_output_file(output, force)
    check_engine(engine, position, positions, device_map, batched)
    loaded = say_origin(load_pairs(pairs))
    plan = Plan(
        site=site,
        position=position,
        sites=SITES if "all" in sites else sites,
        positions=positions,
        estimator=estimator,
        n_components=components,
        batch_size=batch_size if batched else 1,
        template_options=dict(map(_template_option, options)),
        held_out=say_origin(load_pairs(held_out, "evaluation")) if held_out else (),
        folder=output.parent,
    )
    info = describe_model(model, revision)
    family_of(info.architecture)
    tokenizer = load_tokenizer(info)
    chat_template(tokenizer)  # before the weights are loaded
    with (
        opened_source(engine, info, dtype, device_map, plan.batch_size) as source,
        progress_bar("extracting", "prompt") as progress,
    ):
        rvs = extract_from(source, tokenizer, loaded, info, progress, plan)
    rvs.save(output, force)
    click.echo(f"wrote {output}\n\n{render(summarize(output))}")


def _template_option(text: str) -> tuple[str, Any]:
    """`key=value` with the value read as JSON where it is (false, 3), as text where it is not."""
    import json

    key, equals, value = text.partition("=")
    if not (key.isidentifier() and equals):
        raise click.UsageError(f"--template-option {text!r}: expected name=value, e.g. enable_thinking=false")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value
