"""A run in other programs' forms: the same responses and verdicts, whole or not at all."""

import csv
import json
import sys
from dataclasses import replace

import pytest
from click.testing import CliRunner

from eval.commands.records import export
from eval.endpoints.completions import NEUTRAL
from eval.generation.answering import Item
from eval.plan.conditions import BASELINE
from eval.records.export import COLUMNS, ExportError, export_run, table_rows
from eval.records.redaction import Redaction
from eval.records.rows import UNSCORED, Verdict
from eval.records.run import Run
from surgery.console.errors import OutputExistsError
from surgery.prompts import Prompt
from tests.synthetic_runs import RunMaker, checkpoint, rv


@pytest.fixture
def run(tmp_path):
    maker = RunMaker(tmp_path / "run", n_prompts=5)
    run = maker.add(rv(3), 0.6, n_unscored=1).add(checkpoint((1, 2)), 1.0).write()
    first = run.generations()[0].item_id
    run.append_verdicts([Verdict(first, "llm:x", "scored", 0.5, 1.0, "partial", repeat=repeat) for repeat in (0, 1)])
    return run


def read_csv(path):
    with open(path, encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def test_a_table_has_a_row_for_each_verdict_of_every_judge_and_repeat(run, tmp_path):
    assert export_run(run, "csv", tmp_path / "t.csv") == 30 + 2
    rows = read_csv(tmp_path / "t.csv")
    assert list(rows[0]) == COLUMNS and len(rows) == 32
    assert [row["repeat"] for row in rows if row["judge_id"] == "llm:x"] == ["0", "1"]
    texts = {item.item_id: item.response for item in run.generations()}
    assert all(row["response"] == texts[row["item_id"]] for row in rows)
    unscored = [row for row in rows if row["status"] == UNSCORED]
    assert unscored and all(row["compliance"] == "" and row["reason"] for row in unscored)  # never 0
    assert {row["condition_alpha"] for row in rows if row["condition_kind"] == "rv"} == {"1.0"}


def test_a_response_without_a_verdict_is_in_the_table_without_scores(run, tmp_path):
    (run.path / "verdicts.jsonl").unlink()
    export_run(run, "csv", tmp_path / "t.csv")
    rows = read_csv(tmp_path / "t.csv")
    assert len(rows) == 30 and {row["judge_id"] for row in rows} == {""}


def test_parquet_holds_what_the_table_holds_with_types(run, tmp_path):
    import pyarrow.parquet as pq

    run.append_generations(
        [type(run.generations()[0])(**{**vars(run.generations()[0]), "item_id": "odd", "response": "half \ud83d"})]
    )
    export_run(run, "parquet", tmp_path / "t.parquet")
    table = pq.read_table(tmp_path / "t.parquet")
    expected = list(table_rows(run))
    assert table.column_names == COLUMNS and table.num_rows == len(expected)
    read = table.to_pylist()
    assert read[:-1] == expected[:-1]
    assert read[-1]["response"] == "half \\ud83d" and read[-1]["compliance"] is None
    assert str(table.schema.field("compliance").type) == "double" and str(table.schema.field("tier").type) == "int64"


def test_without_pyarrow_the_fault_is_one_line_and_leaves_nothing(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = CliRunner().invoke(export, [str(run.path), "--format", "parquet", "-o", str(tmp_path / "t.parquet")])
    assert isinstance(result.exception, ExportError) and "needs pyarrow" in str(result.exception)
    assert not list(tmp_path.glob("*parquet*"))


def test_batch_requests_name_their_condition_and_leave_checkpoints_out(run, tmp_path):
    assert export_run(run, "openai-batch", tmp_path / "b.jsonl") == 20
    requests = [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()]
    items = {item.item_id: item for item in run.generations()}
    assert {request["custom_id"] for request in requests} == {
        key for key, item in items.items() if not item.condition_id.startswith("checkpoint")
    }
    for request in requests:
        item, body = items[request["custom_id"]], request["body"]
        assert (request["method"], request["url"]) == ("POST", "/v1/chat/completions")
        assert body["messages"] == [{"role": "user", "content": item.prompt}] and body["max_tokens"] == 256
        assert body["model"] == "tiny/model"


def test_batch_requests_leave_no_decoding_option_to_the_servers_defaults(run, tmp_path):
    export_run(run, "openai-batch", tmp_path / "b.jsonl")
    bodies = [json.loads(line)["body"] for line in (tmp_path / "b.jsonl").read_text().splitlines()]
    assert all(body.items() >= NEUTRAL.items() for body in bodies)


def test_batch_requests_carry_the_intervention_and_the_baseline_has_none(tmp_path):
    maker = RunMaker(tmp_path / "run", n_prompts=2)
    conditions = [
        maker.conditions[0].to_json(),
        {**rv(3).to_json(), "request": {"ablation": "l3", "ablation_alpha": 0.5}},
    ]
    run = maker.add(rv(3)).write()
    run.manifest.conditions = conditions
    export_run(run, "openai-batch", tmp_path / "b.jsonl")
    bodies = [json.loads(line)["body"] for line in (tmp_path / "b.jsonl").read_text().splitlines()]
    assert [body.get("vllm_xargs") for body in bodies] == [None] * 4 + [{"ablation": "l3", "ablation_alpha": 0.5}] * 4


def test_batch_requests_of_several_samples_have_the_seed_that_each_response_was_drawn_with(tmp_path):
    maker = RunMaker(tmp_path / "run", n_prompts=2, manifest={"sampling": {"temperature": 0.7, "seed": 5}})
    first = maker.generations[0]
    maker.generations += [replace(first, item_id=f"again {n}", sample=n) for n in (1, 2)]
    export_run(maker.write(), "openai-batch", tmp_path / "b.jsonl")
    requests = {row["custom_id"]: row["body"] for row in map(json.loads, (tmp_path / "b.jsonl").open())}
    assert len({body["seed"] for body in requests.values()}) == len(requests) == 6
    asked = Prompt(first.prompt_id, first.prompt)
    for n in (1, 2):
        assert requests[f"again {n}"]["seed"] == Item("", BASELINE, first.prompt_set, asked, n).seed(5)


def test_an_inspect_log_has_a_sample_for_each_response_and_a_score_for_each_judge(run, tmp_path):
    assert export_run(run, "inspect", tmp_path / "log.json") == 30
    log = json.loads((tmp_path / "log.json").read_text())
    assert (log["version"], log["status"], log["eval"]["model"]) == (2, "success", "tiny/model")
    assert len({(sample["id"], sample["epoch"]) for sample in log["samples"]}) == 30
    first = log["samples"][0]
    assert first["scores"]["llm:x"]["value"] == {"compliance": 0.5, "coherence": 1.0}
    unscored = [sample for sample in log["samples"] if "unscored" in sample["metadata"]]
    assert len(unscored) == 1 and all(not sample["scores"] for sample in unscored)
    (harmful,) = [s for s in log["results"]["scores"] if (s["scorer"], s["name"]) == ("llm:x", "compliance")]
    assert (harmful["metrics"]["mean"]["value"], harmful["scored_samples"]) == (0.5, 1)


def test_the_means_of_an_inspect_log_are_over_prompts_whose_samples_are_averaged(tmp_path):
    maker = RunMaker(tmp_path / "run", n_prompts=1)
    (first, verdict), *others = zip(maker.generations, maker.verdicts, strict=True)
    maker.generations += [replace(first, item_id=f"again {n}", sample=n) for n in (1, 2)]
    maker.verdicts += [replace(verdict, item_id=f"again {n}") for n in (1, 2)]
    assert (verdict.compliance, [other.compliance for _, other in others]) == (0.0, [1.0])
    export_run(maker.write(), "inspect", tmp_path / "log.json")
    results = json.loads((tmp_path / "log.json").read_text())["results"]["scores"]
    (found,) = [row for row in results if row["name"] == "compliance"]
    assert (found["metrics"]["mean"]["value"], found["scored_samples"]) == (0.5, 4)


@pytest.mark.parametrize("form", ["csv", "parquet", "inspect", "openai-batch"])
def test_an_export_replaces_only_by_force_and_a_failed_one_leaves_what_was_there(run, tmp_path, form):
    path = tmp_path / "out"
    path.write_text("mine")
    with pytest.raises(OutputExistsError, match="--force"):
        export_run(run, form, path)
    (run.path / "verdicts.jsonl").write_text("{}\n{}\n")
    (run.path / "generations.jsonl").write_text("{}\n{}\n")
    with pytest.raises(Exception, match="line 1"):
        export_run(run, form, path, force=True)
    assert path.read_text() == "mine" and sorted(p.name for p in tmp_path.iterdir()) == ["out", "run"]


def test_a_run_without_responses_and_an_unknown_form_are_refused(tmp_path, run):
    with pytest.raises(ExportError, match="no responses to export"):
        export_run(Run.create(tmp_path / "new", {"conditions": []}), "csv", tmp_path / "x")
    with pytest.raises(ExportError, match="one of csv, parquet.*found 'xlsx'"):
        export_run(run, "xlsx", tmp_path / "x")


def test_a_redacted_run_is_exported_without_text_and_says_so(run, tmp_path):
    run.redact(Redaction.new(prompts=True))
    export_run(run, "csv", tmp_path / "t.csv")
    rows = read_csv(tmp_path / "t.csv")
    assert {(row["redacted"], row["response"], row["prompt"]) for row in rows} == {("True", "", "")}
    export_run(run, "inspect", tmp_path / "log.json")
    log = json.loads((tmp_path / "log.json").read_text())
    assert log["eval"]["metadata"]["redacted"] and log["samples"][0]["metadata"]["response_sha256"]
    with pytest.raises(ExportError, match="prompts are redacted"):
        export_run(run, "openai-batch", tmp_path / "b.jsonl")


def test_the_command_says_how_much_it_wrote(run, tmp_path):
    result = CliRunner().invoke(export, [str(run.path), "--format", "inspect", "--out", str(tmp_path / "log.json")])
    assert result.exit_code == 0 and result.output == f"{tmp_path}/log.json: 30 samples\n"
