"""The plugin for stock vLLM: removes refusal subspaces from the residual stream at run time, per request.

Rooms, each of which imports only those after it; none imports eval:

commands    serve and doctor
server      the OpenAI-compatible server
engine      engines in this process: bulk generation, captured activations, distributions
admission   where requests enter vLLM, and the proof of every engine's start
model       the model classes that vLLM builds, and the worker around them
edit        the edit of the residual stream, and its tables
settings    what engines and requests may ask
compatibility   the private surfaces of vLLM that all of them rely on

Imported in every vLLM process through the `vllm.general_plugins` entry point, so this module stays light.
"""


def register() -> None:
    """Put our subclasses in front of the supported architectures and install admission and the proof. Idempotent.

    Raises: IncompatibleError before anything is changed, where this vLLM lacks what the plugin relies on.
    """
    from vllm_refusal.compatibility.checking import check

    check()
    from vllm_refusal.admission.installation import install
    from vllm_refusal.model.registration import register_architectures

    register_architectures()
    install()
