"""Mixtures of experts: every expert is edited, however the files hold them, and what is not understood is refused."""

import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import fuse_experts, logits, write_model

from surgery.architecture.table import ARCHITECTURES, entry_of
from surgery.console.errors import ModelError
from surgery.files.shards import read_shards, tensors_by_name
from surgery.model.models import describe_model, load_model
from surgery.reading.hooks import ablated
from surgery.residual.subspace import random_subspace
from surgery.weights.checkpoint import orthogonalize
from surgery.weights.edits import plan_edits
from surgery.weights.manifest import read_manifest
from surgery.weights.matrices import matrices, row_blocks
from surgery.weights.verify import verify

QWEN3, MIXTRAL, QWEN2 = "Qwen3MoeForCausalLM", "MixtralForCausalLM", "Qwen2MoeForCausalLM"
WITH_EXPERTS = sorted(name for name, entry in ARCHITECTURES.items() if entry.experts)
BASIS = random_subspace(32, 3, seed=0).basis
N_EXPERTS = 4
FUSED = "model.layers.1.mlp.experts.down_proj"


@pytest.fixture(scope="module", params=[(name, fused) for name in WITH_EXPERTS for fused in (False, True)])
def folder(request, tmp_path_factory):
    """A model of three blocks; the first is dense but in Mixtral, which has no dense blocks."""
    architecture, fused = request.param
    folder = write_model(tmp_path_factory.mktemp("experts") / architecture, architecture, n_layers=3)
    return fuse_experts(folder) if fused else folder


def load(folder):
    return load_model(describe_model(folder))


def edit(folder, out, alpha=1.0, layers="all"):
    return orthogonalize(describe_model(folder), BASIS, alpha, out, layers)


def change(folder, function):
    """Rewrite a model's tensors, by name."""
    tensors = load_file(folder / "model.safetensors")
    function(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def experts_of(model):
    """Name -> the output matrices of a loaded model's experts, [n_experts, d_model, d_ff]."""
    return {name: value.detach() for name, value in model.named_parameters() if name.endswith("experts.down_proj")}


def test_no_expert_of_any_block_keeps_a_component(folder, tmp_path):
    manifest = edit(folder, tmp_path / "out")
    before, after = experts_of(load(folder)), experts_of(load(tmp_path / "out"))
    assert len(before) == (3 if "Mixtral" in folder.name else 2)
    for name in before:
        assert before[name].shape[0] == N_EXPERTS
        for matrix, edited in zip(before[name], after[name], strict=True):
            assert (BASIS @ edited).norm() < 1e-5 * (BASIS @ matrix).norm()  # float32: 32 terms, one rounding
            assert (BASIS @ matrix).norm() > 1  # the control
    report = verify(tmp_path / "out")
    assert report.ok and report.n_edited == len(manifest["tensors"])


def test_the_edited_tensors_are_counted_and_nothing_else_changes(folder, tmp_path):
    names = {record["name"] for record in edit(folder, tmp_path / "out", layers="1")["tensors"]}
    before, after = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "out"))
    assert {name for name in before if not torch.equal(before[name], after[name])} == names
    n_tensors = 1 if any(name.endswith("experts.down_proj") for name in names) else N_EXPERTS
    beside = {MIXTRAL: 1, QWEN2: 2, QWEN3: 2}[folder.name]  # o_proj; the shared expert, or a bias of o_proj
    assert len(names) == n_tensors + beside
    assert all(re.search(r"o_proj|down_proj|\.w2\.", name) for name in names)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", WITH_EXPERTS)
