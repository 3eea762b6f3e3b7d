"""Which tests run where: `slow` only when asked for, `browser` only with a Chromium."""

import os
import shutil

import pytest


def find_chromium() -> str | None:
    """The path of a Chromium: $CHROMIUM, or the first one on PATH."""
    names = (os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if name and (path := shutil.which(name))), None)


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser that a test marked `browser` starts."""
    path = find_chromium()
    assert path is not None, "mark the test with pytest.mark.browser, so that it is skipped here"
    return path


def pytest_addoption(parser):
    parser.addoption("--run-slow", action="store_true", help="run the tests marked slow as well")


def pytest_collection_modifyitems(config, items):
    # Not `-m "not slow"` in addopts: a -m on the command line would replace it, and `-m engine` would turn slow.
    if not (config.getoption("--run-slow") or "slow" in config.getoption("-m")):
        slow = [item for item in items if item.get_closest_marker("slow")]
        items[:] = [item for item in items if not item.get_closest_marker("slow")]
        if slow:
            config.hook.pytest_deselected(items=slow)
    if find_chromium() is None:
        skip = pytest.mark.skip(reason="no Chromium on this machine (Debian: apt-get install chromium)")
        for item in items:
            if item.get_closest_marker("browser"):
                item.add_marker(skip)
