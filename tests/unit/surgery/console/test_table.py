"""The one table of the console."""

import pytest

from surgery.console.table import table


def test_columns_are_as_wide_as_their_longest_cell_or_their_least_width():
    rows = [("a", 1, None), ("long name", 22, 0.5)]
    assert table([("name", "<"), ("n", ">4"), ("share", "<")], rows, gap=" ") == [
        "name         n share",
        "a            1 -",
        "long name   22 0.5",
    ]
    assert table([("n", ">")], []) == ["n"]


def test_a_row_that_does_not_fit_its_columns_is_a_fault():
    with pytest.raises(ValueError):
        table([("a", "<"), ("b", "<")], [("1",)])
