"""From a source of prompts to a validated set of pairs or prompts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from surgery.console.errors import PromptFileError
from surgery.files.artifacts import shortened
from surgery.prompts.builtin import EVALUATION, EXTRACTION
from surgery.prompts.layouts import HARMFUL, SAFE, to_pair, to_prompt
from surgery.prompts.prompt_set import Pair, Prompt, PromptSet
from surgery.prompts.rows import Row
from surgery.prompts.table import PromptTable, open_table


def load_pairs(source: Path | str, split: str = EXTRACTION) -> PromptSet[Pair]:
    """Read matched pairs.

    From one table with columns harmful and safe (JSONL: {"id", "harmful", "safe", "category", "tier"} a line; the last
    two are optional), or from two tables of prompts, harmful and safe, matched by their ids, e.g. JailbreakBench's.

    Args:
        source: as `open_table`.
        split: of the built-in pairs, unless the source names another: "extraction" or "evaluation".
    Raises: PromptFileError naming the line: not of its format, a column missing or not text, an id used twice, texts
        the same; no pairs at all; an id without its counterpart.
    """
    return _pairs(str(source), split)


def load_prompts(source: Path | str, role: str | None = None, split: str = EVALUATION) -> PromptSet[Prompt]:
    """Read prompts: JSONL {"id", "prompt", "category", "tier"} a line, CSV, or a public benchmark's layout.

    Args:
        source: as `open_table`.
        role: "harmful" or "safe": of labelled prompts those, of pairs that side. None takes all; pairs then do not do.
        split: of the built-in sets, unless the source names another: "extraction" or "evaluation".
    Raises: PromptFileError, as `load_pairs`.
    """
    return _prompts(open_table(str(source), role, split), role)


def load_set(source: Path | str) -> PromptSet[Any]:
    """Read a source as what it is, pairs or prompts, whole: every role, and every built-in split that it does not narrow."""
    source = str(source)
    tables = _tables(source, None)
    if len(tables) == 2 or tables[0].layout.holds_pairs:
        return _pairs(source, None)
    return _prompts(tables[0], None)


def _tables(source: str, split: str | None) -> list[PromptTable]:
    """The table of both roles, or the table of harmful and the table of safe prompts."""
    harmful, safe = (open_table(source, role, split) for role in (HARMFUL, SAFE))
    return [harmful] if harmful.files == safe.files else [harmful, safe]


def _pairs(source: str, split: str | None) -> PromptSet[Pair]:
    tables = _tables(source, split)
    if len(tables) == 2:
        return _matched(*tables)
    table = tables[0]
    if not table.layout.holds_pairs:
        raise PromptFileError(
            f"{source}: holds prompts ({table.layout.name} layout), not pairs; expected columns harmful and safe, or two "
            "files of prompts with the same ids: HARMFUL.csv,SAFE.csv"
        )
    return _set(table, [(row, to_pair(row, table.layout)) for row in table.rows])


def _matched(harmful: PromptTable, safe: PromptTable) -> PromptSet[Pair]:
    """Pairs of two tables: the prompts with the same id."""
    ours, theirs = _prompts(harmful, HARMFUL), _prompts(safe, SAFE)
    counterparts = {prompt.id: prompt for prompt in theirs}
    alone = sorted({prompt.id for prompt in ours} ^ set(counterparts))
    if alone:
        raise PromptFileError(
            f"{harmful.source}: {len(ours)} harmful and {len(theirs)} safe prompts must have the same ids to be pairs; "
            f"without a counterpart: {shortened(alone)}"
        )
    pairs = [Pair(p.id, p.prompt, counterparts[p.id].prompt, p.category, p.tier) for p in ours]
    same = [pair.id for pair in pairs if pair.harmful.strip() == pair.safe.strip()]
    if same:
        raise PromptFileError(f"{harmful.source}: the harmful and the safe text are the same of id {shortened(same)}")
    name = f"{harmful.layout.name} pairs"
    return PromptSet(tuple(pairs), harmful.source, name, harmful.files + safe.files, harmful.revision)


def _prompts(table: PromptTable, role: str | None) -> PromptSet[Prompt]:
    if table.layout.holds_pairs and role is None:
        raise PromptFileError(f"{table.source}: holds pairs, not prompts; say which side of them, or give prompts")
    taken = [(row, prompt) for row in table.rows if (prompt := to_prompt(row, table.layout, role)) is not None]
    return _set(table, taken, role)


def _set(table: PromptTable, items: Sequence[tuple[Row, Any]], role: str | None = None) -> PromptSet[Any]:
    if not items:
        wanted = f"{role} prompts" if role else "prompts"
        raise PromptFileError(
            f"{table.source}: none of its {len(table.rows) + table.left_out} rows are the {wanted} asked for"
        )
    seen: dict[str, Row] = {}
    for row, item in items:
        if item.id in seen:
            first = f"in {seen[item.id].where}"
            raise PromptFileError(f"{row.where}: id {item.id!r} is already used {first}; ids must be unique")
        seen[item.id] = row
    left_out = table.left_out + len(table.rows) - len(items)
    prompts = tuple(item for _, item in items)
    return PromptSet(prompts, table.source, table.layout.name, table.files, table.revision, left_out)


def say_origin(prompts: PromptSet[Any]) -> PromptSet[Any]:
    """Say on stderr what was recognized in a source, unless it is a file of ours taken whole; returns the prompts."""
    if prompts.left_out or prompts.layout not in ("pairs", "prompts"):
        click.echo(str(prompts), err=True)
    return prompts
