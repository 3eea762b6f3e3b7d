"""Runs on disk: append-only, resumable, one writer, torn last lines tolerated and nothing else."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from eval.plan.conditions import BASELINE, Condition
from eval.records.rows import SCORED, UNSCORED, Generation, Verdict, item_id
from eval.records.run import Run
from surgery.console.errors import ArtifactError, OutputExistsError

SUBSPACE = Condition(
    id="subspace:1,3:a0.5",
    kind="subspace",
    label="QR of layers 1, 3",
    alpha=0.5,
    rank=2,
    source_layers=(1, 3),
    site="stream",
    request={"ablation": "sub", "ablation_alpha": 0.5},
)


def make_run(path, **manifest):
    return Run.create(path, {"conditions": [BASELINE.to_json(), SUBSPACE.to_json()], **manifest})


def generation(index=0, response="Take a larger pot.", condition_id="baseline"):
    return Generation(
        item_id=item_id(condition_id, "safe", f"p{index}"),
        condition_id=condition_id,
        prompt_set="safe",
        prompt_id=f"p{index}",
        prompt="How do I repot a fern?",
        category="garden",
        tier=None,
        sample=0,
        response=response,
        finish_reason="stop",
        n_prompt_tokens=9,
        n_tokens=5,
    )


def verdict(item="i0", judge="j", compliance=1.0, **keys):
    return Verdict(item, judge, SCORED, compliance=compliance, coherence=1.0, outcome="compliance", **keys)


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run")


def test_what_is_written_is_read_back_equal_by_another_process(run):
    rows = [generation(0), generation(1, response='Größe: "5"\n换盆 \u2028 \x85 next\ttab')]
    assert run.append_generations(rows) == 2
    run.append_verdicts([verdict("i0", evidence="gibt Schritte"), Verdict("i1", "j", UNSCORED, reason="transport")])
    again = Run.open(run.path)
    assert again.generations() == rows
    assert [row.reason for row in again.verdicts("j")] == ["", "transport"]
    assert again.conditions == [BASELINE, SUBSPACE]


def test_half_a_surrogate_pair_in_a_response_is_kept_and_readable_text_stays_readable(run):
    rows = [generation(0, response="broken \ud83d here"), generation(1, response="héllo")]
    run.append_generations(rows)
    assert run.generations() == rows
    assert "héllo".encode() in (run.path / "generations.jsonl").read_bytes()


@pytest.mark.parametrize("cut", [1, 5, 40, 60])
def test_a_torn_last_line_is_left_out_and_then_written_over(run, cut):
    run.append_generations([generation(0), generation(1, response="Erde für größere Töpfe")])
    path = run.path / "generations.jsonl"
    whole = path.read_bytes()
    torn = whole[: whole.index(b"\n") + 1] + whole.split(b"\n")[1][:-cut]
    path.write_bytes(torn)
    assert run.generations() == [generation(0)]
    run.append_generations([generation(2)])
    assert run.generations() == [generation(0), generation(2)]


def test_a_line_torn_inside_a_character_is_left_out(run):
    run.append_generations([generation(0)])
    with open(run.path / "generations.jsonl", "ab") as handle:
        handle.write('{"item_id":"ö'.encode()[:-1])
    assert run.generations() == [generation(0)]


def test_a_whole_last_row_without_its_newline_is_read_and_survives_the_next_append(run):
    run.append_generations([generation(0), generation(1)])
    path = run.path / "generations.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    assert run.generations() == [generation(0), generation(1)]
    run.append_generations([generation(2)])
    assert run.generations() == [generation(0), generation(1), generation(2)]


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (b'{"item_id": \n', "line 2"),
        (b'{"item_id": "x"}\n', "line 2"),
        (b'["item_id"]\n', "line 2"),
        (b'{"item_id": "\xff"}\n', "line 2"),
        (b'{"item_id": "x"}', "line 2"),
    ],
    ids=["torn in the middle", "keys missing", "not an object", "not UTF-8", "whole last line with keys missing"],
)
def test_any_other_damage_is_reported_with_its_line(run, bad, told):
    run.append_generations([generation(0)])
    with open(run.path / "generations.jsonl", "ab") as handle:
        handle.write(bad)
        if bad.endswith(b"\n"):
            handle.write(json.dumps({"item_id": "y"}).encode() + b"\n")
    with pytest.raises(ArtifactError, match=told):
        run.generations()


def test_of_a_response_written_twice_the_first_counts_and_of_a_verdict_the_last(run):
    run.append_generations([generation(0, "first"), generation(0, "second")])
    assert [row.response for row in run.generations()] == ["first"]
    run.append_verdicts(
        [Verdict("i0", "j", UNSCORED, reason="transport"), verdict("i0", "j"), verdict("i0", "other", 0)]
    )
    assert [row.status for row in run.verdicts("j")] == [SCORED]
    assert {row.judge_id: row.compliance for row in run.verdicts()} == {"j": 1.0, "other": 0}


def test_repeats_of_a_judge_stand_side_by_side_and_a_row_without_the_key_is_the_first(run):
    run.append_verdicts([verdict("i0", repeat=0), verdict("i0", compliance=0.5, repeat=1), verdict("i0", repeat=0)])
    with open(run.path / "verdicts.jsonl", "ab") as handle:
        old = {"item_id": "i1", "judge_id": "j", "status": "scored", "compliance": 0, "coherence": 1}
        handle.write(json.dumps(old).encode() + b"\n")
    assert {(row.item_id, row.repeat): row.compliance for row in run.verdicts("j")} == {
        ("i0", 0): 1.0,
        ("i0", 1): 0.5,
        ("i1", 0): 0,
    }


def test_a_new_run_has_no_rows_and_appending_nothing_makes_no_file(run):
    assert run.generations() == [] and run.verdicts() == []
    assert run.append_verdicts([]) == 0
    assert not (run.path / "verdicts.jsonl").exists()


def test_item_ids_are_stable_and_differ_in_every_part():
    ids = {
        item_id("a", "safe", "p"),
        item_id("b", "safe", "p"),
        item_id("a", "harmful", "p"),
        item_id("a", "safe", "q"),
        item_id("a", "safe", "p", 1),
    }
    assert len(ids) == 5
    assert item_id("baseline", "harmful", "p1") == item_id("baseline", "harmful", "p1", 0)
    assert len(item_id("baseline", "harmful", "p1")) == 16


@pytest.mark.parametrize(
    "keys",
    [
        {"status": SCORED, "compliance": 0.7, "coherence": 1.0},
        {"status": SCORED, "compliance": None, "coherence": 1.0},
        {"status": SCORED, "compliance": float("nan"), "coherence": 1.0},
        {"status": UNSCORED, "compliance": 0.0, "reason": "transport"},
        {"status": UNSCORED},
        {"status": "maybe", "reason": "?"},
        {"status": SCORED, "compliance": 1.0, "coherence": 1.0, "repeat": -1},
        {"status": SCORED, "compliance": 1.0, "coherence": 1.0, "repeat": 0.5},
    ],
)
def test_a_verdict_that_mixes_scores_and_no_scores_cannot_be_made(keys):
    with pytest.raises(ValueError, match="i0"):
        Verdict("i0", "j", **keys)


def test_an_existing_run_is_replaced_only_with_force_and_other_folders_never(run, tmp_path):
    run.append_generations([generation(0)])
    with pytest.raises(OutputExistsError, match="--force"):
        make_run(run.path)
    assert Run.create(run.path, {"conditions": []}, force=True).generations() == []
    (tmp_path / "thesis").mkdir()
    with pytest.raises(ArtifactError, match="replaces only runs"):
        Run.create(tmp_path / "thesis", {}, force=True)
    assert (tmp_path / "thesis").is_dir()


def test_a_run_that_is_being_written_is_not_replaced(run):
    run.append_generations([generation(0)])
    with run.writing(), pytest.raises(ArtifactError, match="writing"):
        Run.create(run.path, {}, force=True)
    assert len(run.generations()) == 1


def test_missing_parent_folders_of_a_run_are_made(tmp_path):
    assert Run.open(make_run(tmp_path / "runs" / "today" / "run").path).conditions[0] == BASELINE


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "not a run folder"),
        ("{", "not JSON"),
        ("[]", "expected a JSON object, found list"),
        ('{"kind": "subspace"}', "found 'subspace'"),
        ('{"kind": "run", "format_version": 99}', "format 99"),
        ('{"kind": "run", "stages": {"judge": "long"}}', r"stages\.judge.*found 'long'$"),
        ('{"kind": "run", "judges": {"j": []}}', r"judges\.j: .*found '\[\]'$"),
        (b"\xff\xfe{", "not JSON"),
    ],
)
def test_a_folder_that_is_not_a_run_is_named_with_the_reason(tmp_path, text, told):
    if text is not None:
        data = text if isinstance(text, bytes) else text.encode()
        (tmp_path / "run.json").write_bytes(data)
    with pytest.raises(ArtifactError, match=told):
        Run.open(tmp_path)


def test_a_file_in_place_of_a_run_folder_is_named(tmp_path):
    (tmp_path / "run").write_text("x")
    with pytest.raises(ArtifactError, match="not a run folder"):
        Run.open(tmp_path / "run")


def test_a_manifest_is_written_as_it_was_read_with_the_keys_that_nobody_here_knows(run):
    content = {"kind": "run", "format_version": 1, "sampling": {"temperature": 0, "top_k": 3}, "stages": {"judge": 2}}
    content |= {"notes": ["ours"], "command": "refusal \udce9", "judges": {"j": {"kind": "llm", "more": None}}}
    text = json.dumps(content, indent=1, sort_keys=True) + "\n"
    (run.path / "run.json").write_text(text)
    read = Run.open(run.path)
    read.save_manifest()
    assert (run.path / "run.json").read_text() == text
    read.record_judge("k", {"kind": "heuristic"})
    assert json.loads((run.path / "run.json").read_text()) == content | {
        "judges": {"j": {"kind": "llm", "more": None}, "k": {"kind": "heuristic"}}
    }


def test_the_manifest_is_replaced_whole_and_leaves_no_scraps(run):
    run.manifest.judges["j"] = {"kind": "heuristic"}
    run.save_manifest()
    assert Run.open(run.path).manifest.judges == {"j": {"kind": "heuristic"}}
    run.manifest.judges["bad"] = object()
    with pytest.raises(TypeError):
        run.save_manifest()
    assert Run.open(run.path).manifest.judges == {"j": {"kind": "heuristic"}}
    assert sorted(os.listdir(run.path)) == ["run.json"]


def test_only_one_process_writes_and_its_death_frees_the_run(run):
    code = (
        "import sys, time; from eval.records.run import Run\n"
        "with Run.open(sys.argv[1]).writing():\n    print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(run.path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ArtifactError, match="another process"), run.writing():
            pass
        other.send_signal(signal.SIGKILL)
    with run.writing():
        pass
    with run.writing():
        pass


def test_rows_of_a_writer_killed_in_the_act_are_all_read_and_the_run_goes_on(run):
    code = (
        "import sys; from eval.records.run import Run, Verdict\n"
        "run = Run.open(sys.argv[1]); n = 0\n"
        "while True:\n    run.append_verdicts([Verdict(f'i{n}', 'j', 'unscored', reason='x' * 2000)]); n += 1\n"
        "    print(n, flush=True)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(run.path)], stdout=subprocess.PIPE, text=True) as other:
        told = [other.stdout.readline() for _ in range(30)]
        other.send_signal(signal.SIGKILL)
    assert len(run.verdicts("j")) >= int(told[-1])
    run.append_verdicts([verdict("last")])
    assert run.verdicts("j")[-1] == verdict("last")


def test_conditions_survive_json_and_an_unknown_kind_is_refused():
    assert Condition.from_json(json.loads(json.dumps(SUBSPACE.to_json()))) == SUBSPACE
    with pytest.raises(ValueError, match="kind must be one of baseline.*found 'magic'"):
        Condition(id="x", kind="magic", label="x")


def test_ids_are_read_without_the_texts_and_damage_is_still_named(run):
    run.append_generations([generation(0), generation(1, response='a } "item_id" {')])
    path = run.path / "generations.jsonl"
    with open(path, "ab") as handle:
        handle.write(b'{"condition_id":"x"')  # torn
    assert run.generated_ids() == {generation(0).item_id, generation(1).item_id}
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(ArtifactError, match="line 3: not a generation row"):
        run.generated_ids()


def test_rows_reach_the_disk_one_by_one_or_within_a_second_and_all_when_the_lock_is_given_back(run, monkeypatch):
    synced = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(1), real(handle)))
    for index in range(3):
        run.append_generations([generation(index)])
    assert len(synced) == 3
    with run.writing():
        for index in range(3, 103):
            run.append_generations([generation(index)])
        assert len(Run.open(run.path).generations()) == 103  # with the operating system at once
        n_within = len(synced) - 3
    assert n_within < 20 and len(synced) - 3 == n_within + (0 if n_within == 100 else 1)


def test_the_same_run_may_be_held_again_inside_and_is_free_only_at_the_end(run):
    with run.writing():
        with run.writing():
            pass
        with pytest.raises(ArtifactError, match="another process"), Run.open(run.path).writing():
            pass
    with Run.open(run.path).writing():
        pass


def test_a_judge_is_recorded_after_a_change_of_the_manifest_is_whole_and_neither_is_lost(run):
    judging = threading.Thread(target=run.record_judge, args=("heuristic-v1", {"kind": "heuristic"}))
    with run.amending() as manifest:
        judging.start()
        judging.join(0.1)
        assert judging.is_alive()  # waits
        manifest.stages["engine: start"] = 1.5
    judging.join()
    found = Run.open(run.path).manifest
    assert found.stages == {"engine: start": 1.5} and found.judges == {"heuristic-v1": {"kind": "heuristic"}}


def test_a_row_that_is_not_redacted_says_nothing_of_redaction(run):
    run.append_generations([generation(0)])
    assert b"redacted" not in (run.path / "generations.jsonl").read_bytes()
