"""Writing a device tensor from the host before every step, without waiting for the copy of the step before."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch


class StagedTensor:
    """A tensor of fixed address whose head is rewritten before each step; what lies behind the head is zero.

    An asynchronous copy to a GPU reads its pinned source after `write` has returned. Two sources take turns, each with
    an event that says when its last copy was done, so a write waits only for the copy of two steps before.

    Args:
        target: [size] int64, zeros; kept, never replaced.
        make_event: called once for each source, for something with `record` and `synchronize`; None for CUDA events
            where the target is on a GPU, and none elsewhere, where copies are done when they return.
    """

    def __init__(self, target: torch.Tensor, make_event: Callable[[], Any] | None = None):
        self.target = target
        if make_event is None and target.is_cuda:
            make_event = torch.cuda.Event
        n_sources = 1 if make_event is None else 2
        self._sources = [
            torch.zeros(len(target), dtype=target.dtype, pin_memory=target.is_cuda) for _ in range(n_sources)
        ]
        self._events = [make_event() for _ in self._sources] if make_event is not None else []
        self._turn = 0
        self._n_written = 0

    def write(self, values: np.ndarray) -> None:
        """Make the target's head `values` [n] int64 and the rest of it zero."""
        total, end = len(values), max(len(values), self._n_written)
        source = self._next_source()
        source[:total] = torch.from_numpy(values)
        source[total:end] = 0
        self.target[:end].copy_(source[:end], non_blocking=True)
        if self._events:
            self._events[self._turn].record()
        self._n_written = total

    def _next_source(self) -> torch.Tensor:
        self._turn = (self._turn + 1) % len(self._sources)
        if self._events:
            self._events[self._turn].synchronize()  # its last copy may still be reading; returns at once if none was
        return self._sources[self._turn]
