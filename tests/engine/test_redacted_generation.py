"""`generate --redact`: no response reaches the disk, verdicts do, and the rest of the product works on what is left."""

import pytest
from click.testing import CliRunner

from eval.cli import main
from eval.records.run import Run

pytestmark = pytest.mark.engine


def refusal(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def asked(rvs, tmp_path_factory):
    """(words of a generation without redaction, folder for runs)."""
    model = rvs.parent / "model"
    words = ["generate", model, "--ablation", f"a={rvs},source_layer=4", "--prompts", model / "prompts.jsonl"]
    words += ["--limit", 4, "--max-tokens", 24, "--dtype", "float32", "--judge", "heuristic"]
    return words, tmp_path_factory.mktemp("redacted")


@pytest.fixture(scope="module")
def runs(asked):
    """(plain run, redacted run) of the same generation."""
    words, folder = asked
    for name, extra in (("plain", ()), ("redacted", ("--redact-prompts",))):
        made = refusal(*words, *extra, "-o", folder / name)
        assert made.exit_code == 0, made.output
    return Run.open(folder / "plain"), Run.open(folder / "redacted")


def everything_in(run):
    return b"".join(path.read_bytes() for path in run.path.rglob("*") if path.is_file())


def test_no_text_reaches_the_disk_and_the_verdicts_are_those_of_the_plain_run(runs):
    plain, redacted = runs
    texts = {row.response for row in plain.generations()} | {row.prompt for row in plain.generations()}
    assert len(texts) > 4
    assert all(text.encode() in everything_in(plain) for text in texts if text)  # would be found
    assert not any(text.encode() in everything_in(redacted) for text in texts if len(text) > 3)
    scores = [{row.item_id: (row.compliance, row.coherence) for row in run.verdicts()} for run in runs]
    assert scores[0] == scores[1] and len(scores[0]) == 8
    lengths = [
        {row.item_id: (row.n_tokens, row.n_chars or len(row.response)) for row in run.generations()} for run in runs
    ]
    assert lengths[0] == lengths[1]


def test_a_report_of_a_redacted_run_is_written_and_says_so(runs, tmp_path):
    made = refusal("report", runs[1].path, "-o", tmp_path / "report")
    assert made.exit_code == 0, made.output
    assert "redacted" in (tmp_path / "report" / "report.html").read_text()


def test_a_redacted_run_cannot_be_judged_again(runs):
    found = refusal(
        "judge", runs[1].path, "--retry-unscored", "--judge-model", "m", "--judge-base-url", "http://127.0.0.1:9/v1"
    )
    assert found.exit_code == 1
    assert "redacted" in found.output


def test_a_run_begun_with_redaction_is_not_gone_on_with_without_it(asked, runs):
    words, folder = asked
    found = refusal(*words, "-o", folder / "redacted")
    assert found.exit_code == 1
    assert "--redact-prompts" in found.output
    again = refusal(*words, "--redact-prompts", "-o", folder / "redacted")
    assert again.exit_code == 0 and "0 new responses" in again.output


def test_redaction_without_a_judge_is_refused_before_anything_starts(asked):
    words, folder = asked
    found = refusal(*words[:-2], "--redact", "-o", folder / "never")
    assert found.exit_code == 2
    assert "needs a judge" in found.output
    assert not (folder / "never").exists()


def test_judge_takes_the_text_out_when_asked(asked, runs):
    words, folder = asked
    made = refusal(*words[:-2], "-o", folder / "later")
    assert made.exit_code == 0, made.output
    made = refusal("judge", folder / "later", "--redact")
    assert made.exit_code == 0, made.output
    assert all(row.redacted and not row.response for row in Run.open(folder / "later").generations())
    assert len(Run.open(folder / "later").verdicts()) == 8
