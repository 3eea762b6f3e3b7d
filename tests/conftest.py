"""Which tests run where: `slow` only when asked for, `browser` only with a Chromium, and which share a worker."""

import os
import shutil

# Engines of tests are tiny: in the test's own process, where they start in a moment, on one thread that nothing binds to a
# core (several workers would share the first one), with little room for keys and values.
for name, value in {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
}.items():
    os.environ.setdefault(name, value)

import durations  # noqa: E402
import pytest  # noqa: E402


LONG = ("slow", "engine", "server", "browser")  # these begin first, and the quick ones fill the end
SHARED = ("server",)


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


def pytest_configure(config):
    durations.start(config)


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
    items.sort(key=lambda item: not any(item.get_closest_marker(name) for name in LONG))


def pytest_itemcollected(item):
    item.add_marker(pytest.mark.xdist_group(group_of(item)))


def group_of(item):
    """The tests that one worker runs: those of a file, or of a server, which is started once."""
    return next((name for name in SHARED if name in item.fixturenames), item.nodeid.partition("::")[0])
