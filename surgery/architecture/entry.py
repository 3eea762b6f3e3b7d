"""What is known of one architecture, as plain data: in transformers, in the files of its models, and in vLLM."""

from collections.abc import Iterable
from dataclasses import dataclass

from surgery.console.errors import ModelError
from surgery.residual.sites import RESID_MID, RESID_POST, RESID_PRE

OUT_IN, IN_OUT = "out_in", "in_out"
SUM, SINGLE, STALE_RESIDUAL = "sum", "single", "stale_residual"


@dataclass(frozen=True)
class Output:
    """A part of a decoder block whose output is added to the residual stream.

    Attributes:
        module: the linear map that gives it, within the block.
        norm: the RMSNorm within the block that it passes before it is added (sandwich norms); None where it is added as
            it is.
    """

    module: str
    norm: str | None = None


@dataclass(frozen=True)
class Experts:
    """Where an architecture keeps a mixture of experts, within a decoder block.

    Every expert's output matrix writes to the residual stream: what is added is their outputs weighted by the router.

    Attributes:
        block: the module whose output is added, in transformers; the dense MLP in blocks without experts.
        stored_block: its name in files.
        out: one expert's output map, within "experts.<number>", in files that hold every matrix by itself.
        inputs: its other maps there.
        fused_out: all experts' output matrices in one tensor, [n_experts, *matrix] in the entry's `weight_layout`,
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
class InVllm:
    """What vLLM (0.32) does otherwise: names of modules, and what a decoder block returns, which cannot be seen.

    Attributes:
        blocks: the ModuleList of decoder blocks.
        attention_out, mlp_out: within a block, the modules whose outputs are added to the residual stream: linear maps, or
            a mixture of experts as a whole.
        returns: what a block returns: SUM, (hidden, residual) whose sum is the residual stream; SINGLE, the stream;
            STALE_RESIDUAL, (stream, residual) where the residual is what entered the block and is not used again.
        partial_writes: whether those outputs are partial sums under tensor parallelism, reduced later.
        always_tied: whether it has no unembedding but the embedding, whatever config.json says.
    """

    blocks: str = "model.layers"
    attention_out: str = "self_attn.o_proj"
    mlp_out: str = "mlp.down_proj"
    returns: str = SUM
    partial_writes: bool = False
    always_tied: bool = False


@dataclass(frozen=True)
class Architecture:
    """Names of one architecture's parts, as modules in transformers and, with `.weight`, as tensors in its files.

    Attributes:
        name: class name in config.json, the key of vLLM's model registry.
        blocks: the list of decoder blocks.
        attention, mlp: what a block adds to the residual stream; `experts` stands in place of `mlp` in blocks that have
            a mixture of experts, None for dense architectures.
        embedding, unembedding: token embedding and language-model head.
        stored_unembedding: the head's name in the files, where it is another than the module's.
        tied_by_default: whether a config.json that does not say so ties `unembedding` to `embedding`: the default of
            transformers' class.
        weight_layout: axis order of the matrices that write: "out_in" as in torch.nn.Linear ([d_model, in]), "in_out" as
            in GPT-2's Conv1D. Declared, never guessed: a square matrix looks the same both ways.
        gain_offset: added to the stored weight of the norms of `attention` and `mlp` to give their gain; Gemma's is 1.
        scales_writes: whether those outputs are multiplied by a number before they are added, which leaves the subspace as
            it is.
        fed_pre, fed_mid: the modules of a block that are fed resid_pre and resid_mid, in vLLM too: norms, or attention and
            MLP where inputs pass none; no `fed_mid` where attention and MLP stand side by side.
    """

    name: str
    blocks: str = "model.layers"
    attention: Output = Output("self_attn.o_proj")
    mlp: Output = Output("mlp.down_proj")
    experts: Experts | None = None
    embedding: str = "model.embed_tokens"
    unembedding: str = "lm_head"
    stored_unembedding: str | None = None
    tied_by_default: bool = False
    weight_layout: str = OUT_IN
    gain_offset: float = 0.0
    scales_writes: bool = False
    fed_pre: str = "input_layernorm"
    fed_mid: str | None = "post_attention_layernorm"
    vllm: InVllm = InVllm()

    def block(self, layer: int) -> str:
        """Name of decoder block `layer`."""
        return f"{self.blocks}.{layer}"

    @property
    def head_tensor(self) -> str:
        """Name of the unembedding's tensor in the files."""
        return f"{self.stored_unembedding or self.unembedding}.weight"

    @property
    def output_axis(self) -> int:
        """The axis of a stored matrix that runs along the residual stream."""
        return 1 if self.weight_layout == IN_OUT else 0

    def post_norms(self, layers: Iterable[int]) -> dict[str, str | None]:
        """Modules of the given blocks whose outputs are added to the residual stream, block by block, each with the norm
        that its output passes before it is added, if there is one.

        They are linear maps, but for the MLP of an architecture with experts.
        """
        mlp = self.experts.block if self.experts else self.mlp.module
        parts = ((self.attention.module, self.attention.norm), (mlp, self.mlp.norm))
        return {
            f"{self.block(layer)}.{part}": norm and f"{self.block(layer)}.{norm}"
            for layer in layers
            for part, norm in parts
        }

    @property
    def vllm_writers(self) -> tuple[tuple[str, str | None], ...]:
        """The same within a block of vLLM's, whose norms have the names that they have in transformers."""
        return (self.vllm.attention_out, self.attention.norm), (self.vllm.mlp_out, self.mlp.norm)

    @property
    def fed(self) -> dict[str, str]:
        """What within a block is fed each site of the stream but the block's output, where there is one."""
        paths = {RESID_PRE: self.fed_pre, RESID_MID: self.fed_mid}
        return {site: path for site, path in paths.items() if path is not None}

    @property
    def resid_sites(self) -> tuple[str, ...]:
        """The sites at which its stream can be read."""
        return (*self.fed, RESID_POST)

    @property
    def feeds_norms(self) -> bool:
        """Whether attention and MLP are fed the stream behind a norm, as all but architectures of post-norms alone."""
        return all(path.endswith("norm") for path in self.fed.values())

    def check_offset_of_writes(self) -> None:
        """Raises: ModelError where what is written is normed or scaled before it is added: it has no reference point."""
        normed = self.attention.norm or self.mlp.norm
        if normed or self.scales_writes:
            raise ModelError(
                f"an offset is not defined at site writes of {self.name}, where what is written "
                f"{'passes a norm' if normed else 'is multiplied by a number'} before it is added; use site stream"
            )
