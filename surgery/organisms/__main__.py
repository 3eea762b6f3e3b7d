"""`python -m surgery.organisms [NAME ...]` trains the organisms again and replaces those inside the package."""

import argparse
import sys
import time

from surgery.console.errors import RefusalError
from surgery.organisms import ORGANISMS
from surgery.organisms.release import ASSETS, remake_assets


def main() -> int:
    """Parse the names, train, and say on stderr what is going on."""
    parser = argparse.ArgumentParser(prog="python -m surgery.organisms", description=__doc__)
    parser.add_argument("names", nargs="*", default=list(ORGANISMS), metavar="NAME", help=f"of {', '.join(ORGANISMS)}")
    names = parser.parse_args().names
    started = time.monotonic()

    def progress(what: str, n_done: int, n_all: int) -> None:
        if n_done % 20 == 0 or n_done == n_all or what.startswith("measure"):
            print(f"{time.monotonic() - started:6.0f} s  {what}  {n_done}/{n_all}", file=sys.stderr, flush=True)

    try:
        remake_assets(names, progress)
    except RefusalError as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    print(ASSETS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
