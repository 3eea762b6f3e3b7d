"""Worker side of capture: reads the residual stream in a step, and holds what was read until it is fetched."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from types import MethodType
from typing import Any

import torch
from torch import nn

from surgery.architecture.entry import SINGLE, SUM, Architecture
from surgery.residual.sites import RESID_POST
from vllm_refusal.edit.blocks import class_of, own_blocks
from vllm_refusal.settings.capture import CaptureConfig, CaptureError, CaptureRequest


class StreamReader:
    """What the blocks of one worker are asked to read in the current step.

    Nothing is read, and nothing of it is in a compiled graph, unless a request of the step captures: such a step runs
    uncompiled (see `runner_v1`), and only then is `active` true.

    Attributes:
        store: what was read and not yet fetched; None on a worker whose stream another one holds too.
        active: whether blocks are to record.
    """

    def __init__(self, store: "CaptureStore | None"):
        self.store = store
        self.active = False
        self._rows: torch.Tensor | None = None
        self._layers: frozenset[int] = frozenset()
        self._sites: frozenset[str] = frozenset()
        self._read: dict[tuple[str, int], torch.Tensor] = {}

    @contextmanager
    def reading(
        self, captures: Sequence[CaptureRequest], rows: Sequence[int], device: torch.device | str
    ) -> Iterator[None]:
        """Read one row of the batch for each request while the context lasts, and store it at the end.

        Args:
            rows: [n_captures], index of the token of the batch.
        """
        if self.store is None:
            yield
            return
        self._rows = torch.tensor(rows, dtype=torch.int64, device=device)
        self._layers = frozenset(layer for capture in captures for layer in capture.layers)
        self._sites = frozenset(site for capture in captures for site in capture.sites)
        self.active = True
        try:
            yield
            self.store.add(captures, self._read)
        finally:
            self.active, self._rows, self._read = False, None, {}

    def record(self, site: str, layer: int, addends: Sequence[Any]) -> None:
        """Keep the rows of a stream that vLLM holds as addends, each [..., d_model] of all tokens; their sum in float32."""
        if layer in self._layers and site in self._sites:
            rows = (addend.flatten(0, -2)[self._rows].float() for addend in addends if addend is not None)
            self._read[site, layer] = sum(rows)


class CaptureStore:
    """Activations that wait to be fetched, on the CPU, within a bound."""

    def __init__(self, config: CaptureConfig):
        self._config = config
        self._held: dict[str, tuple[CaptureRequest, tuple[int, ...], torch.Tensor]] = {}
        self._refused: dict[str, str] = {}
        self._n_bytes = 0

    def add(self, captures: Sequence[CaptureRequest], read: dict[tuple[str, int], torch.Tensor]) -> None:
        """Hold what a step read; a request read again (after preemption, or as another of n samples) is replaced.

        Args:
            read: (site, layer) -> [n_captures, d_model] float32, of the layers that this worker has.
        """
        here, sites = sorted({layer for _, layer in read}), sorted({site for site, _ in read})
        stacked = [torch.stack([read[site, layer] for layer in here]) for site in sites]
        step = torch.stack(stacked).cpu() if read else torch.empty(0, 0, len(captures), self._config.d_model)
        for row, capture in enumerate(captures):
            layers = tuple(layer for layer in here if layer in capture.layers)
            resid = step[[sites.index(site) for site in capture.sites if read], :, row]
            self._hold(capture, layers, resid[:, [here.index(layer) for layer in layers]].contiguous())

    def take(self, request_ids: Collection[str] | None) -> dict[str, dict[str, Any]]:
        """Hand over activations and forget them: those of some requests, or all.

        Returns: by request id either {"sites", "layers", "data"}, data being [n_sites, n_layers, d_model] float32 bytes,
            or {"error"}; while there are errors only these are handed over, so that nothing else is lost.
        """
        asked = [*self._refused, *self._held] if request_ids is None else list(dict.fromkeys(request_ids))
        if faults := {id: {"error": self._fault(id)} for id in asked if id not in self._held}:
            return faults
        return {id: self._handed_over(id) for id in asked}

    def _fault(self, request_id: str) -> str:
        unknown = "no activations wait: it asked for none, its prompt is not finished, or they were fetched before"
        return self._refused.pop(request_id, unknown)

    def _handed_over(self, request_id: str) -> dict[str, Any]:
        capture, layers, resid = self._drop(request_id)
        return {"sites": list(capture.sites), "layers": list(layers), "data": resid.numpy().tobytes()}

    def _hold(self, capture: CaptureRequest, layers: tuple[int, ...], resid: torch.Tensor) -> None:
        if capture.id in self._held:
            self._drop(capture.id)
        size, limit = self._config.n_bytes(capture), self._config.max_bytes
        if self._n_bytes + size > limit:
            self._refused[capture.id] = (
                f"{self._n_bytes} bytes of activations waited to be fetched and {size} more exceed the bound of {limit}; "
                "fetch sooner, or start the engine with a larger max_bytes"
            )
            return
        self._refused.pop(capture.id, None)
        self._held[capture.id] = (capture, layers, resid)
        self._n_bytes += size

    def _drop(self, request_id: str) -> tuple[CaptureRequest, tuple[int, ...], torch.Tensor]:
        held = self._held.pop(request_id)
        self._n_bytes -= self._config.n_bytes(held[0])
        return held


def install_readers(model: nn.Module, architecture: Architecture, reader: StreamReader) -> int:
    """Let every decoder block that this worker holds tell the reader its stream. Returns how many.

    To be called after `install_edits`, so that what is read is the edited stream.
    Raises: CaptureError when no block was found.
    """
    blocks = own_blocks(model, architecture)
    if not blocks:
        raise CaptureError(
            f"{architecture.name}: no decoder block found at {architecture.vllm.blocks}; nothing to capture"
        )
    for layer, block in blocks.items():
        _install(block, reader, layer, _block_class(class_of(block), architecture.vllm.returns))
        for site, path in architecture.fed.items():
            _install_fed(block.get_submodule(path), reader, layer, site, architecture.vllm.returns == SUM)
    return len(blocks)


def _install(module: Any, reader: StreamReader, layer: int, reading_class: type) -> None:
    module.stream_reader, module.stream_layer = reader, layer
    module.__class__ = reading_class


@cache
def _block_class(base: Any, returns: str) -> type:
    """A decoder block class that tells its output stream."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = base.forward(self, *args, **kwargs)
        if self.stream_reader.active:
            addends = output if returns == SUM else (output,) if returns == SINGLE else output[:1]
            self.stream_reader.record(RESID_POST, self.stream_layer, addends)
        return output

    return _reading_class(base, forward)


