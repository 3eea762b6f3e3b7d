"""The edit that keeps every output vector's norm: exactly orthogonal, unlike the usual one, and provable."""

import json
import shutil

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from tiny_models import write_model

from eval.cli import main
from surgery.console.errors import ModelError
from surgery.files.artifacts import file_sha256
from surgery.model.models import describe_model, model_fingerprint
from surgery.residual.gains import removal
from surgery.residual.subspace import Subspace, random_subspace
from surgery.weights.checkpoint import orthogonalize
from surgery.weights.manifest import FILE
from surgery.weights.verify import verify

BASIS = random_subspace(32, 4, seed=4).basis
DOWN, EMBEDDING = "model.layers.1.mlp.down_proj.weight", "model.embed_tokens.weight"
WRITES = [f"model.layers.{layer}.{part}" for layer in (0, 1) for part in ("self_attn.o_proj", "mlp.down_proj")]
# Float32: each norm is good to one rounding of its entries and of the scale.
RELATIVE = 1e-5


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("llama") / "m", "LlamaForCausalLM")


@pytest.fixture
def out(llama, tmp_path):
    orthogonalize(describe_model(llama), BASIS, 1.0, tmp_path / "out", embeddings=True, keep_norms=True)
    return tmp_path / "out"


def weights(folder):
    return load_file(folder / "model.safetensors")


def vectors(tensors, name):
    """Output vectors as rows: columns of a Linear weight, a bias as one, rows of the embedding."""
    value = tensors[name].float()
    return value.unsqueeze(0) if value.ndim == 1 else (value if name == EMBEDDING else value.T)


def edited_names():
    return [EMBEDDING, *(f"{name}.{part}" for name in WRITES for part in ("weight", "bias"))]


def forge(folder, change):
    """Change tensors, and every hash in the manifest with them."""
    tensors = weights(folder)
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    manifest = json.loads((folder / FILE).read_text())
    manifest["files"]["model.safetensors"] = file_sha256(folder / "model.safetensors")
    manifest["fingerprint"] = model_fingerprint(folder)
    (folder / FILE).write_text(json.dumps(manifest))


def usual_norm_preserving(weight):
    """The published edit: project, then scale each output coordinate (row) over all inputs back to its norm."""
    edited = weight - BASIS.T @ (BASIS @ weight)
    return edited * (weight.norm(dim=1, keepdim=True) / edited.norm(dim=1, keepdim=True))


def test_nothing_of_the_subspace_is_left_and_every_norm_is_kept(llama, out):
    before, after = weights(llama), weights(out)
    for name in edited_names():
        old, new = vectors(before, name), vectors(after, name)
        assert (new @ BASIS.T).norm() <= RELATIVE * (old @ BASIS.T).norm(), name
        assert torch.allclose(new.norm(dim=1), old.norm(dim=1), rtol=RELATIVE), name
    assert verify(out).ok


def test_the_plain_edit_shortens_and_the_usual_rescaling_brings_the_subspace_back(llama, tmp_path):
    orthogonalize(describe_model(llama), BASIS, 1.0, tmp_path / "plain")
    weight = weights(llama)[DOWN]
    plain, usual = weights(tmp_path / "plain")[DOWN], usual_norm_preserving(weight)
    assert (plain.norm(dim=0) < 0.999 * weight.norm(dim=0)).all()
    assert (BASIS @ usual).norm() > 0.01 * (BASIS @ weight).norm()  # the share that peers leave: 0.7 to 30 %


def test_verify_refuses_the_usual_rescaling_and_norms_that_were_not_kept(llama, out, tmp_path):
    usual = shutil.copytree(out, tmp_path / "usual")
    forge(usual, lambda tensors: tensors.update({DOWN: usual_norm_preserving(weights(llama)[DOWN])}))
    assert any(fault.startswith(f"{DOWN}: keeps a component") for fault in verify(usual).faults)
    forge(out, lambda tensors: tensors[DOWN][:, 5].mul_(1 + 1e-3))
    assert any(fault.startswith(f"{DOWN}: an output vector's norm is off by") for fault in verify(out).faults)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.5, 2.0])
