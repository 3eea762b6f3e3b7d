"""Being interrupted: one line that says what is kept and how to go on, and exit code 130."""

import shlex
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click

from eval.records.replacement import aside_of
from eval.records.run import Run

EXIT_CODE = 130
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Whether the user has asked this command to end; SIGTERM is asking as well as SIGINT."""

    def __init__(self) -> None:
        self.asked = False

    def check(self) -> None:
        """Raises: KeyboardInterrupt, once more, when one was asked for and got lost in code that ignores exceptions."""
        if self.asked:
            raise KeyboardInterrupt

    def __call__(self, number: int, frame: FrameType | None) -> NoReturn:
        """Handle the signal."""
        self.asked = True
        raise KeyboardInterrupt


@contextmanager
def ending_resumably(out: Path, arguments: Sequence[str]) -> Iterator[Interruption]:
    """While the context lasts, SIGINT and SIGTERM end the command by one line on stderr and exit code 130.

    Args:
        out: the run folder that is written, or a folder of several.
        arguments: the words after `refusal` that go on with it.
    """
    interruption, before = Interruption(), {_identity(path) for path in (out, aside_of(out))}
    with _handling(interruption):
        try:
            yield interruption
        except BaseException as err:  # an engine's process that got the signal too may fail before this one notices
            if not (interruption.asked or isinstance(err, KeyboardInterrupt)):
                raise
            click.echo(_farewell(out, arguments, before), err=True)
            raise SystemExit(EXIT_CODE) from None


@contextmanager
def naming_the_whole(arguments: Sequence[str], goes_on: bool) -> Iterator[None]:
    """For a command that runs others: an interruption of one of them ends it too, with a line that names the whole.

    Args:
        arguments: the words after `refusal` of the whole.
        goes_on: whether these go on where it was, rather than begin anew.
    """
    interruption = Interruption()
    with _handling(interruption):
        try:
            yield
        except (KeyboardInterrupt, click.Abort, SystemExit) as err:
            if isinstance(err, SystemExit) and err.code != EXIT_CODE:
                raise
            then = "goes on after the last finished stage" if goes_on else "runs every stage anew"
            again = f": {shlex.join(['refusal', *arguments])}" if arguments else ""
            click.echo(f"interrupted; the same command {then}{again}", err=True)
            raise SystemExit(EXIT_CODE) from None


def _farewell(out: Path, arguments: Sequence[str], before: Collection[tuple[int, int] | None]) -> str:
    if "--force" in arguments and out.exists() and _identity(out) in before:
        why = f"before the first response, what was there is kept in {out}; the same command replaces it"
        return f"interrupted {why}: {shlex.join(['refusal', *arguments])}"
    runs = [Run.open(rows.parent) for rows in out.rglob("generations.jsonl")]
    words = [word for word in arguments if word != "--force" or not runs]  # without one, what was there is back
    again = f"the same command goes on: {shlex.join(['refusal', *words])}" if words else "the same command goes on"
    if not runs:
        return f"interrupted before the first response; {again}"
    return f"interrupted: {sum(len(run.generated_ids()) for run in runs)} responses are kept in {out}; {again}"


def _identity(path: Path) -> tuple[int, int] | None:
    """What stays a folder's own when it is moved aside and back."""
    if not path.exists():
        return None
    found = path.stat()
    return found.st_dev, found.st_ino


@contextmanager
def _handling(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    """Install a handler for the signals; nothing outside the main thread, which gets none."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = [signal.signal(number, handler) for number in _SIGNALS]
    try:
        yield
    finally:
        for number, old in zip(_SIGNALS, previous, strict=True):
            signal.signal(number, old)
