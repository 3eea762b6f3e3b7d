"""Torch on one thread."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def single_threaded() -> Iterator[None]:
    """Run torch on one thread, then give it back what it had.

    For matrices and blocks that are too small for two: one is faster, many times so on a busy machine, where waiting threads
    burn the processor, and sums are then taken in a fixed order.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
