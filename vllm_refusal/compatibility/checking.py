"""Whether this vLLM is one that the plugin can work with, asked before anything is wrapped."""

import functools
import logging
import multiprocessing

import vllm

from surgery.console.errors import RefusalError
from vllm_refusal.compatibility import definitions
from vllm_refusal.compatibility.surfaces import NAMES, SIGNATURES, TESTED


class IncompatibleError(RefusalError):
    """This vLLM lacks something that the plugin relies on; without it a request could be answered unsteered."""


@functools.cache
def check() -> None:
    """Check this process's vLLM, once.

    Raises: IncompatibleError naming the first surface that is not as expected.
    """
    version = vllm.__version__.partition("+")[0]
    tested = f"tested with vLLM {', '.join(TESTED)}"
    fault = next(filter(None, [*map(_fault_of_signature, SIGNATURES), *map(_fault_of_names, NAMES)]), None)
    if fault is not None:
        raise IncompatibleError(
            f"vllm-refusal cannot work with vLLM {version}: {fault} ({tested}); install a tested version, or start vLLM "
            "without the plugin by VLLM_PLUGINS=''"
        )
    if version not in TESTED and multiprocessing.parent_process() is None:  # its children need not repeat it
        logging.getLogger(__name__).warning("vllm-refusal is not %s, found %s", tested, version)


def _fault_of_signature(place: str) -> str | None:
    code = definitions.find(place)
    if code is None:
        return f"{place} is missing"
    found = definitions.parameters(code)
    first, dots, later = SIGNATURES[place].partition("...")
    leading, anywhere = _split(first), _split(later)
    fits = found[: len(leading)] == leading if dots else found == leading
    if not fits or not set(anywhere) <= set(found):
        return f"{place} takes ({', '.join(found)}), expected ({SIGNATURES[place]})"
    return None


def _fault_of_names(place: str) -> str | None:
    code = definitions.find(place)
    if code is None:
        return f"{place} is missing"
    found = definitions.names(code)
    missing = [name for name in NAMES[place].split() if name not in found]
    return f"{place} has no {missing[0]}" if missing else None


def _split(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]
