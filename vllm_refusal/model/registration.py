"""The classes that vLLM loads: `vllm_refusal.model.registration:LlamaForCausalLM` and so on, built when first asked for."""

import importlib
from typing import Any

from surgery.architecture.table import ARCHITECTURES

_BASES: dict[str, tuple[str, str]] = {}
"""Architecture -> (module, class) of vLLM's own model, from which ours derives."""


def register_architectures() -> None:
    """Put our subclasses in front of the supported architectures. Idempotent."""
    from vllm.model_executor.models.registry import ModelRegistry

    for name in ARCHITECTURES:
        registered: Any = ModelRegistry.models.get(name)
        # None where it is absent, or was registered as a class by another plugin
        module_name = getattr(registered, "module_name", None)
        if module_name not in (None, __name__):
            _BASES[name] = module_name, registered.class_name
            ModelRegistry.register_model(name, f"{__name__}:{name}")


def __getattr__(name: str) -> Any:
    if name not in ARCHITECTURES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vllm_refusal.model.wrapper import AblatedModel

    if name not in _BASES:  # in the process in which vLLM only looks at a class
        register_architectures()
    module_name, class_name = _BASES[name]
    base = getattr(importlib.import_module(module_name), class_name)
    built = type(base.__name__, (AblatedModel, base), {"__module__": __name__, "architecture": ARCHITECTURES[name]})
    globals()[name] = built
    return built