def _install_fed(module: Any, reader: StreamReader, layer: int, site: str, with_residual: bool) -> None:
    own = vars(module).get("forward")  # bound by vLLM's backend for models of transformers, which fuses parts
    if own is None:
        _install(module, reader, layer, _fed_class(class_of(module), site, with_residual))
        return
    module.stream_reader, module.stream_layer = reader, layer
    module.forward = MethodType(_telling(own.__func__, site, with_residual), module)


@cache
def _fed_class(base: Any, site: str, with_residual: bool) -> type:
    """A class of norms (or of attention or MLPs without one) that tells the stream it is fed."""
    return _reading_class(base, _telling(base.forward, site, with_residual))


def _telling(original: Any, site: str, with_residual: bool) -> Any:
    """A forward that tells the stream it is fed before it runs, as a norm may add its two inputs in place.

    Where the second input is no addend (`with_residual` false), the first is the stream.
    """

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.stream_reader.active:
            fed = args or (kwargs["hidden_states"],)
            self.stream_reader.record(site, self.stream_layer, fed[: 2 if with_residual else 1])
        return original(self, *args, **kwargs)

    return forward


def _reading_class(base: type, forward: Any) -> type:
    return type(f"Reading{base.__name__}", (base,), {"forward": forward, "__module__": base.__module__})
