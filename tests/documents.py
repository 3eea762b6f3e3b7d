"""The documents as data: their blocks of code, the commands in them and what they show as output."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from eval.cli import main

ROOT = Path(__file__).resolve().parents[1]
NOT_RUN = {
    "bin/demo": "installs; what it runs is the tour",
    "bin/test": "runs the tests",
    "meta-llama/Llama-3.2-1B-Instruct": "a gated model of the hub",
    "Qwen/Qwen-1_8B-Chat": "a model of the hub",
    "qwen2.5-0.5b-instruct.Q4_K_M.gguf": "a file of the user's",
    "llama-3.2-1b-instruct --judge-model": "a gated model of the hub",
    "--host 0.0.0.0": "the server of another machine",
    "http://node-2": "several machines",
    "vllm serve": "stock vLLM's own server",
}
"""Part of a command that no test runs -> why not."""

PAGES = ("README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")))

RUN = ("README.md", "docs/researcher.md", "docs/red-teamer.md", "docs/server.md")
"""Pages whose steps tests/end_to_end/test_documents.py runs; others show none."""


@dataclass(frozen=True)
class Step:
    """One command with the output shown below it, or one block of Python."""

    page: str
    line: int
    language: str
    text: str
    shown: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text.splitlines()[0]}"


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, *languages: str) -> list[tuple[int, str, str]]:
    """(line, language, content) of every fenced block in one of `languages`."""
    text = read(page)
    found = re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text[: m.start()].count("\n") + 2, m[1], m[2]) for m in found if m[1] in languages]


def steps(page: str) -> list[Step]:
    """What a reader of the page runs, in its order."""
    found = []
    for line, language, content in blocks(page, "console", "python"):
        if language == "python":
            found.append(Step(page, line, language, content))
            continue
        assert content.startswith("$ "), f"{page}:{line}: a block of console begins with a command"
        for part in re.finditer(r"^\$ (.*(?:(?<=\\)\n.*)*)\n((?:(?!\$ ).*\n)*)", content, re.MULTILINE):
            at = line + content[: part.start()].count("\n")
            found.append(Step(page, at, language, part[1].replace("\\\n", " "), tuple(part[2].splitlines())))
    return found


def words(command: str) -> list[str]:
    """A command line's words, without its comment."""
    return shlex.split(command, comments=True)


def is_refusal(command: str) -> bool:
    return words(command)[:1] in (["refusal"], ["bin/refusal"])


def parse(command: str) -> click.Context:
    """The context of one line of `refusal`, every option read and checked, nothing run. Raises: click.UsageError."""
    group = main.make_context("refusal", words(command)[1:])
    name, found, rest = main.resolve_command(group, [*group._protected_args, *group.args])
    assert name is not None and found is not None
    return found.make_context(name, rest, parent=group)


def section(page: str, heading: str) -> str:
    """A page's text from a heading (with its #) to the next one."""
    _, _, rest = read(page).partition(f"\n{heading}\n")
    assert rest, f"{page} has no heading {heading!r}"
    return re.split(r"^#", rest, maxsplit=1, flags=re.MULTILINE)[0]


def keys(heading: str) -> tuple[set[str], set[str]]:
    """(those that are always there, all) of a table in docs/file-formats.md."""
    cells = re.findall(r"^\| ([`\[].*?) \|", section("docs/file-formats.md", heading), re.MULTILINE)
    named = [name for cell in cells for name in cell.split(", ")]
    allowed = {name.strip("[`]") for name in named}
    assert len(allowed) == len(named), f"{heading}: a key stands twice"
    return {name.strip("`") for name in named if not name.startswith("[")}, allowed


def check_keys(heading: str, record: Mapping[str, object]) -> None:
    """Hold a record that was written against its table in docs/file-formats.md: no key missing, none too many."""
    always, allowed = keys(heading)
    assert always <= set(record) <= allowed, (
        f"docs/file-formats.md, {heading}: lacks {sorted(set(record) - allowed)}, the file lacks {sorted(always - set(record))}"
    )


def check_kind(heading: str, record: Mapping[str, object], page: str = "docs/file-formats.md") -> None:
    """The kind that a file has is the one that its section names."""
    assert f"ind `{record['kind']}`" in section(page, heading), record["kind"]


def shows(said: str, shown: Sequence[str]) -> bool:
    """Whether the lines shown stand in what was said, in their order; a line of ... stands for any.

    Numbers may differ by a twentieth, at least by 0.02: float32 sums differ between processors.
    """
    lines = iter(said.splitlines())
    return all(any(_alike(line, wanted) for line in lines) for wanted in shown if wanted.strip() != "...")


def _alike(one: str, other: str) -> bool:
    ones, others = (re.split(r"[\s\[\],]+", text.strip()) for text in (one, other))
    return len(ones) == len(others) and all(map(_near, ones, others))


def _near(one: str, other: str) -> bool:
    try:
        a, b = float(one), float(other)
    except ValueError:
        return one == other or set(one) == set(other) == {"#"}
    return abs(a - b) <= max(0.02, 0.05 * abs(b))
