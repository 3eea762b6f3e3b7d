"""What run.json says of a condition is read as what it is, and never changes: items and comparisons are known by it."""

import pytest

from eval.plan.conditions import Condition

ABOUT = {"label": "x", "alpha": 1.0, "rank": 2, "source_layers": [1, 2], "layers": "all", "request": {}, "source": "ab"}


@pytest.mark.parametrize(
    ("condition_id", "recorded", "kind", "edit"),
    [
        ("baseline", "baseline", "baseline", "baseline"),
        ("rv:L3:a1", "rv", "rv", "ablation"),
        ("named:adapter:x", "named", "named", "ablation"),
        ("checkpoint:1-2:a1", "checkpoint", "checkpoint", "checkpoint"),
        ("adapter:1-2:a1", "checkpoint", "adapter", "adapter"),
    ],
)
def test_a_record_is_read_as_the_kind_it_is_and_written_as_it_was(condition_id, recorded, kind, edit):
    record = {"id": condition_id, "kind": recorded, "site": "stream", **ABOUT}
    condition = Condition.from_json(record)
    assert (condition.kind, condition.edit) == (kind, edit)
    assert condition.to_json() == record
    assert Condition.from_json({**record, "tag": "tier 2"}).to_json() == {**record, "tag": "tier 2"}


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="kind must be one of .*adapter, found 'other'"):
        Condition("x", "other", "x")
