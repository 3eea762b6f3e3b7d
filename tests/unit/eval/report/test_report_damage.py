"""The report's table of damage: of what was measured, and of nothing else."""

import pytest
from report_pages import read_table
from synthetic_runs import single_like

from eval.cost.damage.measures import Damage, mean_interval
from eval.cost.damage.records import DamageRecord, Inputs
from eval.report.report import write_report

INPUTS = Inputs(5, "a" * 64, 4, 256, "b" * 64, "built in", "bfloat16")


@pytest.fixture
def run(tmp_path):
    return single_like(tmp_path / "run").write()


def test_what_was_measured_stands_beside_the_condition_and_what_was_not_is_named(run, tmp_path):
    measured, missing = [item for item in run.conditions if item.kind == "rv"][:2]
    damage = Damage(12.5, mean_interval([0.1, 0.3, 0.2]), 0.75, mean_interval([0.2, -0.1, 0.0]))
    DamageRecord(INPUTS, {"baseline": Damage(11.0), measured.id: damage}).save(run.path)
    write_report([run.path], tmp_path / "out")
    (table,) = (tmp_path / "out" / "tables").glob("*damage.csv")
    rows = {row["condition"]: row for row in read_table(tmp_path / "out", table.stem)}
    found = rows[next(name for name in rows if name.startswith(measured.label))]
    assert float(found["kl"]) == pytest.approx(0.2)
    assert (float(found["same_token"]), float(found["perplexity"])) == (0.75, 12.5)
    baseline = rows["baseline (unedited)"]
    assert (float(baseline["perplexity"]), baseline["kl"]) == (11.0, "")
    page = (tmp_path / "out" / "report.md").read_text()
    assert f"Not measured: {missing.label}" in page or f", {missing.label}" in page


def test_without_measurements_there_is_no_table(run, tmp_path):
    write_report([run.path], tmp_path / "out")
    assert not list((tmp_path / "out" / "tables").glob("*damage.csv"))
