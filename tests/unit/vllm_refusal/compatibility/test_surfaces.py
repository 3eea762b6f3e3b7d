"""What the plugin relies on in vLLM: all of it is there, each part that is missing is refused by name, nothing is imported."""

import ast
import inspect
import logging
import multiprocessing
import re
import subprocess
import sys
from pathlib import Path

import pytest
import vllm

import vllm_refusal
from vllm_refusal.compatibility import definitions
from vllm_refusal.compatibility.checking import IncompatibleError, check
from vllm_refusal.compatibility.surfaces import NAMES, SIGNATURES, TESTED
from vllm_refusal.compatibility.wrapping import owner_of

PACKAGE = Path(vllm_refusal.__file__).parent
PUBLIC = {"vllm", "vllm.sampling_params", "vllm.engine.arg_utils", "vllm.platforms", "vllm.logger"}
"""Modules of which only what vLLM documents for everyone is used."""
PARTS = [(place, name) for place, names in NAMES.items() for name in names.split()]


@pytest.fixture(autouse=True)
def checked_anew():
    check.cache_clear()
    yield
    check.cache_clear()


@pytest.fixture
def changed(monkeypatch):
    """changed(place, pattern, replacement): the place's module is seen with other text."""
    read = definitions._module

    def change(place, pattern, replacement):
        module = place.partition(":")[0]
        text, n = re.subn(pattern, replacement, Path(read(module).co_filename).read_text())
        assert n
        code = compile(text, module, "exec")
        monkeypatch.setattr(definitions, "_module", lambda name: code if name == module else read(name))

    return change


def test_this_vllm_is_one_that_it_was_tested_on(caplog):
    check()
    assert vllm.__version__ in TESTED
    assert not caplog.records


@pytest.mark.parametrize("place", SIGNATURES)
def test_what_is_read_of_a_function_is_what_it_takes(place):
    owner, name = owner_of(place)
    function = inspect.unwrap(getattr(inspect.getattr_static(owner, name), "__func__", getattr(owner, name)))
    assert definitions.parameters(definitions.find(place)) == list(inspect.signature(function).parameters)


@pytest.mark.parametrize("place", SIGNATURES)
def test_a_function_that_is_gone_or_takes_something_else_is_refused_by_name(place, changed):
    name = place.rpartition(":")[2].rpartition(".")[2]
    changed(place, rf"\bdef {name}\(", f"def {name}_before(")
    with pytest.raises(
        IncompatibleError, match=rf"vLLM {vllm.__version__}: {re.escape(place)} is missing .*{TESTED[0]}"
    ):
        check()
    changed(place, rf"\bdef {name}\(", f"def {name}(another, ")
    with pytest.raises(IncompatibleError, match=rf"{re.escape(place)} takes \(another.*\), expected \("):
        check()


@pytest.mark.parametrize("place", NAMES)
def test_a_name_that_is_gone_is_not_found(place, changed):
    names, own = NAMES[place].split(), place.rpartition(":")[2]
    changed(place, "|".join((r"(?<!def )" if name == own else "") + rf"\b{name}\b" for name in names), r"\g<0>_before")
    assert not set(names) & definitions.names(definitions.find(place))


@pytest.mark.parametrize(("place", "name"), PARTS)
def test_a_name_that_is_not_found_is_refused(place, name, monkeypatch):
    names, code = definitions.names, definitions.find(place)
    monkeypatch.setattr(definitions, "names", lambda seen: names(seen) - ({name} if seen is code else set()))
    with pytest.raises(IncompatibleError, match=f"vLLM {vllm.__version__}: {place} has no {name} .*{TESTED[0]}"):
        check()


def test_another_version_is_warned_of_once_and_by_one_process(monkeypatch, caplog):
    monkeypatch.setattr(vllm, "__version__", "0.99.1+cu130")
    check()
    check()
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        f"vllm-refusal is not tested with vLLM {', '.join(TESTED)}, found 0.99.1"
    ]
    caplog.clear()
    check.cache_clear()
    monkeypatch.setattr(multiprocessing, "parent_process", object)
    check()
    assert not caplog.records


def test_the_check_imports_nothing_of_vllm_and_comes_before_anything_is_wrapped():
    """In a process of its own: the check is part of every start of vLLM's processes."""
    script = """
import sys
import vllm
from vllm_refusal.compatibility import checking, definitions
before = set(sys.modules)
checking.check()
assert not [name for name in set(sys.modules) - before if name.startswith(("vllm", "torch", "transformers"))]
import vllm_refusal
checking.check.cache_clear()
definitions._module = lambda name: None
try:
    vllm_refusal.register()
except checking.IncompatibleError:
    assert "vllm.v1.engine.core" not in sys.modules and "vllm.model_executor.models.registry" not in sys.modules
else:
    raise SystemExit("registered without a single surface")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def imported_from_vllm():
    """(module, name) of everything that the plugin imports from vLLM, inside functions too."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "vllm":
                yield from ((node.module, alias.name) for alias in node.names)


def test_everything_that_is_imported_from_vllm_is_in_the_table():
    listed = {re.sub(r"(:\w+)\..*", r"\1", place) for place in (*SIGNATURES, *NAMES)}
    listed |= {f"{place}{name}" for place, name in PARTS if place.endswith(":")}
    found = {f"{module}:{name}" for module, name in imported_from_vllm() if module not in PUBLIC}
    assert found
    assert found <= listed
