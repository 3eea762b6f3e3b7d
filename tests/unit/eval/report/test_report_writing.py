"""Writing a report: what is refused, what is replaced, what is left behind."""

import pytest
from click.testing import CliRunner
from synthetic_runs import HEURISTIC, RunMaker, checkpoint, rv

from eval.commands.report import report
from eval.records.manifest import Manifest
from eval.records.rows import item_id
from eval.report.report import write_report
from eval.statistics.scores import JudgeChoiceError, NoScoresError
from surgery.console.errors import ArtifactError, OutputExistsError


def test_runs_of_different_judges_do_not_share_a_report(tmp_path):
    runs = [RunMaker(tmp_path / judge, judge=judge).add(rv(3), 0.5).write() for judge in (HEURISTIC, "llm:x")]
    with pytest.raises(JudgeChoiceError, match="no judge scored all runs"):
        write_report(runs, tmp_path / "out")


def test_an_existing_report_is_kept_unless_forced_and_other_folders_always(tmp_path):
    run = RunMaker(tmp_path / "run").add(rv(3), 0.5).write()
    out = tmp_path / "out"
    write_report([run], out)
    (out / "stale.txt").write_text("x")
    with pytest.raises(OutputExistsError):
        write_report([run], out)
    write_report([run], out, force=True)
    assert not (out / "stale.txt").exists()
    with pytest.raises(ArtifactError, match="is not a report"):
        write_report([run], tmp_path / "run", force=True)
    assert (tmp_path / "run" / "run.json").is_file()


def test_a_failure_leaves_nothing_behind(tmp_path):
    run = RunMaker(tmp_path / "run", n_prompts=4).add(rv(3), 0.5).write()
    (run.path / "verdicts.jsonl").unlink()
    with pytest.raises(NoScoresError, match="judge it first: refusal judge"):
        write_report([run], tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_baseline_without_scores_is_an_error(tmp_path):
    maker = RunMaker(tmp_path / "run").add(rv(3), 0.5)
    baseline = {item_id("baseline", "harmful", f"harmful-{index}") for index in range(20)}
    maker.verdicts = [verdict for verdict in maker.verdicts if verdict.item_id not in baseline]
    with pytest.raises(NoScoresError, match="baseline, harmful prompts: 0 of 20"):
        write_report([maker.write()], tmp_path / "out")


@pytest.mark.parametrize("missing", ["model", "sampling", "stages", "prompt_sets", "versions", "command", "created"])
def test_a_manifest_may_lack_what_only_describes(tmp_path, missing):
    run = RunMaker(tmp_path / "run", n_prompts=4).add(rv(3), 0.5).add(checkpoint((3,)), 0.5).write()
    run.manifest = Manifest.of({key: value for key, value in run.manifest.to_json().items() if key != missing})
    assert write_report([run], tmp_path / "out").is_file()


def test_runs_of_the_same_model_get_files_of_their_own(tmp_path):
    runs = [RunMaker(tmp_path / name, n_prompts=4).add(rv(3), 0.5).write() for name in "ab"]
    names = {path.name for path in (write_report(runs, tmp_path / "out").parent / "tables").iterdir()}
    assert {"tiny-model-single-rvs.csv", "tiny-model-2-single-rvs.csv"} <= names


def test_a_safe_only_or_baseline_only_run_is_reported_or_refused_in_words(tmp_path):
    only_baseline = RunMaker(tmp_path / "a", n_prompts=4).write()
    assert write_report([only_baseline], tmp_path / "out").is_file()
    maker = RunMaker(tmp_path / "b", n_prompts=4)
    maker.generations = [row for row in maker.generations if row.prompt_set == "safe"]
    with pytest.raises(NoScoresError, match="no harmful prompts were answered"):
        write_report([maker.write()], tmp_path / "out2")


def test_the_command_writes_the_report_and_prints_its_path(tmp_path):
    RunMaker(tmp_path / "run", n_prompts=4).add(rv(3), 0.5).write()
    result = CliRunner().invoke(report, [str(tmp_path / "run"), "-o", str(tmp_path / "out")], catch_exceptions=False)
    assert result.exit_code == 0 and result.output.strip() == str(tmp_path / "out" / "report.html")
    assert CliRunner().invoke(report, ["-o", str(tmp_path / "out")]).exit_code == 2
