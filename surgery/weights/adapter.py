"""LoRA adapters in PEFT format that have the effect of an orthogonalized checkpoint, exactly."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from surgery.architecture.entry import IN_OUT, Architecture
from surgery.architecture.writers import Writer, writers
from surgery.console.errors import ModelError
from surgery.files.artifacts import file_sha256, package_versions, save_artifact
from surgery.files.folders import check_folder, replacing_folder
from surgery.files.shards import read_shards, tensors_by_name
from surgery.model.models import ModelInfo
from surgery.residual.layers import LayerSpec, format_layers, parse_layers
from surgery.weights.checkpoint import check_edit
from surgery.weights.edit import removal_of
from surgery.weights.edits import Edit, draft_notes, draft_tensors, plan_edits
from surgery.weights.manifest import (
    ADAPTER_CONFIG,
    ADAPTER_KIND,
    is_adapter,
    read_manifest,
    write_adapter_card,
    write_manifest,
)
from surgery.weights.matrices import Matrix, matrices, row_blocks

if TYPE_CHECKING:
    import torch

Progress = Callable[[int, int], None]
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."  # PEFT's name of the wrapped model
_KIND = "an adapter of ours"


@dataclass(frozen=True)
class LoraFactors:
    """One module's low-rank edit, W' = W + B A.

    Attributes:
        module: name in transformers, e.g. "model.layers.0.mlp.down_proj"; of one expert, in the files with a matrix for
            each, e.g. "model.layers.0.mlp.experts.3.down_proj", which PEFT and vLLM both read.
        a: [rank, d_in], float32: Q W, with Q as removed from this module (`gains.removal`).
        b: [d_model, rank], float32: -alpha Q^T.
        inputs: names of an expert's other maps, which are not edited.
    """

    module: str
    a: "torch.Tensor"
    b: "torch.Tensor"
    inputs: tuple[str, ...] = ()

    @property
    def component(self) -> float:
        """Frobenius norm of what the module writes into the subspace, |Q W|."""
        return self.a.double().norm().item()


def write_adapter(
    info: ModelInfo,
    basis: "torch.Tensor",
    alpha: float,
    out_dir: Path | str,
    layers: LayerSpec = "all",
    force: bool = False,
    source: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a LoRA adapter that removes a subspace from what attention and MLP add to the residual stream.

    W - alpha Q^T (Q W) = W + B A  with  A = Q W, B = -alpha Q^T        (Q = basis; rank k, no approximation)

    so a model with the adapter equals the orthogonalized checkpoint and the run-time ablation of the writes. It is
    stored in float32 with lora_alpha = r (scaling 1). Loads in PEFT and in vLLM (`max_lora_rank` of at least k). Every
    expert has factors of its own, and zero factors on its other maps, without which vLLM does not take it.

    Args:
        basis, alpha, layers, source: as `orthogonalize`.
        force: replace an adapter that is already there.
        progress: called with (tensors done, tensors in all).
    Returns: the manifest, also in the folder as `surgery.json`.
    Raises: ModelError (also for biases, which a LoRA adapter cannot edit), ShapeError, AlphaError, LayerRangeError,
        OutputExistsError, DiskError, ArtifactError.
    """
    check_adapter_folder(out_dir, force)
    entry = check_edit(info, basis, alpha)
    chosen = parse_layers(layers, info.n_layers)
    tensors = tensors_by_name(read_shards(Path(info.path)))
    edits = plan_edits(entry, tensors, chosen, info.d_model, embeddings=False)
    _check_no_biases(info, edits)
    written = writers(entry, tensors, chosen)
    factors = []
    for done, writer in enumerate(written, start=1):
        factors.extend(_factors(writer, edits[writer.name], basis, float(alpha)))
        if progress is not None:
            progress(done, len(edits))
    with replacing_folder(out_dir, force, kind=_KIND, is_kind=is_adapter) as folder:
        drafts = draft_tensors(entry, tensors, info.n_layers)
        manifest = _manifest(info, basis, float(alpha), chosen, factors, drafts, dict(source or {}))
        _write(folder, factors, lora_config(info, entry, basis.shape[0], chosen, written), manifest)
    return read_manifest(out_dir, ADAPTER_KIND)


def check_adapter_folder(out_dir: Path | str, force: bool = False) -> None:
    """Check where an adapter is to go, before any work. Raises: OutputExistsError, ArtifactError."""
    check_folder(out_dir, force, kind=_KIND, is_kind=is_adapter)


