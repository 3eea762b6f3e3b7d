"""Layer lists: `all`, `7-10`, `3,5,7-9`, or integers. A layer is a 0-based decoder block index."""

import re
from collections.abc import Iterable, Sequence

from surgery.console.errors import LayerRangeError
from surgery.files.artifacts import shortened

LayerSpec = str | int | Sequence[int]

MAX_LENGTH = 4096
"""Characters, or items, of the longest layer list: every second one of a thousand layers fits."""
_LARGEST = 10**9
_PART = re.compile(r"\s*([0-9]{1,9})(?:\s*-\s*([0-9]{1,9}))?\s*")
_FORMS = "use all, 7-10 or 3,5,7-9"


def parse_layers(spec: LayerSpec, n_layers: int) -> tuple[int, ...]:
    """Read a layer list and check it against the model, at a cost that its length bounds.

    Args:
        spec: "all", ranges and numbers joined by commas ("3,5,7-9"), one integer, or a list of integers; at most
            MAX_LENGTH characters or items.
        n_layers: number of decoder blocks of the model.
    Returns: the layers, ascending, each once.
    Raises: LayerRangeError when the list is empty, unreadable, or names a layer outside 0..n_layers-1.
    """
    if isinstance(spec, str | Sequence) and len(spec) > MAX_LENGTH:
        raise LayerRangeError(f"layer list {_shown(spec[:20])} is longer than {MAX_LENGTH}; {_FORMS}")
    ranges = set(_ranges(spec, n_layers))
    if not ranges:
        raise LayerRangeError(f"layer list {_shown(spec)} is empty; name at least one of 0..{n_layers - 1}")
    outside = [
        _range_text(max(first, n_layers) if last >= n_layers else first, last)
        for first, last in sorted(ranges)
        if first < 0 or last >= n_layers
    ]
    if outside:
        raise LayerRangeError(
            f"layer {shortened(outside)} is outside the model: it has {n_layers} layers, 0..{n_layers - 1}"
        )
    return tuple(sorted(set().union(*(range(first, last + 1) for first, last in ranges))))


def format_layers(layers: Sequence[int], n_layers: int | None = None) -> str:
    """Write layers the short way: (3, 5, 7, 8, 9) -> "3,5,7-9"; every layer of n_layers -> "all"."""
    ordered = sorted(set(layers))
    if n_layers is not None and ordered == list(range(n_layers)):
        return "all"
    runs: list[list[int]] = []
    for layer in ordered:
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ",".join(_range_text(first, last) for first, last in runs)


def _ranges(spec: LayerSpec, n_layers: int) -> Iterable[tuple[int, int]]:
    """The ranges that a layer list names, first and last, unchecked against the model."""
    if not isinstance(spec, str):
        numbers = [_number(item, spec) for item in (spec if isinstance(spec, Sequence) else [spec])]
        return zip(numbers, numbers, strict=True)
    if spec.strip() == "all":
        return [(0, n_layers - 1)]
    return [_range(part, spec) for part in spec.split(",") if part.strip()]


def _range(part: str, spec: str) -> tuple[int, int]:
    match = _PART.fullmatch(part)
    if match is None:
        raise LayerRangeError(f"layer list {_shown(spec)}: cannot read {_shown(part)}; {_FORMS}")
    first, last = int(match[1]), int(match[2] or match[1])
    if last < first:
        raise LayerRangeError(f"layer list {_shown(spec)}: range {_shown(part)} runs backwards; write {last}-{first}")
    return first, last


def _number(item: object, spec: object) -> int:
    if (
        isinstance(item, bool)
        or not isinstance(item, int | float)
        or not -_LARGEST < item < _LARGEST
        or int(item) != item
    ):
        raise LayerRangeError(f"layer list {_shown(spec)}: {_shown(item)} is not a layer number; {_FORMS}")
    return int(item)


def _range_text(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}..."


def late_layers(n_layers: int) -> range:
    """Middle and late layers, the last 60 % of the depth."""
    return range(round(0.4 * n_layers), n_layers)
