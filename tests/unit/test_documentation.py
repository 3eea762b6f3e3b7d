"""What the documents claim about the tests and the commands."""

import re
from pathlib import Path

import pytest

from eval.cli import COMMANDS, main

ROOT = Path(__file__).parents[2]
MIN_TOKENS = 256  # at 30 most refusals that come late in an answer are not seen


def test_every_test_that_guards_against_a_known_defect_exists():
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "defects.md").read_text(encoding="utf-8")))
    written = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^ *def (test_\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert len(named) > 25
    assert named <= written


def test_every_command_of_the_readme_is_one():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"bin/refusal ([a-z]+)", text))
    assert len(named) > 10
    assert named <= COMMANDS.keys()


@pytest.mark.parametrize("name", ["generate", "sweep"])
def test_answers_are_long_enough_by_default_to_show_refusals(name):
    command = main.get_command(None, name)
    assert command is not None
    (option,) = [option for option in command.params if option.name == "max_tokens"]
    assert option.default >= MIN_TOKENS
