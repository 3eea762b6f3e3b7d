"""The decoder blocks of a vLLM model."""

from typing import Any, cast

from torch import nn

from surgery.architecture.entry import Architecture


def all_blocks(model: nn.Module, architecture: Architecture) -> list[nn.Module]:
    """The blocks in order, with a placeholder for each that another worker holds."""
    return list(cast(nn.ModuleList, model.get_submodule(architecture.vllm.blocks)))


def own_blocks(model: nn.Module, architecture: Architecture) -> dict[int, nn.Module]:
    """The blocks that this worker holds, by layer."""
    from vllm.model_executor.models.utils import PPMissingLayer

    blocks = enumerate(all_blocks(model, architecture))
    return {layer: block for layer, block in blocks if not isinstance(block, PPMissingLayer)}


def class_of(module: nn.Module) -> Any:
    """The class of a module, from which one with another forward is derived."""
    return type(module)