def test_both_layouts_give_the_same_model(architecture, dtype, tmp_path):
    folder = write_model(tmp_path / "m", architecture, dtype)
    edit(folder, tmp_path / "each", 1.5)
    edit(fuse_experts(folder), tmp_path / "one", 1.5)
    each, one = (load(tmp_path / name).state_dict() for name in ("each", "one"))
    assert each.keys() == one.keys()
    for name in each:  # sums depend on the alignment of memory: a tie may be rounded the other way
        assert torch.allclose(each[name], one[name], rtol=2 * torch.finfo(dtype).eps, atol=1e-6)
    assert verify(tmp_path / "each").ok and verify(tmp_path / "one").ok
    assert not torch.allclose(one[FUSED], load(folder).state_dict()[FUSED], atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tensor_of_all_experts_is_read_one_matrix_at_a_time(tmp_path, dtype):
    folder = fuse_experts(write_model(tmp_path / "m", QWEN3, dtype))
    tensors = tensors_by_name(read_shards(folder))
    plan = plan_edits(entry_of(QWEN3), tensors, (1,), 32, embeddings=False)[FUSED]
    whole = load_file(folder / "model.safetensors")[FUSED]
    found = list(matrices(plan.tensor, plan.output_axis))
    assert plan.output_axis == 1 and len(found) == N_EXPERTS and not any(one.vectors_are_rows for one in found)
    with open(plan.tensor.path, "rb") as handle:
        for one, matrix in zip(found, whole, strict=True):
            ((_, _, block),) = row_blocks(handle, one)
            assert torch.equal(block, matrix)


def test_a_shared_expert_writes_too(tmp_path):
    folder = write_model(tmp_path / "m", QWEN2)
    edit(folder, tmp_path / "out")
    name = "model.layers.1.mlp.shared_expert.down_proj.weight"
    before, after = (load_file(path / "model.safetensors")[name] for path in (folder, tmp_path / "out"))
    assert (BASIS @ after).norm() < 1e-5 * (BASIS @ before).norm()


def test_dense_blocks_among_sparse_ones_are_found_by_what_the_files_hold(tmp_path):
    folder = write_model(tmp_path / "m", QWEN3, n_layers=4, decoder_sparse_step=2, mlp_only_layers=[3])
    names = {record["name"] for record in edit(folder, tmp_path / "out")["tensors"]}
    dense = {layer for layer in range(4) if f"model.layers.{layer}.mlp.down_proj.weight" in names}
    sparse = {int(name.split(".")[2]) for name in names if ".experts." in name}
    assert (dense, sparse) == ({0, 2, 3}, {1})
    hooked, edited = load(folder), load(tmp_path / "out")
    with ablated(hooked, BASIS, site="writes") as n_hooked:
        assert torch.allclose(logits(hooked), logits(edited), atol=1e-4) and n_hooked == 8


@pytest.mark.parametrize("architecture", WITH_EXPERTS)
@pytest.mark.parametrize("fused", [False, True])
def test_a_missing_expert_is_named(architecture, fused, tmp_path):
    folder = write_model(tmp_path / "m", architecture)
    if fused:
        change(fuse_experts(folder), lambda tensors: tensors.pop(next(n for n in tensors if n.endswith("s.down_proj"))))
        lost = r"experts\.0\.\w+\.weight"
    else:
        found = next(
            name for name in load_file(folder / "model.safetensors") if re.search(r"1\.mlp.*3\.down|3\.w2", name)
        )
        change(folder, lambda tensors: tensors.pop(found))
        lost = re.escape(found)
    n_lost = N_EXPERTS if fused else 1
    with pytest.raises(ModelError, match=rf"counts 4 experts, but {n_lost} of their output matrices.*e\.g\. .*{lost}"):
        edit(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        (QWEN3, "model.layers.1.mlp.experts.4.down_proj.weight"),  # one more than the router counts
        (QWEN3, "model.layers.1.mlp.experts.down_proj_bias"),
        (QWEN3, "model.layers.1.mlp.experts.w2_weight"),
        (QWEN3, "model.layers.1.mlp.experts.0.down_proj_b.weight"),
        (QWEN3, "model.layers.1.mlp.shared_expert.down_proj.weight"),
        (QWEN3, "model.layers.0.mlp.experts.down_proj"),  # in a block without a router
        (MIXTRAL, "model.layers.1.block_sparse_moe.experts.0.down_proj.weight"),
        (MIXTRAL, "model.layers.1.block_sparse_moe.output_linear.weight"),  # three axes
        ("LlamaForCausalLM", "model.layers.1.mlp.experts.down_proj"),
        ("LlamaForCausalLM", "model.layers.1.feed_forward.shared_experts.w2.weight"),
    ],
)
def test_experts_in_an_unexpected_layout_are_refused_and_never_skipped(architecture, name, tmp_path):
    folder = write_model(tmp_path / "m", architecture)
    change(folder, lambda tensors: tensors.update({name: torch.ones(4, 32, 24)}))
    with pytest.raises(ModelError, match=rf"^{re.escape(name)} is not a tensor that {architecture} is known to have"):
        edit(folder, tmp_path / "out")
    assert edit(
        folder, tmp_path / "out", layers="0" if ".1." in name else "1"
    )  # blocks that are not edited may hold it


def test_experts_held_twice_or_beside_a_dense_mlp_are_refused(tmp_path):
    folder = write_model(tmp_path / "m", QWEN3)
    change(folder, lambda tensors: tensors.update({FUSED: torch.ones(4, 32, 24)}))
    with pytest.raises(ModelError, match="has experts in .* and also in tensors of their own"):
        edit(folder, tmp_path / "out")
    folder = write_model(tmp_path / "both", QWEN3)
    change(folder, lambda tensors: tensors.update({"model.layers.1.mlp.down_proj.weight": torch.ones(32, 48)}))
    with pytest.raises(ModelError, match=r"layers\.1 has experts and a dense mlp\.down_proj\.weight as well"):
        edit(folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.ones(3, 32, 24), r"shape \[3, 32, 24\]; expected 4 matrices"),
        (torch.ones(4, 24, 32), r"shape \[4, 24, 32\]; expected 32 \(d_model\) along axis 1"),
        (torch.ones(4, 32), r"shape \[4, 32\]; expected 4 matrices"),
        (torch.ones(4, 32, 24).to(torch.float8_e4m3fn), "stored as F8_E4M3"),
    ],
)
def test_a_tensor_of_experts_with_another_shape_or_dtype_is_refused(values, message, tmp_path):
    folder = fuse_experts(write_model(tmp_path / "m", QWEN3))
    change(folder, lambda tensors: tensors.update({FUSED: values}))
    with pytest.raises(ModelError, match=message):
        edit(folder, tmp_path / "out")


def test_a_block_with_neither_experts_nor_a_dense_mlp_is_refused(tmp_path):
    folder = write_model(tmp_path / "m", QWEN3)
    change(folder, lambda tensors: tensors.pop("model.layers.0.mlp.down_proj.weight"))
    with pytest.raises(ModelError, match=r"not in the model's files, e\.g\. model\.layers\.0\.mlp\.down_proj\.weight"):
        edit(folder, tmp_path / "out")


def test_verify_finds_one_expert_that_was_left_as_it_was(folder, tmp_path):
    edit(folder, tmp_path / "out", 0.5)
    name = next(record["name"] for record in read_manifest(tmp_path / "out")["tensors"] if "expert" in record["name"])
    original = load_file(folder / "model.safetensors")[name]

    def put_back(tensors):  # the last expert, of four or of one in this tensor
        tensors[name].view(-1, *original.shape[-2:])[-1] = original.view(-1, *original.shape[-2:])[-1]

    change(tmp_path / "out", put_back)
    faults = verify(tmp_path / "out").faults
    assert [fault.split(":")[0] for fault in faults if "keeps a component" in fault] == [name]
