"""The report as one HTML page, and as Markdown."""

from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

from eval.report.browser import EmbeddedData
from eval.report.documents import (
    Cell,
    Column,
    Count,
    Picture,
    PValue,
    Report,
    Table,
    Value,
    bounds,
    display,
    is_text,
    number,
    sort_key,
)
from eval.report.figures import PALETTE, themed
from eval.statistics.comparisons import SIGNIFICANCE
from eval.statistics.intervals import Interval

RESPONSIBLE_USE = (
    "Every condition but the baseline is an ablated or edited variant of the model, made to study how refusals are "
    "implemented and how robust they are. Such variants answer what the released model declines: do not deploy them, "
    "and share responses and checkpoints only with people who need them for this research."
)
STYLES = ("report.css", "responses.css")
SCRIPTS = ("tables.js", "answers.js", "words.js", "rows.js", "responses.js")

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


@dataclass(frozen=True)
class AnchoredTable:
    """A table with the anchor it has on the page."""

    table: Table
    anchor: str

    @property
    def heads(self) -> list[tuple[Column, str]]:
        """The columns, each with the class that aligns its head."""
        columns = enumerate(self.table.columns)
        return [(column, _kind(is_text(self.table, index), column)) for index, column in columns]


def render_html(report: Report, embedded: EmbeddedData) -> str:
    """The page: style, scripts, figures and data inside; every text from the run is escaped.

    Args:
        embedded: made by `browser.embed`, safe inside a <script> element.
    """
    from markupsafe import Markup

    environment = _environment(autoescape=True)
    environment.filters |= {"cell": html_cell, "anchored": _anchored, "inline_svg": _inline_svg}
    return environment.get_template("report.html.j2").render(
        report=report,
        responsible_use=RESPONSIBLE_USE,
        style=Markup("\n".join([_palette_css(), *map(_template_text, STYLES)])),
        script=Markup("\n".join(map(_template_text, SCRIPTS))),
        data=Markup(embedded.text),
        data_type=embedded.media_type,
    )


def render_markdown(report: Report) -> str:
    """The same tables and sentences as Markdown; figures are links to the SVG files beside it."""
    environment = _environment(autoescape=False)
    environment.filters |= {"md": escape_markdown, "show": display}
    return environment.get_template("report.md.j2").render(report=report, responsible_use=RESPONSIBLE_USE)


def html_cell(value: Value, column: Column) -> "Markup":
    """A table cell: the number, its interval in grey, and the key by which it sorts."""
    from markupsafe import Markup

    cell = value if isinstance(value, Cell) else Cell(value)
    place = "below" if cell.below else "aside"
    aside = Markup(' <span class="{}">{}</span>').format(place, cell.note) if cell.note else ""
    hover = Markup(' title="{}"').format(cell.title) if cell.title else ""
    kind = _kind(isinstance(cell.value, str), column)
    return Markup('<td class="{}" data-sort="{}"{}>{}{}</td>').format(
        kind, sort_key(value), hover, _inner(cell.value), aside
    )


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is: no markup, no table breaks, one line."""
    special = "\\`*_{}[]<>#|~"
    return "".join("\\" + char if char in special else char for char in " ".join(str(text).split()))


def _inner(value: Value) -> "str | Markup":
    from markupsafe import Markup

    if isinstance(value, Interval):
        return Markup('{} <span class="ci">{}</span>').format(number(value.estimate), bounds(value))
    if isinstance(value, Count):
        return Markup('{} <span class="ci">/ {}</span>').format(value.n_scored, value.n)
    if isinstance(value, PValue) and value.adjusted and value.value <= SIGNIFICANCE:
        return Markup("<strong>{}</strong>").format(display(value))
    return display(value)


def _kind(text: bool, column: Column) -> str:
    if column.prose:
        return "text prose"
    return "text" if text else "number"


def _anchored(table: Table, chapter_id: str) -> AnchoredTable:
    return AnchoredTable(table, f"{chapter_id}-table-{table.id}".lstrip("-"))


def _inline_svg(picture: Picture) -> "Markup":
    from markupsafe import Markup

    return Markup(themed(picture.svg))


def _palette_css() -> str:
    """The palette as CSS variables, for light and for dark pages; print is always light."""
    light, dark = (";".join(f"--{name}:{shades[index]}" for name, shades in PALETTE.items()) for index in (0, 1))
    return (
        f":root{{{light}}}\n@media (prefers-color-scheme: dark){{:root{{{dark}}}}}\n"
        f"@media print{{:root{{color-scheme:light;{light}}}}}\n"
    )


def _environment(autoescape: bool) -> "Environment":
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    return Environment(loader=FunctionLoader(_template_text), autoescape=autoescape, undefined=StrictUndefined)


def _template_text(name: str) -> str:
    return (resources.files("eval.report") / "templates" / name).read_text(encoding="utf-8")
