"""`docs/cli.md`, written from the help that every command has of itself: `python -m eval.commands.reference`."""

import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click

from eval.cli import COMMANDS, main

PAGE = Path("docs/cli.md")
HEAD = """# Commands

Written by `python -m eval.commands.reference` from the commands' own help; a test fails when the two differ.
Exit codes: 0 done, 1 a fault that its one line names, 2 wrong usage, 130 interrupted.
"""


def reference() -> str:
    """Every command in the order of the work: what it does, usage, options with defaults, examples. Markdown.

    Taken from click's structure and not from its printed help, so that no width of a terminal is in it.
    """
    top = click.Context(main, info_name="refusal")
    links = [f"* [{name}](#{name.replace(' ', '-')})" for name in COMMANDS]
    return "\n".join([HEAD, *links, *(line for name in COMMANDS for line in _command(name, top))]) + "\n"


def _command(name: str, top: click.Context) -> Iterator[str]:
    command = main.get_command(top, name)
    assert command is not None, name
    context = click.Context(command, info_name=name, parent=top)
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    yield from ("", f"## {name}", "", *_fence(usage), *_text(command.help), "")
    for option in command.params:
        if record := isinstance(option, click.Option) and option.get_help_record(context):
            yield _option(*record)
    yield from _text(command.epilog)


def _option(names: str, said: str) -> str:
    """A line of a list; the bracket that click ends with, default and range, as code."""
    text, bracket = re.fullmatch(r"(.*?)\s*(\[[^\[\]]*\])?", " ".join(said.split())).groups()  # type: ignore[union-attr]
    return f"* `{names}`" + (f": {text}" if text else "") + (f" `{bracket}`" if bracket else "")


def _text(text: str | None) -> Iterator[str]:
    """Paragraphs on one line each; one that click leaves as it is written (after a backspace) in a fence."""
    for paragraph in inspect.cleandoc(text).split("\n\n") if text else ():
        if not paragraph.startswith("\b\n"):
            yield from ("", " ".join(paragraph.split()))
            continue
        title, _, rest = paragraph.removeprefix("\b\n").partition("\n")
        verbatim = rest if title.endswith(":") else f"{title}\n{rest}"
        yield from ("", *([title, ""] if verbatim == rest else []), *_fence(textwrap.dedent(verbatim)))


def _fence(text: str) -> tuple[str, ...]:
    return ("```text", text, "```")


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
    click.echo(f"wrote {PAGE}")
