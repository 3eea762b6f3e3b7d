"""Architectures as data: where a model family keeps its decoder blocks and what writes to the residual stream."""

from collections.abc import Iterable
from dataclasses import dataclass

from surgery.console.errors import ModelError

OUT_IN, IN_OUT = "out_in", "in_out"


@dataclass(frozen=True)
class Experts:
    """Where a mixture-of-experts family keeps its experts, within a decoder block.

    Every expert's output matrix writes to the residual stream: what is added is their outputs weighted by the router.

    Attributes:
        block: the module whose output is added, in transformers; the dense MLP in blocks without experts.
        stored_block: its name in files.
        out: one expert's output map, within "experts.<number>", in files that hold every matrix by itself.
        inputs: its other maps there.
        fused_out: all experts' output matrices in one tensor, [n_experts, *matrix] in the family's `weight_layout`,
            as transformers holds them and some files do.
        fused_inputs: the other maps so.
        router: the map from the stream to one score per expert: the rows of its matrix count them.
        shared: the expert that every token passes, beside `out` and `inputs` of its own; None where there is none.
        shared_gate: the map to that expert's weight.
    """

    block: str = "mlp"
    stored_block: str = "mlp"
    out: str = "down_proj"
    inputs: tuple[str, ...] = ("gate_proj", "up_proj")
    fused_out: str = "experts.down_proj"
    fused_inputs: tuple[str, ...] = ("experts.gate_up_proj",)
    router: str = "gate"
    shared: str | None = None
    shared_gate: str | None = None


@dataclass(frozen=True)
class Family:
    """Names of one architecture's parts, as modules in transformers and, with `.weight`, as tensors in its files.

    Attributes:
        architecture: class name in config.json.
        layers: the list of decoder blocks.
        attention_out, mlp_out: within a block, the linear maps whose outputs are added to the residual stream.
        experts: what stands in place of `mlp_out` in blocks that have a mixture of experts; None for dense families.
        embedding, unembedding: token embedding and language-model head.
        stored_unembedding: the head's name in the files, where it is another than the module's.
        final_norm: the norm after the last block.
        weight_layout: axis order of `attention_out` and `mlp_out`: "out_in" as in torch.nn.Linear ([d_model, in]),
            "in_out" as in GPT-2's Conv1D. Declared, never guessed: a square matrix looks the same both ways.
        attention_norm, mlp_norm: within a block, the RMSNorm that attention's and the MLP's output passes before it is
            added (sandwich norms); None where it is added as it is.
        gain_offset: added to the stored weight of those norms to give their gain; Gemma's is 1.
        scales_writes: whether those outputs are multiplied by a number before they are added, which leaves the subspace as
            it is.
        always_tied_in_vllm: whether vLLM's class (0.32) has no unembedding but the embedding, whatever config.json says.
    """

    architecture: str
    layers: str = "model.layers"
    attention_out: str = "self_attn.o_proj"
    mlp_out: str = "mlp.down_proj"
    embedding: str = "model.embed_tokens"
    unembedding: str = "lm_head"
    stored_unembedding: str | None = None
    final_norm: str = "model.norm"
    weight_layout: str = OUT_IN
    attention_norm: str | None = None
    mlp_norm: str | None = None
    gain_offset: float = 0.0
    experts: Experts | None = None
    scales_writes: bool = False
    always_tied_in_vllm: bool = False

    def block(self, layer: int) -> str:
        """Name of decoder block `layer`."""
        return f"{self.layers}.{layer}"

    @property
    def head_tensor(self) -> str:
        """Name of the unembedding's tensor in the files."""
        return f"{self.stored_unembedding or self.unembedding}.weight"

    @property
    def output_axis(self) -> int:
        """The axis of a stored matrix that runs along the residual stream."""
        return 1 if self.weight_layout == IN_OUT else 0

    def writers(self, layers: Iterable[int]) -> list[str]:
        """Names of the modules of the given blocks whose outputs are added to the residual stream, block by block.

        They are linear maps, but for the MLP of a family with experts.
        """
        return list(self.post_norms(layers))

    def post_norms(self, layers: Iterable[int]) -> dict[str, str | None]:
        """Those modules, each with the name of the norm that its output passes before it is added, if there is one."""
        mlp = self.experts.block if self.experts else self.mlp_out
        parts = ((self.attention_out, self.attention_norm), (mlp, self.mlp_norm))
        return {
            f"{self.block(layer)}.{part}": norm and f"{self.block(layer)}.{norm}"
            for layer in layers
            for part, norm in parts
        }


FAMILIES: dict[str, Family] = {
    name: Family(name)
    for name in (
        "LlamaForCausalLM",
        "MistralForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen3ForCausalLM",
        "Phi3ForCausalLM",
    )
} | {
    name: Family(
        name,
        attention_norm="post_attention_layernorm",
        mlp_norm="post_feedforward_layernorm",
        gain_offset=gain_offset,
        always_tied_in_vllm=name == "Gemma2ForCausalLM",
    )
    for name, gain_offset in (("Gemma2ForCausalLM", 1.0), ("Gemma3ForCausalLM", 1.0), ("Olmo2ForCausalLM", 0.0))
}
FAMILIES["GraniteForCausalLM"] = Family("GraniteForCausalLM", scales_writes=True)
FAMILIES["CohereForCausalLM"] = Family(  # attention and MLP run side by side, and both are added
    "CohereForCausalLM", always_tied_in_vllm=True
)
FAMILIES["GPTNeoXForCausalLM"] = Family(
    "GPTNeoXForCausalLM",
    layers="gpt_neox.layers",
    attention_out="attention.dense",
    mlp_out="mlp.dense_4h_to_h",
    embedding="gpt_neox.embed_in",
    stored_unembedding="embed_out",
    final_norm="gpt_neox.final_layer_norm",
)
FAMILIES["Glm4ForCausalLM"] = Family(
    "Glm4ForCausalLM", attention_norm="post_self_attn_layernorm", mlp_norm="post_mlp_layernorm"
)
FAMILIES |= {
    family.architecture: family
    for family in (
        Family("MixtralForCausalLM", experts=Experts(stored_block="block_sparse_moe", out="w2", inputs=("w1", "w3"))),
        Family("Qwen3MoeForCausalLM", experts=Experts()),
        Family("Qwen2MoeForCausalLM", experts=Experts(shared="shared_expert", shared_gate="shared_expert_gate")),
    )
}
_NEEDED = (
    "its decoder blocks, the maps of attention and MLP (every expert's) that write to the residual stream and the axis "
    "of their outputs, the norms these pass before they are added, embedding, unembedding and final norm"
)


def family_of(architecture: str) -> Family:
    """The family of an architecture. Raises: ModelError listing the supported ones and what a new one would need."""
    if architecture not in FAMILIES:
        raise ModelError(
            f"architecture {architecture} is not supported; supported: {', '.join(sorted(FAMILIES))}; another needs an "
            f"entry in surgery/architecture/families.py that names {_NEEDED}"
        )
    return FAMILIES[architecture]
