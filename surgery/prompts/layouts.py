"""Layouts of prompt tables: ours and those of public refusal benchmarks, recognized by their columns."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from surgery.console.errors import PromptFileError
from surgery.prompts.prompt_set import Item, Pair, Prompt
from surgery.prompts.rows import Row

HARMFUL, SAFE = "harmful", "safe"


@dataclass(frozen=True)
class Layout:
    """Which columns of a table mean what; names in lower case.

    Attributes:
        columns: those that must all be there for the layout to be recognized.
        text: the prompt's column; "" in a table of pairs, whose columns are "harmful" and "safe".
        label: the column that says whether a prompt is harmful, and its word for either.
        context: the column of a text that goes before the prompt.
    """

    name: str
    columns: frozenset[str]
    text: str
    id: str = "id"
    category: str = "category"
    label: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    context: str = ""

    @property
    def holds_pairs(self) -> bool:
        """Whether a row is a pair rather than a prompt."""
        return not self.text


def _layout(name: str, columns: str, text: str, **columns_of: Any) -> Layout:
    return Layout(name, frozenset(columns.split()), text, **columns_of)


# The first whose columns are all there is taken, so the ones with the most telling columns come first.
LAYOUTS = (
    _layout("pairs", "harmful safe", ""),
    # Chao et al. 2024, arXiv:2404.01318
    _layout("JailbreakBench", "index goal behavior category", "goal", id="index"),
    # Mazeika et al. 2024, arXiv:2402.04249; a contextual behaviour is asked after its context, as there
    _layout(
        "HarmBench",
        "behavior behaviorid semanticcategory",
        "behavior",
        id="behaviorid",
        category="semanticcategory",
        context="contextstring",
    ),
    # Röttger et al. 2024, arXiv:2308.01263
    _layout(
        "XSTest",
        "prompt type label",
        "prompt",
        category="type",
        label="label",
        labels=(("unsafe", HARMFUL), ("safe", SAFE)),
    ),
    # Souly et al. 2024, arXiv:2402.10260
    _layout("StrongREJECT", "category source forbidden_prompt", "forbidden_prompt"),
    # Zou et al. 2023, arXiv:2307.15043
    _layout("AdvBench", "goal target", "goal"),
    _layout("prompts", "prompt", "prompt"),
    _layout("instructions", "instruction", "instruction"),
    _layout("questions", "question", "question"),
    _layout("texts", "text", "text"),
)


def recognize(columns: Iterable[str]) -> Layout | None:
    """The layout of a table with these columns (lower case), or None."""
    found = set(columns)
    return next((layout for layout in LAYOUTS if layout.columns <= found), None)


def is_header(columns: Sequence[str]) -> bool:
    """Whether these are the column names of a known layout."""
    return recognize(columns) is not None


def layout_of(rows: Sequence[Row], name: str) -> Layout:
    """The layout of a table, by its first row. Raises: PromptFileError when there is no row or no layout fits."""
    if not rows:
        raise PromptFileError(f"{name}: no prompts; expected one JSON object a line, or CSV with named columns")
    layout = recognize(rows[0].fields)
    if layout is None:
        raise PromptFileError(
            f"{rows[0].where}: columns {', '.join(rows[0].fields) or 'none'} are of no known layout; expected prompt, or "
            "harmful and safe, or those of JailbreakBench, XSTest, HarmBench, AdvBench or StrongREJECT"
        )
    return layout


def to_prompt(row: Row, layout: Layout, role: str | None) -> Prompt | None:
    """A row as a prompt, or None when it has another role than the one asked for.

    Args:
        role: "harmful" or "safe": of labelled prompts those, of pairs that side; None takes every prompt.
    Raises: PromptFileError naming the line.
    """
    labelled = layout.label and _role(row, layout)
    if role and labelled and labelled != role:
        return None
    text = _text(row, role if layout.holds_pairs and role else layout.text)
    context = row.fields.get(layout.context) if layout.context else None
    if context and str(context).strip():
        text = f"{context}\n\n---\n\n{text}"
    return _checked(row, Prompt(_id(row, layout), text, _category(row, layout), _tier(row)))


def to_pair(row: Row, layout: Layout) -> Pair:
    """A row as a pair. Raises: PromptFileError naming the line; also when both texts are the same."""
    pair = Pair(_id(row, layout), _text(row, HARMFUL), _text(row, SAFE), _category(row, layout), _tier(row))
    if pair.harmful.strip() == pair.safe.strip():
        raise PromptFileError(f"{row.where}: the harmful and the safe text are the same; such a pair measures nothing")
    return _checked(row, pair)


def _checked(row: Row, item: Item) -> Item:
    """The same. Raises: PromptFileError for what JSON can escape and no text holds, half of a surrogate pair."""
    for name, value in vars(item).items():
        if isinstance(value, str) and not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise PromptFileError(
                f"{row.where}: its {name} holds half of a surrogate pair, which no tokenizer takes and no text file "
                "can hold; mend it"
            )
    return item


def _text(row: Row, column: str) -> str:
    text = row.fields.get(column)
    if not isinstance(text, str) or not text.strip():
        raise PromptFileError(f"{row.where}: expected a non-empty text under {column!r}, found {text!r}")
    return text


def _role(row: Row, layout: Layout) -> str:
    label, roles = row.fields.get(layout.label), dict(layout.labels)
    if not isinstance(label, str) or label.strip().lower() not in roles:
        raise PromptFileError(f"{row.where}: expected {layout.label} {' or '.join(roles)}, found {label!r}")
    return roles[label.strip().lower()]


def _id(row: Row, layout: Layout) -> str:
    value = row.fields.get(layout.id)
    if isinstance(value, (dict, list, bool)):
        raise PromptFileError(f"{row.where}: {layout.id} must be text or a number, found {value!r}")
    name = str(row.number if value is None or value == "" else value)
    return f"{row.split}:{name}" if row.split else name


def _category(row: Row, layout: Layout) -> str:
    category = row.fields.get(layout.category) or ""
    if not isinstance(category, str):
        raise PromptFileError(f"{row.where}: category must be text, found {category!r}")
    return category


def _tier(row: Row) -> int | None:
    tier = row.fields.get("tier")
    if isinstance(tier, str) and tier.strip():  # of CSV, where everything is text
        tier = int(tier) if tier.strip().isdecimal() else tier
    if tier is None or tier == "":
        return None
    if isinstance(tier, bool) or not isinstance(tier, int):
        raise PromptFileError(f"{row.where}: tier must be a whole number, found {tier!r}")
    return tier
