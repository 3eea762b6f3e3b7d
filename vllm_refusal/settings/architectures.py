"""vLLM architectures that the plugin knows, as data. What a decoder block returns cannot be seen, so it is listed."""

from dataclasses import dataclass

from surgery.architecture.families import Family, family_of

SUM, SINGLE, STALE_RESIDUAL = "sum", "single", "stale_residual"


@dataclass(frozen=True)
class Architecture:
    """Where one vLLM architecture keeps its decoder blocks and what they return.

    Attributes:
        name: Hugging Face architecture, the key of vLLM's model registry.
        blocks: path of the ModuleList of decoder blocks inside the vLLM model.
        attention_out, mlp_out: paths inside a block of the modules whose outputs are added to the residual stream: linear
            maps, or a mixture of experts as a whole.
        pre_norm, mid_norm: paths inside a block of the norms that are fed resid_pre and resid_mid, or of attention and MLP
            where inputs pass none; None where there is none (attention and MLP side by side have no resid_mid).
        returns: what a block returns: SUM, (hidden, residual) whose sum is the residual stream; SINGLE, the stream;
            STALE_RESIDUAL, (stream, residual) where the residual is what entered the block and is not used again.
        partial_writes: whether they are partial sums under tensor parallelism, reduced later.
    """

    name: str
    blocks: str = "model.layers"
    attention_out: str = "self_attn.o_proj"
    mlp_out: str = "mlp.down_proj"
    pre_norm: str | None = "input_layernorm"
    mid_norm: str | None = "post_attention_layernorm"
    returns: str = SUM
    partial_writes: bool = False

    @property
    def family(self) -> Family:
        """The same architecture in transformers, whose norms have the names that they have in vLLM."""
        return family_of(self.name)

    @property
    def writers(self) -> tuple[tuple[str, str | None], ...]:
        """Paths of `attention_out` and `mlp_out`, each with that of the norm that its output passes, if there is one."""
        return (self.attention_out, self.family.attention_norm), (self.mlp_out, self.family.mlp_norm)

    @property
    def norms(self) -> dict[str, str]:
        """Path of what is fed each capture site but the block's output, where there is one."""
        paths = {"resid_pre": self.pre_norm, "resid_mid": self.mid_norm}
        return {site: path for site, path in paths.items() if path is not None}

    @property
    def feeds_norms(self) -> bool:
        """Whether attention and MLP are fed the stream behind a norm, as all but the families of post-norms alone."""
        return all(path.endswith("norm") for path in self.norms.values())


ARCHITECTURES = {
    architecture.name: architecture
    for architecture in (
        Architecture("LlamaForCausalLM"),
        Architecture("MistralForCausalLM"),
        Architecture("Qwen2ForCausalLM"),
        Architecture("Qwen3ForCausalLM"),
        Architecture("Phi3ForCausalLM"),
        Architecture("GraniteForCausalLM", returns=SINGLE),
        Architecture("CohereForCausalLM", mid_norm=None, returns=STALE_RESIDUAL, partial_writes=True),
        Architecture("Gemma2ForCausalLM", mid_norm="pre_feedforward_layernorm"),
        Architecture("Gemma3ForCausalLM", mid_norm="pre_feedforward_layernorm"),
        Architecture("Glm4ForCausalLM"),
        Architecture("MixtralForCausalLM", mlp_out="block_sparse_moe"),
        Architecture("Qwen2MoeForCausalLM", mlp_out="mlp"),  # dense in some blocks
        Architecture("Qwen3MoeForCausalLM", mlp_out="mlp"),
        # vLLM runs the next two through its backend for models of transformers.
        Architecture("Olmo2ForCausalLM", pre_norm="self_attn", mid_norm="mlp", returns=SINGLE),
        Architecture(
            "GPTNeoXForCausalLM",
            attention_out="attention.dense",
            mlp_out="mlp.dense_4h_to_h",
            mid_norm=None,
            returns=SINGLE,
        ),
    )
}
