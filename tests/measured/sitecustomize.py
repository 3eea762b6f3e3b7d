"""Notes each start of a vLLM engine core, in whichever process, and makes it cheaper.

Python imports this at its start where PYTHONPATH has this folder. A line of JSON goes to the file $TEST_ENGINE_STARTS for
each start: the test that ran, whether in the test's own process, seconds.

Nearly all of the start of a tiny engine in a process that has started others is no work on the engine: whole-heap garbage
collections, a search through every loaded module for kernels that the first start has replaced already, zeros for a GiB
of keys and values, which is the least that the environment can ask for, and a process that imports vLLM to look at the
model's class, which on a GPU keeps CUDA out of this one. None of it is done here; `Engine.close` still collects, and a size
given as an argument holds.
"""

import gc
import json
import os
import sys
import time
from contextlib import contextmanager
from functools import cache, wraps
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder

CORE, KERNELS = "vllm.v1.engine.core", "vllm.triton_utils.dispatcher"
PLATFORM, REGISTRY = "vllm.platforms.cpu", "vllm.model_executor.models.registry"
CACHE_BYTES = 2**28
LOG = "TEST_ENGINE_STARTS"


class Watch(MetaPathFinder):
    """Changes four of vLLM's modules as soon as they are imported."""

    changes = {}

    def find_spec(self, name, path, target=None):
        if name not in self.changes:
            return None
        spec = PathFinder.find_spec(name, path, target)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            self.changes[name](module)

        spec.loader.exec_module = exec_module
        return spec


def watch_core(module):
    core = module.EngineCore
    core.__init__, core.shutdown = noted(core.__init__), without_collections(core.shutdown)


def watch_kernels(module):
    register, seen = module.register_kernels, set()

    def once(overrides):
        if not seen.issuperset(overrides):
            seen.update(overrides)
            register(overrides)

    module.register_kernels = once


def watch_platform(module):
    update = module.CpuPlatform.check_and_update_config.__func__

    def updating(cls, vllm_config):
        asked = vllm_config.cache_config.kv_cache_memory_bytes
        update(cls, vllm_config)
        vllm_config.cache_config.kv_cache_memory_bytes = asked or CACHE_BYTES

    module.CpuPlatform.check_and_update_config = classmethod(updating)


def watch_registry(module):
    module._run_in_subprocess = lambda look: look()


def noted(start):
    def starting(self, *arguments, **options):
        begun = time.monotonic()
        try:
            return without_collections(start)(self, *arguments, **options)
        finally:
            test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
            row = {"test": test, "inside": "pytest" in sys.modules, "seconds": time.monotonic() - begun}
            with open(os.environ[LOG], "a") as log:
                log.write(json.dumps(row) + "\n")

    return starting


def without_collections(function):
    @wraps(function)
    def running(*arguments, **options):
        with no_collections():
            return function(*arguments, **options)

    return running


@cache
def freeze_once():
    gc.freeze()


@contextmanager
def no_collections():
    """vLLM neither collects nor freezes; what was there at the first start is frozen for good.

    Nothing is collected by itself either: an engine of before that nobody stopped would end this one's process groups.
    """
    freeze_once()
    gc.disable()
    kept = {name: getattr(gc, name) for name in ("collect", "freeze", "unfreeze")}
    for name in kept:
        setattr(gc, name, lambda generation=2: 0)
    try:
        yield
    finally:
        gc.enable()
        for name, function in kept.items():
            setattr(gc, name, function)


if os.environ.get(LOG):
    Watch.changes = {CORE: watch_core, KERNELS: watch_kernels, PLATFORM: watch_platform, REGISTRY: watch_registry}
    sys.meta_path.insert(0, Watch())
