"""One engine for several runs that follow each other, each with ablations of its own."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from surgery.model.models import ModelInfo
from vllm_refusal.engine.engine import Engine, EngineOptions
from vllm_refusal.settings.module_files import load_module
from vllm_refusal.settings.modules import MAX_MODULES

ROOM_AHEAD = 2
"""Room for subspaces of so many times the rank asked for: every token pays for it, every rank beyond it for a start."""


class KeptEngine:
    """Starts with the first run that lacks responses, and is given the ablations of each later one.

    Args:
        max_rank: of any run's subspaces.
        max_modules: of any run, at most.
    """

    def __init__(self, max_rank: int, max_modules: int):
        self._max_rank, self._n_modules = max_rank, min(max_modules, MAX_MODULES)
        self._engine: Engine | None = None
        self._rank = 0

    def __enter__(self) -> "KeptEngine":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @contextmanager
    def start(
        self, info: ModelInfo, modules: Mapping[str, Mapping[str, Any]], options: EngineOptions
    ) -> Iterator[Engine]:
        """The engine with these modules, for one run; after an error, with requests left in it, it is closed."""
        try:
            yield self._with(info, modules, options)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop the engine, if it was started."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    def _with(self, info: ModelInfo, modules: Mapping[str, Mapping[str, Any]], options: EngineOptions) -> Engine:
        rank = max(load_module(name, spec, info).rank for name, spec in modules.items())
        if self._engine is not None and rank <= self._rank:
            self._engine.replace_modules(modules)
            return self._engine
        self.close()
        self._rank = max(rank, min(ROOM_AHEAD * rank, self._max_rank))
        n_modules = max(self._n_modules, len(modules))
        self._engine = Engine(info, modules, options, room={"max_modules": n_modules, "max_rank": self._rank})
        return self._engine
