"""Every architecture that is supported, an entry each: all that models, hooks, files and vLLM are asked by."""

from dataclasses import replace

from surgery.architecture.entry import SINGLE, STALE_RESIDUAL, Architecture, Experts, InVllm, Output
from surgery.console.errors import ModelError

_SANDWICHED = Architecture(
    "",
    attention=Output("self_attn.o_proj", norm="post_attention_layernorm"),
    mlp=Output("mlp.down_proj", norm="post_feedforward_layernorm"),
)
_GEMMA = replace(_SANDWICHED, tied_by_default=True, gain_offset=1.0, fed_mid="pre_feedforward_layernorm")
ARCHITECTURES = {
    entry.name: entry
    for entry in (
        Architecture("LlamaForCausalLM"),
        Architecture("MistralForCausalLM"),
        Architecture("Qwen2ForCausalLM"),
        Architecture("Qwen3ForCausalLM"),
        Architecture("Phi3ForCausalLM"),
        Architecture("GraniteForCausalLM", scales_writes=True, vllm=InVllm(returns=SINGLE)),
        Architecture(  # attention and MLP run side by side, and both are added
            "CohereForCausalLM",
            tied_by_default=True,
            fed_mid=None,
            vllm=InVllm(returns=STALE_RESIDUAL, partial_writes=True, always_tied=True),
        ),
        replace(_GEMMA, name="Gemma2ForCausalLM", vllm=InVllm(always_tied=True)),
        replace(_GEMMA, name="Gemma3ForCausalLM"),
        Architecture(
            "Glm4ForCausalLM",
            attention=Output("self_attn.o_proj", norm="post_self_attn_layernorm"),
            mlp=Output("mlp.down_proj", norm="post_mlp_layernorm"),
        ),
        Architecture(
            "MixtralForCausalLM",
            experts=Experts(stored_block="block_sparse_moe", out="w2", inputs=("w1", "w3")),
            vllm=InVllm(mlp_out="block_sparse_moe"),
        ),
        Architecture(  # dense in some blocks
            "Qwen2MoeForCausalLM",
            experts=Experts(shared="shared_expert", shared_gate="shared_expert_gate"),
            vllm=InVllm(mlp_out="mlp"),
        ),
        Architecture("Qwen3MoeForCausalLM", experts=Experts(), vllm=InVllm(mlp_out="mlp")),
        # vLLM runs the next two through its backend for models of transformers.
        replace(_SANDWICHED, name="Olmo2ForCausalLM", fed_pre="self_attn", fed_mid="mlp", vllm=InVllm(returns=SINGLE)),
        Architecture(
            "GPTNeoXForCausalLM",
            blocks="gpt_neox.layers",
            attention=Output("attention.dense"),
            mlp=Output("mlp.dense_4h_to_h"),
            embedding="gpt_neox.embed_in",
            stored_unembedding="embed_out",
            fed_mid=None,
            vllm=InVllm(attention_out="attention.dense", mlp_out="mlp.dense_4h_to_h", returns=SINGLE),
        ),
    )
}
_NEEDED = (
    "its decoder blocks, the maps of attention and MLP (every expert's) that write to the residual stream and the axis "
    "of their outputs, the norms these pass before they are added, embedding and unembedding"
)


def entry_of(architecture: str) -> Architecture:
    """The entry of an architecture. Raises: ModelError listing the supported ones and what a new one would need."""
    if architecture not in ARCHITECTURES:
        raise ModelError(
            f"architecture {architecture} is not supported; supported: {', '.join(sorted(ARCHITECTURES))}; another needs "
            f"an entry in surgery/architecture/table.py that names {_NEEDED}"
        )
    return ARCHITECTURES[architecture]
