"""The house is in order: imports run one way, rooms say what they are, the code is clean by its tools."""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("surgery", "vllm_refusal", "eval")
AT_THE_ROOT = {"__init__.py", "cli.py", "commands.py"}


def run(*words):
    done = subprocess.run(
        [Path(sys.executable).with_name(words[0]), *words[1:]], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr


def rooms():
    return sorted(init.parent for package in PACKAGES for init in (ROOT / package).glob("*/**/__init__.py"))


def test_imports_run_one_way_those_inside_functions_too():
    run("lint-imports", "--no-cache")


@pytest.mark.parametrize("words", [["check"], ["format", "--check"]], ids=" ".join)
def test_the_code_is_clean(words):
    run("ruff", *words, "--no-cache", *PACKAGES, "tests", "benchmarks", "bin/refusal")


@pytest.mark.server  # a minute: not among the quick ones
def test_types_are_right():
    run("mypy")


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_lies_loose_at_the_root_of_a_package(package):
    assert {path.name for path in (ROOT / package).glob("*.py")} <= AT_THE_ROOT


@pytest.mark.parametrize("room", rooms(), ids=lambda room: str(room.relative_to(ROOT)))
def test_a_room_says_what_it_is_for(room):
    assert ast.get_docstring(ast.parse((room / "__init__.py").read_text()))


def test_one_name_is_one_thing():
    names = Counter(
        node.name
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert len(names) > 100 and {name: n for name, n in names.items() if n > 1} == {}
