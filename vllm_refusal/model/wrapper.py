"""The model class that vLLM builds: the in-tree model with an edit behind every decoder block, and readers of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import nn

from vllm_refusal.edit.affine import ResidualEdit
from vllm_refusal.edit.reader import CaptureStore, StreamReader, install_readers
from vllm_refusal.edit.tables import SlotTables
from vllm_refusal.model import lora_layers, worker
from vllm_refusal.model.transformers_backend import staying_usable_alone
from vllm_refusal.settings.architectures import SINGLE, STALE_RESIDUAL, SUM, Architecture
from vllm_refusal.settings.capture import load_capture
from vllm_refusal.settings.loading import load_config, settings_of
from vllm_refusal.settings.modules import STREAM, WRITES
from vllm_refusal.settings.speculation import is_draft

GRAPH_KEY = "ablation_graph"


class AblatedModel:
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
        if settings_of(vllm_config) is not None or self.capture is not None:
            _hook_runner(vllm_config)

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
        from vllm_refusal.model.runner_v2 import model_state_class

        return model_state_class(self, self._stock_model_state_class())

    def _stock_model_state_class(self) -> type:
        inherited = getattr(super(), "get_model_state_cls", None)
        if inherited is not None:
            return inherited()
        from vllm_refusal.model.runner_v2 import resolve_stock_class

        return resolve_stock_class(self)


def install_edits(model: nn.Module, architecture: Architecture, tables: SlotTables) -> int:
    """Put a ResidualEdit at each site in use of each decoder block that this worker holds. Returns how many.

    Raises: RuntimeError when the model does not look as its table entry says, or nothing was found.
    """
    from vllm.model_executor.models.utils import PPMissingLayer

    blocks = model.get_submodule(architecture.blocks)
    expected = tables.config.n_layers
    if len(blocks) != expected:
        raise RuntimeError(f"{architecture.name}: {len(blocks)} blocks at {architecture.blocks}, expected {expected}")
    n_installed = 0
    for layer, block in enumerate(blocks):
        if not isinstance(block, PPMissingLayer):
            n_installed += _install_in_block(block, layer, architecture, tables)
    if n_installed == 0:
        raise RuntimeError(
            f"{architecture.name}: no decoder block found at {architecture.blocks}; nothing would be ablated"
        )
    return n_installed


def _install_in_block(block: nn.Module, layer: int, architecture: Architecture, tables: SlotTables) -> int:
    targets = []
    if STREAM in tables.config.sites:
        targets.append((block, tables.edit_of(STREAM, layer), _stream_class(type(block), architecture.returns)))
    if WRITES in tables.config.sites:
        for path, norm in architecture.writers:
            writer = block.get_submodule(path)
            bases = norm and tables.before_norms.add(block.get_submodule(norm), architecture.family.gain_offset)
            targets.append((writer, tables.edit_of(WRITES, layer, bases), _write_class(type(writer))))
    for module, edit, edited_class in targets:
        if "forward" in vars(module):  # would run in place of the class's: the edit would be passed by
            raise RuntimeError(
                f"{architecture.name}: {type(module).__name__} has a forward of its own and cannot be edited"
            )
        _put_edit(module, edit, edited_class)
    return len(targets)


def edit_writes(writer: nn.Module, edit: ResidualEdit) -> None:
    """Put an edit behind a linear map or a mixture of experts, from now on."""
    _put_edit(writer, edit, _write_class(type(writer)))


def take_edit(module: nn.Module) -> ResidualEdit | None:
    """Give a module its own class back. Returns the edit that was behind it, or None."""
    edit = getattr(module, "residual_edit", None)
    if edit is not None:
        del module.residual_edit
        module.__class__ = type(module).__base__
    return edit


def _put_edit(module: nn.Module, edit: ResidualEdit, edited_class: type) -> None:
    module.residual_edit = edit
    module.__class__ = edited_class


@cache
def _stream_class(block_class: type, returns: str) -> type:
    """A decoder block class whose output stream is edited. vLLM compiles its forward like the original's."""

    def on_sum(self: Any, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        hidden, residual = block_class.forward(self, *args, **kwargs)
        return self.residual_edit.on_sum(hidden, residual)

    def on_single(self: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        return self.residual_edit.on_single(block_class.forward(self, *args, **kwargs))

    def beside_stale_residual(self: Any, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        stream, residual = block_class.forward(self, *args, **kwargs)
        return self.residual_edit.on_single(stream), residual

    forwards = {SUM: on_sum, SINGLE: on_single, STALE_RESIDUAL: beside_stale_residual}
    return _edited_class(block_class, forwards[returns])


@cache
def _write_class(writer_class: type) -> type:
    """A class of linear maps or of experts whose output, bias included, is edited before it is added to the stream."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = writer_class.forward(self, *args, **kwargs)
        if isinstance(output, tuple):
            return self.residual_edit.on_single(output[0]), *output[1:]
        return self.residual_edit.on_single(output)

    return _edited_class(writer_class, forward)


def _edited_class(base: type, forward: Any) -> type:
    return type(f"Ablated{base.__name__}", (base,), {"forward": forward, "__module__": base.__module__})


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
    from vllm.distributed import get_tensor_model_parallel_rank

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


def _hook_runner(vllm_config: Any) -> None:
    if not vllm_config.use_v2_model_runner:  # Model Runner V2 asks for get_model_state_cls instead
        from vllm_refusal.model.runner_v1 import install

        install()
