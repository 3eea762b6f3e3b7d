"""Progress of bulk generation on stderr: responses, tokens a second, time left."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int, int], None]]:
    """Yield a callback for `generate_run`: (responses done, responses in all, tokens generated)."""
    from tqdm import tqdm

    with tqdm(desc=what, unit="response", file=sys.stderr, dynamic_ncols=True, mininterval=0.5) as bar:
        started = time.monotonic()

        def update(done: int, total: int, tokens: int) -> None:
            bar.total = total
            bar.set_postfix_str(f"{tokens / max(time.monotonic() - started, 1e-9):.0f} tok/s", refresh=False)
            bar.update(done - bar.n)

        yield update
