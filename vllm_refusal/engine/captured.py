"""Fetching captured activations from an engine: the worker's method, and the call for users of `vllm.LLM`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vllm_refusal.settings.capture import CaptureError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Captured:
    """The residual stream at the last token of one prompt.

    Attributes:
        sites: what `resid` holds, in order.
        layers: decoder blocks, ascending.
        resid: [n_sites, n_layers, d_model] float32, on the CPU; with an ablation on the request, the edited stream.
    """

    sites: tuple[str, ...]
    layers: tuple[int, ...]
    resid: "torch.Tensor"


class CaptureWorker:
    """Extension of vLLM's worker (`worker_extension_cls`): one more method for `collective_rpc`."""

    model_runner: Any

    def take_captured(self, request_ids: Sequence[str] | None) -> dict[str, dict[str, Any]]:
        """See `CaptureStore.take`; empty on a worker whose stream another one holds too."""
        store = self.model_runner.get_model().capture.store
        return {} if store is None else store.take(request_ids)


def take_captured(llm: Any, request_ids: Iterable[str] | None = None) -> dict[str, Captured]:
    """Fetch captured activations of finished requests from an offline engine, which then forgets them.

    Args:
        llm: a `vllm.LLM` started with `capture_arguments()`.
        request_ids: as in `RequestOutput.request_id`; None for everything that waits.
    Returns: by request id. A request that uses an id again before its activations were fetched replaces them.
    Raises: CaptureError for a request whose activations were not captured or exceeded the bound; those of others stay.
    """
    asked = None if request_ids is None else list(request_ids)
    workers = llm.collective_rpc("take_captured", args=(asked,))
    workers = [found for found in workers if found]  # the others hold what these do
    for request_id, piece in (item for found in workers for item in found.items()):
        if "error" in piece:
            raise CaptureError(f"request {request_id}: {piece['error']}")
    return {id: _joined([found[id] for found in workers]) for id in (workers[0] if workers else ())}


def _joined(pieces: Sequence[Mapping[str, Any]]) -> Captured:
    """One request's layers, which pipeline stages hold in parts."""
    import torch

    ordered = sorted((piece for piece in pieces if piece["layers"]), key=lambda piece: piece["layers"])
    sites, layers = tuple(ordered[0]["sites"]), tuple(layer for piece in ordered for layer in piece["layers"])
    parts = [
        torch.frombuffer(bytearray(piece["data"]), dtype=torch.float32).view(len(sites), len(piece["layers"]), -1)
        for piece in ordered
    ]
    return Captured(sites, layers, torch.cat(parts, dim=1))
