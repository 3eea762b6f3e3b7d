"""Which float type a model runs in where that is left open, and saying so."""

import re
from pathlib import Path
from typing import Any

import click

from surgery.model.config import read_config
from surgery.model.quantization import stated_method

CPU_INFO = Path("/proc/cpuinfo")
# The words of x86 and of Arm for arithmetic in the type; without it every product is converted to float32 and back.
KNOWN = ("float32", "bfloat16", "float16")
_UNITS = {
    "bfloat16": {"avx512_bf16", "amx_bf16", "bf16"},
    "float16": {"avx512_fp16", "amx_fp16", "asimdhp"},
}


def auto_dtype(stored: str, device_map: str | None) -> str:
    """The stored type, or float32 on a processor without units for it, where the stored one takes twice as long.

    Args:
        device_map: as in transformers; None means the GPU if there is one.
    """
    import torch

    on_cpu = device_map == "cpu" or not torch.cuda.is_available()
    return "float32" if on_cpu and not has_units(stored) else stored


def engine_dtype(stored: str, quantized: bool) -> str:
    """What a vLLM engine of ours is given for `auto`: without a GPU as `auto_dtype`, else "auto", vLLM's own choice.

    vLLM's own is bfloat16 on every CPU, for weights in float32 too. To quantized weights it is left, and to types that
    are none of ours.

    Args:
        stored: the type of most weights.
    """
    import torch

    is_ours = not torch.cuda.is_available() and not quantized and stored in KNOWN
    return auto_dtype(stored, "cpu") if is_ours else "auto"


def has_units(dtype: str) -> bool:
    """Whether this machine's processor computes in a type; also where it does not say."""
    try:
        found = re.search(r"^(?:flags|Features)\s*:(.*)$", CPU_INFO.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return True
    return found is None or dtype not in _UNITS or not _UNITS[dtype].isdisjoint(found[1].split())


def said_dtype(info: Any, dtype: str, device_map: str | None) -> str:
    """The type that a model is to run in, told where `auto` is not the stored one."""

    return _said(info, auto_dtype(info.dtype, device_map)) if dtype == "auto" else dtype


def said_engine_dtype(info: Any, dtype: str) -> str:
    """The same of an engine of vLLM's, to which `auto` is left on a GPU and for quantized weights."""
    if dtype != "auto":
        return dtype
    return _said(info, engine_dtype(info.dtype, stated_method(read_config(Path(info.path))) is not None))


def _said(info: Any, chosen: str) -> str:
    if chosen not in (info.dtype, "auto"):
        click.echo(
            f"running in {chosen}: this processor has no {info.dtype} units (--dtype {info.dtype}: as stored, but slower)",
            err=True,
        )
    return chosen
