"""Tables on a terminal: a line of headings, then a line a row, in columns as wide as their longest cell."""

from collections.abc import Iterable, Sequence

Column = tuple[str, str]
"""Heading, and "<" or ">" (flush left or right) with the least width, e.g. ">8"."""


def table(columns: Sequence[Column], rows: Iterable[Sequence[object]], gap: str = "  ") -> list[str]:
    """Lines of text, headings first; None is shown as "-".

    Raises: ValueError for a row of more or fewer cells than there are columns.
    """
    texts = [[heading for heading, _ in columns]]
    texts += [["-" if cell is None else str(cell) for cell in row] for row in rows]
    places = [place for _, place in columns]
    widths = [max(map(len, cells)) for cells in zip(*texts, strict=True)]
    forms = [f"{place[0]}{max(width, int(place[1:] or 0))}" for place, width in zip(places, widths, strict=True)]
    return [gap.join(map(format, row, forms)).rstrip() for row in texts]
