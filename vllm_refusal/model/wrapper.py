"""The model class that vLLM builds: the in-tree model with an edit behind every decoder block, and readers of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from surgery.architecture.entry import Architecture
from vllm_refusal.edit.reader import CaptureStore, StreamReader, install_readers
from vllm_refusal.edit.slot_tables import SlotTables
from vllm_refusal.model import lora_layers, runner_v1, runner_v2, worker
from vllm_refusal.model.edited_modules import install_edits
from vllm_refusal.model.transformers_backend import staying_usable_alone
from vllm_refusal.settings.capture import load_capture
from vllm_refusal.settings.engine_parts import is_draft
from vllm_refusal.settings.engine_settings import load_config, settings_of

GRAPH_KEY = "ablation_graph"


if TYPE_CHECKING:

    class InTreeModel(nn.Module):
        """What the mixin stands in front of."""

        def __init__(self, *, vllm_config: Any, prefix: str = ""): ...
        def load_weights(self, weights: Any) -> Any: ...
        def _decorate_cls_for_torch_compile(self, cls: type, *args: Any, **kwargs: Any) -> None: ...
else:
    InTreeModel = object


class AblatedModel(InTreeModel):
    """Mixin in front of an in-tree vLLM model. Without "ablation" or "capture" settings it changes nothing.

    Attributes:
        architecture: how this model is laid out, set by `vllm_refusal.model.registration`.
        ablation: the engine's slot tables, or None.
        capture: what reads the residual stream, or None.
        watch: what measures the edits while they are proven, or None.
    """

    architecture: Architecture
    ablation: SlotTables | None
    capture: StreamReader | None
    watch: Any = None

    def __init__(self, *, vllm_config: Any, prefix: str = ""):
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.ablation = None if is_draft(vllm_config) else _make_tables(vllm_config)
        self.engine_config = vllm_config
        self.capture = _make_reader(vllm_config)
        if self.ablation is not None:
            install_edits(self, self.architecture, self.ablation)
            worker.install()
            if vllm_config.lora_config is not None:
                lora_layers.install()
        if self.capture is not None:
            install_readers(self, self.architecture, self.capture)
        edits_or_reads = settings_of(vllm_config) is not None or self.capture is not None
        if edits_or_reads and not vllm_config.use_v2_model_runner:  # which asks for get_model_state_cls instead
            runner_v1.install()

    def load_weights(self, weights: Any) -> Any:
        """As the in-tree model's; other weights for a model in use are refused where bases depend on them."""
        if self.ablation is not None:
            self.ablation.before_norms.check_not_filled()
        return super().load_weights(weights)

    def process_weights_after_loading(self) -> None:
        """Called by vLLM once the weights are there, whatever loaded them: the gains of post-norms are known now."""
        inherited = getattr(super(), "process_weights_after_loading", None)
        if inherited is not None:
            inherited()
        if self.ablation is not None:
            self.ablation.before_norms.fill()

    def _decorate_cls_for_torch_compile(self, cls: type, *args: Any, **kwargs: Any) -> None:
        """vLLM's backend for models of transformers calls this before it builds one."""
        with staying_usable_alone(cls):
            super()._decorate_cls_for_torch_compile(cls, *args, **kwargs)

    def get_model_state_cls(self) -> type:
        """Model Runner V2 asks the model for its per-request state class."""
        return runner_v2.model_state_class(self, self._stock_model_state_class())

    def _stock_model_state_class(self) -> type:
        inherited = getattr(super(), "get_model_state_cls", None)
        if inherited is not None:
            return inherited()
        return runner_v2.resolve_stock_class(self)


def _make_tables(vllm_config: Any) -> SlotTables | None:
    with _plain_defaults():
        config = load_config(vllm_config)
        if config is None:
            return None
        scheduler = vllm_config.scheduler_config
        largest = max(scheduler.max_num_batched_tokens, scheduler.max_num_seqs)
        captured = vllm_config.compilation_config.max_cudagraph_capture_size or 0
        tables = SlotTables(config, max(largest, captured), vllm_config.device_config.device)
        # vLLM hashes this into the key of its compile cache. The settings name files, whose rank they do not tell.
        vllm_config.additional_config[GRAPH_KEY] = tables.shapes()
        return tables


def _make_reader(vllm_config: Any) -> StreamReader | None:
    """Tensor-parallel ranks hold the same stream: the first stores it."""
    from vllm.distributed.parallel_state import get_tensor_model_parallel_rank

    config = load_capture(vllm_config)
    if config is None:
        return None
    return StreamReader(CaptureStore(config) if get_tensor_model_parallel_rank() == 0 else None)


@contextmanager
def _plain_defaults() -> Iterator[None]:
    """float32 on the CPU unless said otherwise: vLLM builds models under the model's dtype and device as defaults."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(dtype)
