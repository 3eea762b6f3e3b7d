"""A whole audit with made answers: what is chosen, measured, concluded and shown follows from the mechanism alone."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from made_vectors import save_vectors
from synthetic_runs import RunMaker

from eval.cost.benchmark.benchmark import TaskOutcome
from eval.cost.benchmark.tasks import Task
from eval.cost.damage.measures import Damage
from eval.cost.damage.records import DamageRecord, Inputs
from eval.generation.interruption import ending_resumably
from eval.plan.conditions import BASELINE
from eval.statistics.intervals import Interval
from eval.statistics.scores import NoScoresError, open_scored
from eval.studies.audit import audit as studies
from eval.studies.audit.capability import Capability
from eval.studies.audit.design import AuditSize
from eval.studies.audit.page import write_pages
from eval.studies.audit.tables import reached_table
from surgery.model.models import describe_model
from surgery.organisms.release import asset
from surgery.prompts import Prompt, PromptSet

N = 20
MODEL = "<script>alert(1)</script>"


@dataclass
class MadeBench:
    """Answers every condition with the compliance that a mechanism gives it, in place of engine and judge.

    Attributes:
        mechanism: condition -> mean compliance on harmful prompts.
        unscored: id of a condition, or a stage, whose answers no judge can read.
    """

    folder: Path
    info: object
    rvs: Path
    mechanism: object
    unscored: str = ""
    asked: dict = field(default_factory=dict)

    def path(self, stage):
        return self.folder / "runs" / stage

    def ask(self, stage, plan, prompt_set, prompts, start=None):
        self.asked[stage] = [condition.id for condition in plan.conditions], prompts
        maker = RunMaker(self.path(stage), n_prompts=N, model=MODEL)
        for made in (maker.conditions, maker.generations, maker.verdicts):  # of a baseline that refuses
            made.clear()
        for condition in [BASELINE, *(each for each in plan.conditions if each != BASELINE)]:
            n_unscored = N if self.unscored in (condition.id, stage) else 0
            safe = None if prompt_set == "harmful" else 1.0
            maker.add(condition, self.mechanism(condition), safe, n_unscored=n_unscored)
        return open_scored([maker.write()])[0]


def made_damage(command, run_path):
    """Write a record of damage in place of measuring it."""
    damage = {"baseline": Damage(9.0)}
    DamageRecord(Inputs(2, "a", 3, 16, "b", "built in", "float32"), damage).save(run_path)


class MadeCapability(Capability):
    """Scores in place of the harness: .9 unedited, .8 under every ablation."""

    def measure(self, bench, plan, tell):
        return [
            TaskOutcome(
                task.name,
                condition.id,
                "acc",
                Interval(0.9 if condition == BASELINE else 0.8, 0.7, 1.0, 48, "BCa bootstrap"),
                None if condition == BASELINE else Interval(-0.1, -0.2, -0.05, 48, "BCa bootstrap"),
            )
            for task in self.tasks
            for condition in plan.conditions
        ]


@pytest.fixture
def audit(tmp_path, monkeypatch):
    """audit(mechanism): the findings."""
    monkeypatch.setattr(studies, "run_command", made_damage)
    prompts = PromptSet(
        tuple(Prompt(f"p{i}", f"How {i}?", "fraud", 1 + i % 2) for i in range(2 * N)), "made", "prompts"
    )

    def run(mechanism, max_rank=16, tasks=(), **options):
        rvs = save_vectors(tmp_path)
        bench = MadeBench(tmp_path, describe_model(asset("single")), rvs, mechanism, **options)
        size = AuditSize(8, max_rank, (0.5, 1.0), N, N, N, weights=False)
        made = MadeCapability([Task(name, name) for name in tasks])
        asked = (bench, size, 0, *studies.halves(prompts, 0), prompts, lambda line: None, {"command": MODEL}, made)
        return studies.Audit(*asked).run(), bench

    return run


def needing(*layers):
    """A refusal that goes, at full strength, with the plain vectors of all these layers."""

    def mechanism(condition):
        removed = set(condition.source_layers) if condition.kind in ("rv", "subspace") else set()
        return 1.0 if removed >= set(layers) and condition.alpha == 1 else 0.0

    return mechanism


def test_one_direction(audit):
    found, bench = audit(needing(4))
    assert found.verdict.text == "single-direction"
    assert [step.layers for step in found.selection.steps] == [(4,)]
    assert list(bench.asked) == ["selection-01", "measured", "cost", "reverse"]  # no second step


def test_several_directions_are_found_even_where_no_smaller_set_shows_anything(audit):
    found, _ = audit(needing(1, 5))
    assert found.verdict.name == "low-rank"
    assert set(found.selection.headline.layers) >= {1, 5}
    assert found.verdict.rank == len(found.selection.headline.layers)
    assert [each.point.alpha for each in found.reached] == [1.0, 1.0]


def test_the_last_layer_is_tried_and_reported_but_never_chosen(audit):
    found, _ = audit(needing(7), max_rank=3)
    assert found.verdict.text == "not linearly removable at k ≤ 3"
    last = next(row for row in found.selection.first if row.condition.id == "rv:L7:a1")
    assert last.compliance.estimate == 1


@pytest.mark.parametrize(
    ("kinds", "text"),
    [
        (("affine",), "affine only (k=1)"),
        (("affine-QR",), "affine only (k=2)"),
        (("affine", "projected-QR"), "affine or projected only (affine k=1, projected k=2)"),
        ((), "not linearly removable at k ≤ 2"),
        (("random", "affine"), "removed by random subspaces too"),  # what anything does, shows nothing
    ],
)
def test_operators_that_work_alone_are_named(audit, kinds, text):
    def mechanism(condition):
        return float(any(condition.id.removeprefix("named:").startswith(kind) for kind in kinds))

    assert audit(mechanism, max_rank=2)[0].verdict.text == text


def test_the_other_forms_are_chosen_on_one_half_and_measured_at_every_rank_on_the_other(audit):
    found, bench = audit(needing(1, 5))
    names = [*found.measured.affine, *found.measured.projected]
    later = [name for name in names if "QR" in name]
    assert later and bench.asked["selection-forms"][0] == later
    assert set(names) <= set(bench.asked["measured"][0])
    ranks = [found.measured.rows[name].condition.rank for name in found.measured.affine]
    assert ranks == [len(layers) for layers in found.selection.affine.layers] == sorted(ranks)


def test_halves_are_asked_in_their_stages_and_nothing_else(audit):
    _, bench = audit(needing(1, 5))
    asked = {stage: {prompt.id for prompt in prompts} for stage, (_, prompts) in bench.asked.items()}
    selecting = [prompts for stage, prompts in asked.items() if stage.startswith("selection")]
    assert len(selecting) > 1
    assert all(prompts == selecting[0] for prompts in selecting)
    assert not selecting[0] & asked["measured"]


@pytest.mark.parametrize(
    ("unscored", "message"),
    [
        ("rv:L4:a1", "rv:L4:a1, harmful prompts: 0 of 20 responses are scored .*judge the run again"),
        ("baseline", "baseline, harmful prompts: 0 of 20"),
        ("selection-01", "selection-01: no response is scored"),
        ("measured", "measured: no response is scored"),
    ],
)
def test_what_no_judge_could_score_is_an_error_of_one_line(audit, unscored, message):
    with pytest.raises(NoScoresError, match=message) as raised:
        audit(needing(4), unscored=unscored)
    assert "\n" not in str(raised.value)


def test_a_model_that_does_not_refuse_is_said_to_need_no_ablation(audit, tmp_path):
    found, bench = audit(lambda condition: 0.8 if condition == BASELINE else 1.0)
    assert found.verdict.text == "no refusal to remove"
    assert [each.text for each in found.reached] == ["reached without any ablation", "k = 1, α = 0.5"]
    page = write_pages(found, tmp_path / "out").read_text()
    assert "an audit needs prompts that it refuses (--prompts)" in page
    assert "50% compliance: reached without any ablation (0.800 [" in page


def test_the_page_escapes_what_it_shows_and_the_record_is_plain_json(audit, tmp_path):
    found, _ = audit(needing(4))
    page = write_pages(found, tmp_path / "out").read_text()
    assert MODEL not in page
    assert "an audit needs prompts" not in page
    assert "What it costs on benchmarks" not in page  # none were asked for
    assert "Refusal audit" in page and "Refusal report" not in page
    assert "&lt;script&gt;" in page
    for text in (
        "single-direction",
        "<svg",
        "k = 1, α = 1 (1.000 [",
        "tier 2",
        "Induced refusals",
        "the highest of 8 layers",
        "20 harmful to choose, 20 others to measure, 20 safe",
    ):
        assert text in page
    record = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert record["verdict"] == {"name": "single-direction", "rank": 1, "text": "single-direction"}
    assert record["evidence"]["ranks"]["1"]["n"] == N
    assert (tmp_path / "out" / "figures" / "audit-ranks.svg").is_file()


def test_benchmarks_are_of_the_ablations_whose_cost_is_shown_and_stand_beside_it(audit, tmp_path):
    found, bench = audit(needing(1, 5), tasks=("facts",))
    assert [each.variant for each in found.capability] == bench.asked["cost"][0]
    page = write_pages(found, tmp_path / "out").read_text()
    assert "; against the baseline on benchmarks: facts −0.100 [−0.20, −0.05]." in page  # of the subspace chosen
    assert "Δ facts" in page and "What it costs on benchmarks" in page
    record = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert record["capability"][0]["score"]["estimate"] == 0.9


@pytest.mark.parametrize("compliance", [0.95, 0.0])
def test_a_target_that_is_reached_without_ablation_or_not_at_all_has_no_cost(audit, compliance):
    table = reached_table(audit(lambda condition: compliance, tasks=("facts",))[0])
    assert {len(row) for row in table.rows} == {len(table.columns)} == {6}
    assert all(row[4:] == [None, None] for row in table.rows)


def test_an_interrupted_audit_says_how_much_of_all_its_stages_is_kept(audit, tmp_path, capsys):
    audit(needing(4))
    n_rows = sum(path.read_text().count("\n") for path in tmp_path.glob("runs/*/generations.jsonl"))
    with pytest.raises(SystemExit) as ended, ending_resumably(tmp_path, ["audit", "model"]):
        raise KeyboardInterrupt
    assert ended.value.code == 130
    assert f"{n_rows} responses are kept" in capsys.readouterr().err
