"""Which tests run where: `slow` only when asked for, `browser` only with a Chromium, and which share a worker."""

import os
import shutil

# Engines of tests are tiny: in the test's own process, where they start in a moment, on one thread that nothing binds to a
# core (several workers would share the first one), with little room for keys and values.
for name, value in {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; measured/sitecustomize.py makes less of it
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
}.items():
    os.environ.setdefault(name, value)

import durations  # noqa: E402
import pytest  # noqa: E402

LONG = ("slow", "engine", "server", "browser")  # these begin first, and the quick ones fill the end
TOGETHER = ("tests/server/",)  # one server for all of them


def find_chromium() -> str | None:
    """The path of a Chromium: $CHROMIUM, or the first one on PATH."""
    names = (os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if name and (path := shutil.which(name))), None)


@pytest.fixture(scope="session")
def start_engine():
    """Start an engine on a model folder: start_engine(folder, modules, **vllm_arguments)."""
    from surgery.model.models import describe_model
    from vllm_refusal.engine.engine import Engine, EngineOptions

    def start(folder, modules=None, dtype="float32", eager=True, capture=False, **arguments):
        vllm = {"max_model_len": 128, **arguments}
        options = EngineOptions(dtype=dtype, eager=eager, max_num_seqs=64, capture=capture, vllm=vllm)
        return Engine(describe_model(folder), modules or {}, options)

    return start


@pytest.fixture(scope="session")
def rvs(tmp_path_factory):
    """Refusal vectors of the organism `single`, which is beside them in model/, made by the command."""
    from click.testing import CliRunner

    from eval.cli import main
    from surgery.organisms.release import write_organism

    folder = tmp_path_factory.mktemp("rvs")
    model, path = write_organism("single", folder / "model"), folder / "rvs.safetensors"
    words = ["extract", model, "--pairs", model / "pairs.jsonl", "--dtype", "float32", "-o", path]
    made = CliRunner().invoke(main, list(map(str, words)))
    assert made.exit_code == 0, made.output
    return path


@pytest.fixture(scope="session")
def organism(rvs):
    """The model of `rvs`, described."""
    from surgery.model.models import describe_model

    return describe_model(rvs.parent / "model")


@pytest.fixture(scope="session")
def harmful_ids(rvs, organism):
    """Token ids of four harmful prompts to `organism`."""
    from surgery.model.chat import prompt_token_ids
    from surgery.model.models import load_tokenizer
    from surgery.prompts import load_prompts

    tokenizer = load_tokenizer(organism)
    texts = [prompt.prompt for prompt in load_prompts(rvs.parent / "model" / "prompts.jsonl", "harmful")[:4]]
    return [prompt_token_ids(tokenizer, text) for text in texts]


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
    if not os.environ.get("REFUSAL_TEST_GGUF"):
        real = [item for item in items if item.get_closest_marker("real")]
        items[:] = [item for item in items if item not in real]
        if real:
            config.hook.pytest_deselected(items=real)
    if find_chromium() is None:
        skip = pytest.mark.skip(reason="no Chromium on this machine (Debian: apt-get install chromium)")
        for item in items:
            if item.get_closest_marker("browser"):
                item.add_marker(skip)
    items.sort(key=lambda item: not any(item.get_closest_marker(name) for name in LONG))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Tests that share an engine or a server run in one worker: those of a file, or of a folder in TOGETHER."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return next((folder for folder in TOGETHER if nodeid.startswith(folder)), nodeid.partition("::")[0])

    config.option.loadscopereorder = False  # by number of tests; ours are in order of their length
    return ByFile(config, log)
