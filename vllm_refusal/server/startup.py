"""Ending a start-up: a signal while vLLM starts its processes ends them all at once."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

GRACE_SECONDS = 5.0


@contextmanager
def ending_on_signals() -> Iterator[None]:
    """While the context lasts, SIGTERM and SIGINT end this process and all its children.

    The main thread waits for the engine inside C code that resumes after a signal, so no Python handler would run, and a
    parent that just dies leaves an engine behind. The signal's wake-up byte reaches a thread of ours nevertheless.
    To be entered in the main thread; the handlers and the wake-up descriptor of before come back at the end.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    numbers = (signal.SIGTERM, signal.SIGINT)
    handlers = [signal.signal(number, lambda *_: None) for number in numbers]
    previous = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    thread = threading.Thread(target=_end_on_signal, args=(reader, numbers), daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous)
        os.close(writer)  # the thread reads the end of the pipe and returns
        thread.join()
        os.close(reader)
        for number, handler in zip(numbers, handlers, strict=True):
            signal.signal(number, handler)


def _end_on_signal(reader: int, numbers: tuple[int, ...]) -> None:
    while received := os.read(reader, 1):
        if received[0] in numbers:
            end_children()
            os._exit(128 + received[0])


def end_children() -> None:
    """Terminate all descendants of this process, and kill those that have not ended after GRACE_SECONDS."""
    children = psutil.Process().children(recursive=True)
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.terminate()
    _, alive = psutil.wait_procs(children, timeout=GRACE_SECONDS)
    for child in alive:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(alive, timeout=GRACE_SECONDS)
