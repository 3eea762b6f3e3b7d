"""Other ablations for an engine of this process while it runs, through the workers' methods that servers use."""

from collections.abc import Mapping
from typing import Any

from vllm_refusal.model.worker import check_loaded, digests_of
from vllm_refusal.settings.engine_settings import load_another
from vllm_refusal.settings.modules import AblationModule


def replace_modules(llm: Any, modules: Mapping[str, Mapping[str, Any]]) -> None:
    """Take all ablations from a `vllm.LLM` and load these, in the room that was reserved when it started.

    A request is admitted for a module once every worker has it. After an error the engine has only the modules that
    were loaded before the one at fault.

    Args:
        modules: name -> settings, as at the start.
    Raises: RefusalError when a module does not fit or a worker cannot load it; ValueError while requests run.
    """
    engine = llm.llm_engine
    if engine.has_unfinished_requests():
        raise ValueError("an engine's ablations are replaced between its requests, and some are running")
    for name in list(engine.input_processor.ablation.modules):
        engine.input_processor.ablation = engine.input_processor.ablation.without(name)
        llm.collective_rpc("unload_ablation", args=(name,))
    for name, spec in modules.items():
        _load(llm, load_another(name, dict(spec), engine.vllm_config), spec)


def _load(llm: Any, module: AblationModule, spec: Mapping[str, Any]) -> None:
    processor = llm.llm_engine.input_processor
    config = processor.ablation.with_module(module)
    try:
        check_loaded(
            module.name, llm.collective_rpc("load_ablation", args=(module.name, dict(spec), digests_of(module)))
        )
    except BaseException:
        llm.collective_rpc("unload_ablation", args=(module.name,))
        raise
    processor.ablation = config
