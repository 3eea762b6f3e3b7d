"""The command `refusal convert`."""

from pathlib import Path

import click

from surgery.commands.options import PATH, force_option, revision_option
from surgery.console.progress import progress_bar


@click.command()
@click.argument("model")
@click.option("-o", "--output", type=PATH, required=True, help="The model folder to write.")
@revision_option
@force_option
def convert(model: str, output: Path, revision: str | None, force: bool) -> None:
    """Rewrite MODEL, of the first Qwen generation, as Qwen2, which transformers, vLLM and the other commands run.

    MODEL is a folder or a Hugging Face id of a QWenLMHeadModel with safetensors weights. The weights keep their values
    bit for bit; the tiktoken vocabulary becomes a tokenizer.json with the same ids.

    \b
    Example:
      refusal convert Qwen/Qwen-1_8B-Chat -o qwen-1.8b-chat
    """
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
