"""Redaction: no text is left in a run's records; what stays still tells equal from different and judged from not."""

import json

import pytest
from click.testing import CliRunner

from eval.commands.records import redact
from eval.judge.docket import RedactedRunError
from eval.judge.judging import judge_run
from eval.judge.rules.heuristic import HeuristicJudge
from eval.records.redacting import RedactionError, redact_run
from eval.records.redaction import Redaction
from eval.records.rows import Generation, Verdict, item_id
from eval.records.run import Run
from eval.statistics.scores import open_scored
from eval.statistics.summaries import summarize_all
from surgery.console.errors import OutputExistsError
from tests.synthetic_runs import RunMaker, rv

WORDS = ("sorry", "basics", "opening words", "general")


def row(index, response, prompt="How do I mend a fence?"):
    return Generation(
        item_id("baseline", "safe", f"p{index}"),
        "baseline",
        "safe",
        f"p{index}",
        prompt,
        "",
        None,
        0,
        response,
        "stop",
        9,
        5,
    )


@pytest.fixture
def run(tmp_path):
    return RunMaker(tmp_path / "run", n_prompts=8).add(rv(3), 0.5, n_unscored=1).write()


def texts_in(folder):
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file()).decode()


def test_hashes_tell_equal_texts_within_a_run_and_nothing_between_runs():
    one, other = Redaction.new(), Redaction.new()
    assert one.sha256("same") == one.sha256("same") != one.sha256("Same")
    assert one.sha256("same") != other.sha256("same")
    assert one.sha256("half \ud83d") != one.sha256("half ")
    assert Redaction(**json.loads(json.dumps(one.to_json()))) == one


def test_a_redacted_response_keeps_its_length_and_is_not_an_empty_answer():
    redaction = Redaction.new()
    said, silent = redaction.generation(row(0, "Größe 5")), redaction.generation(row(1, ""))
    assert (said.response, said.redacted, said.n_chars, said.n_tokens) == ("", True, 7, 5)
    assert silent.n_chars == 0 and silent.response_key != said.response_key
    assert not row(1, "").redacted and said.prompt == row(0, "").prompt
    assert redaction.generation(said) == said


def test_a_redacted_row_with_text_or_without_its_hash_cannot_be_made():
    keys = vars(Redaction.new().generation(row(0, "x")))
    for wrong in ({"response": "x"}, {"response_sha256": ""}, {"n_chars": None}):
        with pytest.raises(ValueError, match="redacted response"):
            Generation(**{**keys, **wrong})


def test_in_place_no_text_is_left_and_the_figures_are_the_same(run):
    def figures():
        (scored,) = open_scored([Run.open(run.path)])
        return [repr(row) for name in ("harmful", "safe") for row in summarize_all(scored, name)]

    assert any(word in texts_in(run.path) for word in WORDS)
    before, ids = figures(), run.generated_ids()
    assert redact_run(run) == 32
    assert not any(word in texts_in(run.path) for word in WORDS)
    assert figures() == before and run.generated_ids() == ids
    assert {row.prompt != "" for row in run.generations()} == {True}
    assert {row.reason for row in run.verdicts()} == {"", "unreadable"}


def test_prompts_are_taken_out_on_demand_and_stay_out(run):
    prompts = {row.prompt for row in run.generations()}
    redact_run(run, prompts=True)
    assert not any(prompt in texts_in(run.path) for prompt in prompts)
    assert len({row.prompt_sha256 for row in run.generations()}) == len(prompts)
    salt = run.redaction
    assert redact_run(Run.open(run.path)) == 32 and Run.open(run.path).redaction == salt


def test_a_copy_is_redacted_and_the_run_is_left_as_it_was(run, tmp_path):
    before = texts_in(run.path)
    redact_run(run, out=tmp_path / "public")
    assert texts_in(run.path) == before
    assert not any(word in texts_in(tmp_path / "public") for word in WORDS)
    assert sorted(path.name for path in (tmp_path / "public").iterdir()) == [
        "generations.jsonl",
        "run.json",
        "verdicts.jsonl",
    ]
    with pytest.raises(OutputExistsError, match="--force"):
        redact_run(run, out=tmp_path / "public")
    assert redact_run(run, out=tmp_path / "public", force=True) == 32


def test_a_redaction_cut_short_is_completed_by_the_same_command(run, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(type(run._verdicts), "replace", lambda file, rows: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            redact_run(run)
    again = Run.open(run.path)
    assert redact_run(again) == 32
    assert not any(word in texts_in(run.path) for word in WORDS)
    assert len({row.response_sha256 for row in again.generations()}) == 2  # one salt throughout


def test_what_comes_into_a_redacted_run_later_loses_its_text_too(run):
    redact_run(run)
    again = Run.open(run.path)
    again.append_generations([row(99, "sorry, no")])
    again.append_verdicts([Verdict(row(99, "").item_id, "j", "scored", 0.0, 1.0, "refusal", evidence="sorry")])
    assert "sorry" not in texts_in(run.path)


def test_unjudged_responses_hold_a_redaction_up_unless_told(tmp_path):
    run = Run.create(tmp_path / "run", {"conditions": []})
    run.append_generations([row(0, "Take a hammer."), row(1, "No.")])
    with pytest.raises(RedactionError, match="2 of 2 responses have no verdict.*judge the run first"):
        redact_run(run)
    assert "hammer" in texts_in(run.path)
    assert redact_run(run, unjudged=True) == 2
    assert "hammer" not in texts_in(run.path)


def test_a_redacted_run_is_not_judged_by_another_judge_and_a_finished_judge_is_done(tmp_path):
    run = Run.create(tmp_path / "run", {"conditions": []})
    run.append_generations([row(0, "I can't help with that."), row(1, "Take a hammer and nails.")])
    judge = HeuristicJudge()
    before = judge_run(run, judge)
    redact_run(run)
    again = judge_run(Run.open(run.path), judge)
    assert (again.n_scored, again.n_judged) == (before.n_scored, 0)
    judge.judge_id = "heuristic:other"
    with pytest.raises(RedactedRunError, match="2 responses are redacted"):
        judge_run(Run.open(run.path), judge)
    assert {row.judge_id for row in Run.open(run.path).verdicts()} == {before.judge_id}


def test_the_command_redacts_and_says_so(run, tmp_path):
    result = CliRunner().invoke(redact, [str(run.path), "-o", str(tmp_path / "public"), "--prompts"])
    assert result.exit_code == 0
    assert result.output == f"{tmp_path}/public: 32 responses redacted, and their prompts\n"
    assert CliRunner().invoke(redact, [str(run.path), "--force"]).exit_code == 2
