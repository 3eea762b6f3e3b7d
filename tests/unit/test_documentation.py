"""What the documents claim about the tests, the commands and the rooms."""

import configparser
import re
from pathlib import Path

import click
import documents
import pytest
from documents import ROOT

from eval.cli import COMMANDS, main
from eval.commands.reference import PAGE, reference

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


def test_the_readme_is_read_in_a_few_minutes():
    text = documents.read("README.md")
    assert len(text.splitlines()) <= 180
    (picture,) = re.findall(r"!\[.+\]\((.+)\)", text)
    assert (ROOT / picture).stat().st_size < 200_000


@pytest.mark.parametrize("name", ["generate", "sweep"])
def test_answers_are_long_enough_by_default_to_show_refusals(name):
    command = main.get_command(None, name)
    assert command is not None
    (option,) = [option for option in command.params if option.name == "max_tokens"]
    assert option.default >= MIN_TOKENS


# ---------------------------------------------------------------- the reference of the commands


def test_the_reference_is_that_of_todays_help():
    assert reference() == documents.read(str(PAGE)), "renew it: .venv/bin/python -m eval.commands.reference"


@pytest.mark.parametrize("columns", ["40", "200"])
def test_no_width_of_a_terminal_is_in_the_reference(columns, monkeypatch):
    before = reference()
    monkeypatch.setenv("COLUMNS", columns)
    assert reference() == before


def test_every_command_has_an_example_in_the_reference():
    for section in documents.read(str(PAGE)).split("\n## ")[1:]:
        name = section.partition("\n")[0]
        assert len(re.findall(rf"^refusal {name}\b", section, re.MULTILINE)) >= 2, f"{name}: usage alone"


# ---------------------------------------------------------------- commands


def examples():
    """Every line of `refusal` in an example of the help, and in a document."""
    helped = (content.replace("\\\n", " ") for _, _, content in documents.blocks(str(PAGE), "text"))
    lines = [line for content in helped for line in content.splitlines() if "[OPTIONS]" not in line]
    shown = [step.text for page in documents.PAGES for step in documents.steps(page) if step.language == "console"]
    return sorted({line for line in (*lines, *shown) if documents.is_refusal(line)})


@pytest.mark.parametrize("line", examples())
def test_every_example_is_one_that_the_command_line_takes(line):
    documents.parse(line)


def shown_steps():
    return [step for page in documents.PAGES for step in documents.steps(page)]


@pytest.mark.parametrize("text", documents.NOT_RUN)
def test_what_is_not_run_is_shown(text):
    assert any(text in step.text for step in shown_steps())


def test_every_page_that_shows_commands_is_run():
    assert {step.page for step in shown_steps()} == set(documents.RUN)


def test_python_that_is_shown_is_python():
    for step in shown_steps():
        if step.language == "python":
            compile(step.text, str(step), "exec")


@pytest.mark.parametrize(
    ("said", "shown", "fits"),
    [
        ("a\nwrote model\nb", ("wrote model",), True),
        ("a\nb", ("b", "a"), False),
        ("layer 3  7.48  ####", ("layer 3  7.49  ###",), True),
        ("layer 3  9.48", ("layer 3  7.49",), False),
        ("first\nmiddle\nlast", ("first", "...", "last"), True),
        ("first", ("first", "...", "last"), False),
    ],
)
def test_shown_output_is_found_in_what_was_said_and_only_there(said, shown, fits):
    assert documents.shows(said, shown) is fits


def test_an_example_of_an_option_that_is_none_would_be_found():
    with pytest.raises(click.UsageError):
        documents.parse("refusal sweep MODEL --rvs a.safetensors --prompts builtin -o RUN --no-such-option")
    with pytest.raises(click.UsageError):
        documents.parse("refusal power --difference much")


# ---------------------------------------------------------------- the map of the code


def rooms(package):
    """Rooms by the table of a package in docs/architecture.md."""
    section = re.search(rf"^### {package}: .*?(?=^#)", documents.read("docs/architecture.md"), re.MULTILINE | re.DOTALL)
    return re.findall(r"^\| `(\w+)` \|", section[0], re.MULTILINE)


@pytest.mark.parametrize("package", ["surgery", "vllm_refusal", "eval"])
def test_the_rooms_of_the_map_are_those_on_disk(package):
    folders = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
    files = {"commands"} if (ROOT / package / "commands.py").is_file() else set()
    assert sorted(rooms(package)) == sorted(folders | files)


@pytest.mark.parametrize("package", ["surgery", "vllm_refusal", "eval"])
def test_the_rooms_of_the_map_stand_in_the_order_of_their_imports(package):
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config[f"importlinter:contract:{package}"]["layers"].split("\n")
    rank = {name.strip(): len(lines) - n for n, line in enumerate(lines) for name in line.split("|")}
    order = [rank[name] for name in rooms(package)]
    assert order == sorted(order, reverse=package == "vllm_refusal")


@pytest.mark.parametrize("page", [page for page in documents.PAGES if page != str(PAGE)])
def test_every_file_of_the_repository_that_a_page_names_is_there(page):
    text = documents.read(page)
    named = re.findall(r"`((?:surgery|vllm_refusal|eval|tests|benchmarks|docs|bin)/[\w./*-]+)`", text)
    named += [f"docs/{link}" if page.startswith("docs/") else link for link in re.findall(r"\]\(([\w./-]+)\)", text)]
    missing = [name for name in named if not list(ROOT.glob(name.rstrip("/")))]
    assert missing == []


@pytest.mark.parametrize("page", documents.PAGES)
def test_every_link_to_a_heading_finds_it(page):
    for target, anchor in re.findall(r"\]\(([\w./-]*)#([\w-]+)\)", documents.read(page)):
        found = ROOT / Path(page).parent / target if target else ROOT / page
        headings = re.findall(r"^#+ (.+)$", found.read_text(encoding="utf-8"), re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in headings}, (target, anchor)
