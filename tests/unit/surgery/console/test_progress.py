"""Progress of the offline commands: a bar on a terminal, lines elsewhere, and nothing of what takes no time."""

import io

import pytest
from click.testing import CliRunner
from synthetic_runs import RunMaker

from eval.cli import main
from surgery.console import progress
from surgery.console.progress import ProgressLines, clock_time, progress_bar


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def lines_of(steps, unit="prompt", seconds=7.0):
    """What is written of steps (done, total[, label]), so many seconds apart."""
    clock, log = Clock(), io.StringIO()
    lines = ProgressLines("extracting", unit, log, clock)
    for step in steps:
        clock.now += seconds
        lines.update(*step)
    return log.getvalue().splitlines()


def test_a_log_has_a_line_every_thirty_seconds_with_what_is_left():
    lines = lines_of([(done, 20) for done in range(1, 21)])
    assert lines[0] == "extracting: 5/20 prompts (25 %), 1:45 left"
    assert [line.split()[1] for line in lines] == ["5/20", "10/20", "15/20", "20/20"]


def test_what_takes_no_time_leaves_no_line():
    assert lines_of([(done, 20) for done in range(1, 21)], seconds=1) == []


def test_bytes_are_told_as_gigabytes_and_a_stage_has_its_own_rate():
    assert lines_of([(3 * 10**9, 12 * 10**9)], "B", 60) == ["extracting: 3.0/12.0 GB (25 %), 3:00 left"]
    (first, second) = lines_of([(5, 10, "first"), (1, 9, "second"), (2, 9, "second")], "step", 30)[1:]
    assert first.startswith("second: 1/9") and second == "second: 2/9 steps (22 %), 1:45 left"


def test_a_command_that_is_piped_writes_lines(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LOG_SECONDS", 0)
    with progress_bar("extracting", "prompt") as update:
        update(2, 4)
    assert capsys.readouterr().err == "extracting: 2/4 prompts (50 %), 0:00 left\n"


def test_times_are_no_finer_than_they_can_be_known():
    assert [clock_time(seconds) for seconds in (7, 750, 3900, 123_042)] == [
        "0:07",
        "12:30",
        "1 h 05 min",
        "34 h 10 min",
    ]


@pytest.mark.parametrize("seconds", [0, 30])
def test_judging_that_is_piped_says_how_far_it_is_when_it_takes_long(tmp_path, monkeypatch, seconds):
    monkeypatch.setattr(progress, "LOG_SECONDS", seconds)
    run = RunMaker(tmp_path / "run", 4).write()
    result = CliRunner().invoke(main.get_command(None, "judge"), [str(run.path)])
    assert result.exit_code == 0 and ("judging: 8/8 responses (100 %)" in result.stderr) is (seconds == 0)
