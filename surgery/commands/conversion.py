"""The command `refusal convert`."""

from pathlib import Path

import click

from surgery.commands.options import PATH, force_option, revision_option
from surgery.console.given import given
from surgery.console.progress import progress_bar

DTYPE = "float32"


@click.command()
@click.argument("model")
@click.option("-o", "--output", type=PATH, required=True, help="The model folder to write.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16"]),
    default=DTYPE,
    show_default=True,
    help="Of a GGUF file's weights: float32 holds exactly what the file stands for.",
)
@click.option("--without-template", is_flag=True, help="Also a GGUF file without a chat template, as of a base model.")
@revision_option
@force_option
def convert(model: str, output: Path, dtype: str, without_template: bool, revision: str | None, force: bool) -> None:
    """Rewrite MODEL as a folder that transformers, vLLM and the other commands run.

    MODEL is a GGUF file (of a split one any part, the others beside it), whose weights are dequantized and whose
    tokenizer, chat template and configuration are taken over; or a folder or Hugging Face id of the first Qwen
    generation (QWenLMHeadModel, safetensors), which becomes Qwen2: the weights keep their values bit for bit, the
    tiktoken vocabulary becomes a tokenizer.json with the same ids.

    \b
    Examples:
      refusal convert model.Q4_K_M.gguf -o model
      refusal convert Qwen/Qwen-1_8B-Chat -o qwen-1.8b-chat
    """
    from surgery.conversion.gguf.source import is_gguf

    if is_gguf(Path(model)):
        if revision is not None:
            raise click.UsageError("--revision is of a Hugging Face model; a GGUF file is taken as it is")
        _convert_gguf(model, output, dtype, without_template, force)
        return
    own = {"dtype": DTYPE, "without_template": False}
    if useless := given({"dtype": dtype, "without_template": without_template}, own):
        raise click.UsageError(f"--{useless[0].replace('_', '-')} is of GGUF files; {model} is none")
    _convert_qwen(model, output, revision, force)


def _convert_gguf(model: str, output: Path, dtype: str, without_template: bool, force: bool) -> None:
    from collections import Counter

    from surgery.conversion.gguf.folder import convert_gguf

    with progress_bar("writing", "B") as progress:
        record = convert_gguf(model, output, dtype, force, without_template, progress)
    types = ", ".join(f"{name} ({n})" for name, n in Counter(record["quantization"].values()).most_common())
    click.echo(f"wrote {output}: {record['architecture']}, {record['n_written']} tensors in {dtype}")
    click.echo(f"dequantized from {types}")
    if not record["chat_template"]:
        click.echo("no chat template: a base model, which extract and generate refuse")


def _convert_qwen(model: str, output: Path, revision: str | None, force: bool) -> None:
    from surgery.conversion.checkpoint import convert as rewrite

    with progress_bar("writing", "B") as progress:
        record = rewrite(model, output, revision, force, progress)
    tokenizer = record["tokenizer"]
    click.echo(
        f"wrote {output}: {record['n_read']} tensors as {record['n_written']} ({record['n_split']} of q, k and v split), "
        f"{len(record['dropped'])} buffers left out"
    )
    click.echo(
        f"tokenizer: {tokenizer['n_ranks']} ranks, {tokenizer['n_merges']} merges, {tokenizer['n_special']} special tokens"
    )
    click.echo(
        f"context: {record['max_position_embeddings']} tokens, as trained; longer ones need the attention of Qwen v1 "
        "(dynamic NTK, log-n), which Qwen2 does not have"
    )
    for name in record["settings_dropped"]:
        click.echo(f"left out of the generation settings: {name}")
    if record["left_out"]:
        click.echo(f"not copied: {', '.join(record['left_out'])}")
