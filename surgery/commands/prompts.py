"""`refusal prompts`: look at a set of prompts before it is used, and write the built-in ones."""

import json
from pathlib import Path

import click

from surgery.commands.options import PATH, force_option, json_option

SOURCE_HELP = "a file (JSONL, CSV, a public benchmark), hf:ORG/NAME, or builtin; see refusal prompts --help."
SOURCES = """A source of prompts is one of

\b
  FILE                JSONL, CSV, JSON, Parquet or plain lines; the layouts of JailbreakBench, XSTest,
                      HarmBench, AdvBench and StrongREJECT are recognized by their columns
  HARMFUL,SAFE        two files whose prompts have the same ids: matched pairs
  hf:ORG/NAME         a Hugging Face dataset; then @REVISION, :CONFIG, :SPLIT where needed; parts
                      of splits and several of them: :train[:400], [train[:100]+test]
  builtin             the built-in pairs: the extraction split as --pairs, the evaluation split as
                      --prompts and --safe-prompts; narrowed by :tier1, :tier2, :extraction,
                      :evaluation, :all; builtin:harmless are unmatched harmless prompts"""


@click.command(epilog=SOURCES)
@click.argument("source")
@click.option("--against", metavar="SOURCE", help="Exit with 1 if any prompt is also, or nearly, in this set.")
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.5,
    show_default=True,
    help="Token Jaccard similarity of near-duplicates.",
)
@click.option("-o", "--output", type=PATH, help="Write the built-in sets into this folder.")
@json_option
@force_option
def prompts(
    source: str, against: str | None, threshold: float, output: Path | None, as_json: bool, force: bool
) -> None:
    """Check the prompts of SOURCE, or write the built-in ones.

    Shows how many there are per tier and category, how far apart the texts of each pair are, which are near-duplicates
    (and what n that leaves), and with --against which are also in another set.

    \b
    Examples:
      refusal prompts pairs.csv
      refusal prompts builtin:evaluation --against pairs.csv
      refusal prompts builtin -o prompts
    """
    from surgery.prompts.export import export_builtin
    from surgery.prompts.inspection import inspect_set, render
    from surgery.prompts.loading import load_set

    if output is not None:
        given = {"--against": against, "--json": as_json}
        if useless := [name for name, value in given.items() if value]:
            raise click.UsageError(f"-o only writes the built-in sets; leave out {' and '.join(useless)}")
        if source != "builtin":
            raise click.UsageError("-o writes the built-in sets: refusal prompts builtin -o DIR")
        written = export_builtin(output, force)
        click.echo(f"wrote {output}: " + ", ".join(f"{name} ({n})" for name, n in written.items()))
        return
    loaded = load_set(source)
    found = inspect_set(loaded, load_set(against) if against else None, threshold)
    click.echo(json.dumps(found, indent=1) if as_json else render(found))
    hits = found.get("overlap", [])
    if hits:
        click.echo(f"Error: {source} overlaps with {against}: {len(hits)} texts in common or nearly so", err=True)
        raise click.exceptions.Exit(1)
