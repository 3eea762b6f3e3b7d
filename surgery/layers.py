"""Layer lists: `all`, `7-10`, `3,5,7-9`, or integers. A layer is a 0-based decoder block index."""

import re
from collections.abc import Sequence

from surgery.errors import LayerRangeError

LayerSpec = str | int | Sequence[int]

_PART = re.compile(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*")


def parse_layers(spec: LayerSpec, n_layers: int) -> tuple[int, ...]:
    """Read a layer list and check it against the model.

    Args:
        spec: "all", ranges and numbers joined by commas ("3,5,7-9"), one integer, or a list of integers.
        n_layers: number of decoder blocks of the model.
    Returns: the layers, ascending, each once.
    Raises: LayerRangeError when the list is empty, unreadable, or names a layer outside 0..n_layers-1.
    """
    layers = _read(spec, n_layers)
    if not layers:
        raise LayerRangeError(f"layer list {spec!r} is empty; name at least one of 0..{n_layers - 1}")
    outside = sorted({layer for layer in layers if not 0 <= layer < n_layers})
    if outside:
        raise LayerRangeError(
            f"layer {', '.join(map(str, outside))} is outside the model: it has {n_layers} layers, 0..{n_layers - 1}"
        )
    return tuple(sorted(set(layers)))


def format_layers(layers: Sequence[int], n_layers: int | None = None) -> str:
    """Write layers the short way: (3, 5, 7, 8, 9) -> "3,5,7-9"; every layer of n_layers -> "all"."""
    ordered = sorted(set(layers))
    if n_layers is not None and ordered == list(range(n_layers)):
        return "all"
    parts: list[str] = []
    start = previous = None
    for layer in [*ordered, None]:
        if previous is not None and layer == previous + 1:
            previous = layer
            continue
        if previous is not None:
            parts.append(str(start) if start == previous else f"{start}-{previous}")
        start = previous = layer
    return ",".join(parts)


def _read(spec: LayerSpec, n_layers: int) -> list[int]:
    if isinstance(spec, str):
        return _read_text(spec, n_layers)
    if isinstance(spec, Sequence):
        return [_read_number(item, spec) for item in spec]
    return [_read_number(spec, spec)]


def _read_text(spec: str, n_layers: int) -> list[int]:
    if spec.strip() == "all":
        return list(range(n_layers))
    layers: list[int] = []
    for part in filter(str.strip, spec.split(",")):
        match = _PART.fullmatch(part)
        if match is None:
            raise LayerRangeError(f"layer list {spec!r}: cannot read {part!r}; use all, 7-10 or 3,5,7-9")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise LayerRangeError(f"layer list {spec!r}: range {part!r} runs backwards; write {last}-{first}")
        if last >= max(n_layers, 1) and last - first > 4096:
            raise LayerRangeError(f"layer {last} is outside the model: it has {n_layers} layers, 0..{n_layers - 1}")
        layers.extend(range(first, last + 1))
    return layers


def _read_number(item: object, spec: object) -> int:
    if isinstance(item, bool) or not isinstance(item, (int, float)) or int(item) != item:
        raise LayerRangeError(f"layer list {spec!r}: {item!r} is not a layer number; use all, 7-10 or 3,5,7-9")
    return int(item)
