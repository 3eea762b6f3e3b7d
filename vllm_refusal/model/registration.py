"""The classes that vLLM loads: `vllm_refusal.model.registration:LlamaForCausalLM` and so on, built when first asked for."""

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    from vllm_refusal.settings.architectures import ARCHITECTURES, base_of

    if name not in ARCHITECTURES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vllm_refusal.model.wrapper import AblatedModel

    module_name, class_name = base_of(name)
    base = getattr(importlib.import_module(module_name), class_name)
    built = type(base.__name__, (AblatedModel, base), {"__module__": __name__, "architecture": ARCHITECTURES[name]})
    globals()[name] = built
    return built
