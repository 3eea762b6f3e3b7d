"""vLLM architectures that the plugin knows, as data. What a decoder block returns cannot be seen, so it is listed."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """Where one vLLM architecture keeps its decoder blocks and what they return.

    Attributes:
        name: Hugging Face architecture, the key of vLLM's model registry.
        blocks: path of the ModuleList of decoder blocks inside the vLLM model.
        attention_out, mlp_out: paths inside a block of the linear modules that write to the residual stream.
        pre_norm, mid_norm: paths inside a block of the norms that are fed resid_pre and resid_mid, as addends; None where
            no norm is (attention and MLP side by side have no resid_mid).
        returns: "sum" when a block returns (hidden, residual) and their sum is the residual stream.
    """

    name: str
    blocks: str = "model.layers"
    attention_out: str = "self_attn.o_proj"
    mlp_out: str = "mlp.down_proj"
    pre_norm: str | None = "input_layernorm"
    mid_norm: str | None = "post_attention_layernorm"
    returns: str = "sum"

    @property
    def norms(self) -> dict[str, str]:
        """Path of the norm that is fed each capture site but the block's output, where there is one."""
        paths = {"resid_pre": self.pre_norm, "resid_mid": self.mid_norm}
        return {site: path for site, path in paths.items() if path is not None}


ARCHITECTURES = {
    name: Architecture(name)
    for name in ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
}

_BASES: dict[str, tuple[str, str]] = {}


def record_base(name: str, module_name: str, class_name: str) -> None:
    """Remember the in-tree class that ours will derive from."""
    _BASES[name] = (module_name, class_name)


def base_of(name: str) -> tuple[str, str]:
    """(module, class) of the in-tree model of an architecture; registers the plugin first where nobody has."""
    if name not in _BASES:
        from vllm_refusal import register

        register()
    return _BASES[name]
