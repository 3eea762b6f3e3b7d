"""A pytest plugin: where a run's time went, by file, test, fixture and engine start, printed at its end."""

import json
import os
import runpy
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest

MEASURED = Path(__file__).parent / "measured"
LOG = "TEST_ENGINE_STARTS"
N_LISTED = 12
N_FILES = 15


class Durations:
    """Collects what reports carry; with pytest-xdist the controlling process gets those of all workers."""

    def __init__(self):
        self.begun = time.monotonic()
        self.tests, self.files, self.fixtures, self.n_set_up = Counter(), Counter(), Counter(), Counter()

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef, request):
        begun = time.monotonic()
        try:
            return (yield)
        finally:
            node = getattr(request, "_pyfuncitem", request.node)
            seconds = round(time.monotonic() - begun, 3)
            node.user_properties.append(("fixture", [f"{fixturedef.baseid}::{fixturedef.argname}", seconds]))

    def pytest_runtest_logreport(self, report):
        self.tests[report.nodeid] += report.duration
        self.files[report.nodeid.partition("::")[0]] += report.duration
        if report.when == "teardown":  # the report that carries everything its test has noted
            for kind, found in report.user_properties:
                if kind == "fixture":
                    self.fixtures[found[0]] += found[1]
                    self.n_set_up[found[0]] += 1

    def pytest_terminal_summary(self, terminalreporter):
        terminalreporter.section("where the time went")
        for line in self.lines():
            terminalreporter.line(line)

    def lines(self):
        yield f"{time.monotonic() - self.begun:.0f} s by the clock, {sum(self.files.values()):.0f} s in tests and fixtures"
        starts = [json.loads(line) for line in Path(os.environ[LOG]).read_text().splitlines()]
        for inside, where in ((True, "in the tests' own processes"), (False, "in servers and commands")):
            seconds = [start["seconds"] for start in starts if start["inside"] == inside]
            yield f"{len(seconds)} engine starts {where}, {sum(seconds):.0f} s"
        yield from self._listed("file", self.files, N_FILES)
        yield from self._listed("test, with the fixtures that it was first to ask for", self.tests, N_LISTED)
        yield from self._listed("fixture, the fixtures below it included", self.fixtures, N_LISTED, self.n_set_up)

    @staticmethod
    def _listed(title, seconds, n_listed, counts=None):
        yield f"slowest by {title}:"
        for name, taken in seconds.most_common(n_listed):
            yield f"  {taken:7.1f} s  {name}" + (f"  ({counts[name]} times)" if counts else "")


def start(config):
    """Measure a session; called once, from conftest.py."""
    if LOG not in os.environ:  # the controlling process; workers and the processes of tests inherit it
        handle, os.environ[LOG] = tempfile.mkstemp(prefix="engine-starts-")
        os.close(handle)
        config.add_cleanup(lambda: Path(os.environ.pop(LOG)).unlink())
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(MEASURED), os.environ.get("PYTHONPATH"))))
        runpy.run_path(str(MEASURED / "sitecustomize.py"))  # this process has started without it
    config.pluginmanager.register(Durations(), "durations")