def lora_config(
    info: ModelInfo, entry: Architecture, rank: int, layers: Iterable[int], written: Iterable[Writer]
) -> dict[str, Any]:
    """The adapter's `adapter_config.json`: the fields that PEFT and vLLM read (PEFT's LoraConfig, defaults spelled out).

    Args:
        written: what is edited in the chosen layers.
    """
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": info.model if info.revision else info.path,
        "revision": info.revision,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "use_rslora": False,
        "use_dora": False,
        "bias": "none",
        "fan_in_fan_out": entry.weight_layout == IN_OUT,
        "init_lora_weights": True,
        **_targets(entry, written),
        "layers_to_transform": list(layers),
        "layers_pattern": entry.blocks.rsplit(".", 1)[-1],
        "modules_to_save": None,
        "rank_pattern": {},
        "alpha_pattern": {},
    }


def _check_no_biases(info: ModelInfo, edits: Mapping[str, Edit]) -> None:
    biases = [name for name in edits if name.endswith(".bias")]
    if biases:
        raise ModelError(
            f"{info.model}: {len(biases)} of the modules to edit have biases (e.g. {biases[0]}), which write to the "
            "residual stream and which a LoRA adapter cannot edit; write a checkpoint instead (refusal orthogonalize)"
        )


def _targets(entry: Architecture, written: Iterable[Writer]) -> dict[str, list[str]]:
    """What PEFT adapts: modules, or for an architecture with experts, for its MLPs, parameters named in full.

    There PEFT takes a target module named `down_proj` for the experts alone (they were such modules in transformers 4) and
    would leave dense blocks and shared experts as they are.
    """
    if entry.experts is None:
        return {"target_modules": [entry.attention.module, entry.mlp.module]}
    attention = f".{entry.attention.module}.weight"
    parameters = [writer.parameter for writer in written if not writer.parameter.endswith(attention)]
    return {"target_modules": [entry.attention.module], "target_parameters": list(dict.fromkeys(parameters))}


def _factors(writer: Writer, edit: Edit, basis: "torch.Tensor", alpha: float) -> list[LoraFactors]:
    """The factors of the maps that one tensor holds."""
    basis = removal_of(edit, basis).basis
    with open(edit.tensor.path, "rb") as handle:
        coordinates = [_coordinates(handle, matrix, basis) for matrix in matrices(edit.tensor, edit.output_axis)]
    if not all(one.isfinite().all() for one in coordinates):
        raise ModelError(f"{writer.name} holds values that are not finite; the model is damaged")
    return [
        LoraFactors(module, one, -alpha * basis.T, writer.inputs)
        for module, one in zip(writer.modules, coordinates, strict=True)
    ]


def _coordinates(handle: BinaryIO, matrix: Matrix, basis: "torch.Tensor") -> "torch.Tensor":
    """Q W of one matrix in an open file, [rank, d_in] float32, in memory bounded by a block of its rows."""
    import torch

    if matrix.vectors_are_rows:
        return torch.cat([basis @ block.float().T for _, _, block in row_blocks(handle, matrix)], dim=1)
    total = torch.zeros(len(basis), matrix.n_columns, dtype=torch.float64)
    for rows, _, block in row_blocks(handle, matrix):
        total += basis[:, rows] @ block.float()
    return total.float()


def _manifest(
    info: ModelInfo,
    basis: "torch.Tensor",
    alpha: float,
    layers: tuple[int, ...],
    factors: list[LoraFactors],
    drafts: list[str],
    source: dict[str, Any],
) -> dict[str, Any]:
    return {
        "base_model": info.to_json(),
        "basis": {"rank": basis.shape[0], "source_layers": list(source.get("source_layers", ()))},
        "source": source,
        "alpha": alpha,
        "layers": format_layers(layers, info.n_layers),
        "notes": draft_notes(drafts),
        "modules": [{"name": one.module, "d_in": one.a.shape[1], "component": one.component} for one in factors],
        "versions": package_versions(),
    }


def _tensors(factors: LoraFactors) -> "dict[str, torch.Tensor]":
    """One module's factors by the names PEFT gives them.

    An expert's other maps get factors of zero: vLLM 0.32 packs the three maps of an expert together and fails without.
    """
    a, b = factors.a, factors.b
    pairs = {factors.module: (a, b)}
    for name in factors.inputs:
        module = f"{factors.module.rpartition('.')[0]}.{name}"
        pairs[module] = (a.new_zeros(1, b.shape[0]), b.new_zeros(a.shape[1], 1))
    return {
        f"{PREFIX}{module}.lora_{letter}.weight": factor
        for module, pair in pairs.items()
        for letter, factor in zip("AB", pair, strict=True)
    }


def _write(folder: Path, factors: list[LoraFactors], config: Mapping[str, Any], manifest: dict[str, Any]) -> None:
    tensors = {name: tensor for one in factors for name, tensor in _tensors(one).items()}
    header = {"model": manifest["base_model"]} | {key: manifest[key] for key in ("alpha", "layers", "basis", "source")}
    save_artifact(folder / WEIGHTS, ADAPTER_KIND, tensors, header)
    manifest["sha256"] = file_sha256(folder / WEIGHTS)
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    write_manifest(folder, manifest, ADAPTER_KIND)
    write_adapter_card(folder, manifest)