def test_every_strength_and_dtype_keeps_norms_within_rounding(tmp_path, alpha, dtype):
    folder = write_model(tmp_path / "m", "LlamaForCausalLM", dtype)
    manifest = orthogonalize(describe_model(folder), BASIS, alpha, tmp_path / "out", keep_norms=True)
    old, new = vectors(weights(folder), DOWN), vectors(weights(tmp_path / "out"), DOWN)
    assert torch.allclose(new.norm(dim=1), old.norm(dim=1), rtol=4 * torch.finfo(dtype).eps)
    report, record = verify(tmp_path / "out"), manifest["tensors"][0]
    assert report.ok and manifest["keep_norms"] is True
    assert report.ratio_high == pytest.approx(abs(1 - alpha), abs=0.02 if dtype != torch.float32 else 1e-5)
    if alpha == 2:  # a reflection changes no norm
        assert record["component_scaled"] == pytest.approx(record["component_before"], rel=1e-4)
    else:
        assert record["component_scaled"] > 1.001 * record["component_before"]


def test_verify_holds_an_alpha_other_than_one_to_the_scaled_component_without_the_base_too(llama, tmp_path):
    out = tmp_path / "out"
    orthogonalize(describe_model(llama), BASIS, 0.5, out, keep_norms=True)
    manifest = json.loads((out / FILE).read_text())
    manifest["base_model"]["path"] = "/nowhere"
    (out / FILE).write_text(json.dumps(manifest))
    assert verify(out).ok
    manifest["keep_norms"] = False
    for record in manifest["tensors"]:
        record["component_scaled"] = record["component_before"]
    (out / FILE).write_text(json.dumps(manifest))
    assert any("keeps a component" in fault for fault in verify(out).faults)


@pytest.mark.parametrize("architecture", ["Gemma2ForCausalLM", "Olmo2ForCausalLM"])
def test_behind_a_post_norm_nothing_reaches_the_stream_and_the_raw_norms_are_kept(tmp_path, architecture):
    folder = write_model(tmp_path / "m", architecture, norm_std=0.5)
    orthogonalize(describe_model(folder), BASIS, 1.0, tmp_path / "out", keep_norms=True)
    before, after = weights(folder), weights(tmp_path / "out")
    gain = before["model.layers.1.post_feedforward_layernorm.weight"] + (architecture == "Gemma2ForCausalLM")
    probe = removal(BASIS, gain).probe
    assert (probe @ after[DOWN]).norm() <= RELATIVE * (probe @ before[DOWN]).norm()
    assert torch.allclose(after[DOWN].norm(dim=0), before[DOWN].norm(dim=0), rtol=RELATIVE)
    assert verify(tmp_path / "out").ok


def test_vectors_of_zero_stay_zero_and_those_within_the_subspace_are_counted_not_stretched(llama, tmp_path):
    folder = shutil.copytree(llama, tmp_path / "m")
    tensors = weights(folder)
    tensors[DOWN][:, 0] = 0
    tensors[DOWN][:, 1] = BASIS[0]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    manifest = orthogonalize(describe_model(folder), BASIS, 1.0, tmp_path / "out", keep_norms=True)
    after = weights(tmp_path / "out")[DOWN]
    assert after[:, 0].count_nonzero() == 0 and after[:, 1].norm() < 1e-5
    assert {record["name"]: record["n_not_scaled"] for record in manifest["tensors"]}[DOWN] == 1
    assert verify(tmp_path / "out").ok


def test_an_adapter_cannot_keep_norms_and_says_so(llama, tmp_path):
    Subspace(BASIS).save(tmp_path / "basis.safetensors")
    arguments = [str(llama), str(tmp_path / "basis.safetensors"), "--norm-preserving", "-o", str(tmp_path / "out")]
    refused = CliRunner().invoke(main.get_command(None, "adapter"), arguments)
    assert isinstance(refused.exception, ModelError) and "full rank" in str(refused.exception)
    assert not (tmp_path / "out").exists()
    written = CliRunner().invoke(main.get_command(None, "orthogonalize"), arguments)
    assert written.exit_code == 0 and "verified" in written.stdout
    assert "has its old norm" in (tmp_path / "out" / "README.md").read_text()


def test_the_change_is_of_full_rank_so_that_no_thin_adapter_can_hold_it(llama, out):
    change = weights(out)[DOWN] - weights(llama)[DOWN]
    assert torch.linalg.matrix_rank(change) > len(BASIS)
