"""Plugin for stock vLLM: removes refusal subspaces from the residual stream at run time, per request.

Imported in every vLLM process through the `vllm.general_plugins` entry point, so this module stays light.
"""


def register() -> None:
    """Put our subclasses in front of the supported architectures and install admission and the proof. Idempotent."""
    from vllm.model_executor.models.registry import ModelRegistry

    from vllm_refusal.admission import core_proof
    from vllm_refusal.admission import patches as admission
    from vllm_refusal.settings.architectures import ARCHITECTURES, record_base

    for name in ARCHITECTURES:
        registered = ModelRegistry.models.get(name)
        # None where it is absent, or was registered as a class by another plugin
        module_name = getattr(registered, "module_name", None)
        if module_name in (None, "vllm_refusal.model.registration"):
            continue
        record_base(name, module_name, registered.class_name)
        ModelRegistry.register_model(name, f"vllm_refusal.model.registration:{name}")
    admission.install()
    core_proof.install()
