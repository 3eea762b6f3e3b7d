"""Verification finds every way in which an edited checkpoint's bytes can differ from its claims."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import write_model

from surgery.console.errors import ArtifactError, MismatchError
from surgery.files.artifacts import file_sha256
from surgery.model.models import describe_model, model_fingerprint
from surgery.residual.subspace import Subspace, random_subspace
from surgery.weights.checkpoint import orthogonalize
from surgery.weights.manifest import BASIS_FILE, FILE
from surgery.weights.verify import verify

BASIS = random_subspace(32, 3, seed=0).basis
DOWN = "model.layers.1.mlp.down_proj.weight"
NORM = "model.norm.weight"
DOWN_UNSAMPLED = 300  # a value of DOWN (32 x 48 float32) that the fingerprint does not read


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("base") / "m", "LlamaForCausalLM")


@pytest.fixture(scope="module")
def edited(base, tmp_path_factory):
    out = tmp_path_factory.mktemp("edited") / "out"
    orthogonalize(describe_model(base), BASIS, 1.5, out)
    return out


@pytest.fixture
def copy(edited, tmp_path):
    return shutil.copytree(edited, tmp_path / "copy")


def change_tensors(folder, change, forge_hash=True):
    """Apply `change` to the tensors and make the manifest's fingerprint (and hash) agree, as a careful forger would."""
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    change(tensors)
    save_file(tensors, weights, metadata={"format": "pt"})
    change_manifest(folder, lambda manifest: manifest.update(fingerprint=model_fingerprint(folder)))
    if forge_hash:
        change_manifest(folder, lambda manifest: manifest["files"].update({weights.name: file_sha256(weights)}))


def change_manifest(folder, change):
    manifest = json.loads((folder / FILE).read_text())
    change(manifest)
    (folder / FILE).write_text(json.dumps(manifest))


def record_of(manifest, name=DOWN):
    return next(record for record in manifest["tensors"] if record["name"] == name)


def hide_base(folder):
    change_manifest(folder, lambda manifest: manifest["base_model"].update(path="/no/such/folder"))


def set_value(name, index, value):
    def change(tensors):
        tensors[name][index] = value

    return change


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.5])
def test_an_honest_checkpoint_passes_with_the_expected_ratio(tmp_path, dtype, alpha):
    folder = write_model(tmp_path / "m", "LlamaForCausalLM", dtype)
    orthogonalize(describe_model(folder), BASIS, alpha, tmp_path / "out", embeddings=True)
    report = verify(tmp_path / "out")
    assert report.ok and report.faults == [] and report.base == str(folder)
    assert (report.n_edited, report.n_untouched) == (9, 26)
    tolerance = (
        1e-5 if dtype == torch.float32 else 0.02
    )  # bf16's floor is some 0.002 of the norm; a bias has one column
    assert report.ratio_low == pytest.approx(abs(1 - alpha), abs=tolerance)
    assert report.ratio_high == pytest.approx(abs(1 - alpha), abs=tolerance)


def test_without_the_base_model_the_rest_is_still_checked_and_said(copy):
    hide_base(copy)
    report = verify(copy)
    assert report.ok and report.base is None and "not compared" in report.notes[0]
    assert report.ratio_high == pytest.approx(0.5, abs=1e-5)


def test_a_changed_base_model_is_not_compared_with_and_a_given_one_must_be_the_right_one(copy, base, tmp_path):
    other = write_model(tmp_path / "other", "LlamaForCausalLM", seed=5)
    change_manifest(copy, lambda manifest: manifest["base_model"].update(path=str(other)))
    report = verify(copy)
    assert report.base is None and "fingerprint" in report.notes[0]
    assert verify(copy, base=base).base == str(base)
    with pytest.raises(MismatchError, match="give the folder of"):
        verify(copy, base=other)
    with pytest.raises(ArtifactError, match="no such folder"):
        verify(copy, base=tmp_path / "nowhere")


@pytest.mark.parametrize("name", [DOWN, NORM])
def test_a_byte_changed_in_any_tensor_is_found_by_the_hash_of_its_file(copy, name):
    change_tensors(copy, set_value(name, 1, 0.123), forge_hash=False)
    hide_base(copy)
    assert any(fault.startswith("model.safetensors: its bytes hash to") for fault in verify(copy).faults)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", BASIS_FILE])
def test_other_files_are_held_to_their_hashes_too(copy, name):
    if name != BASIS_FILE:
        (copy / name).write_text((copy / name).read_text() + " ")
        assert any(fault.startswith(f"{name}: its bytes hash to") for fault in verify(copy).faults)
        (copy / name).unlink()
        assert f"{name}: listed in the manifest but not there" in verify(copy).faults
    change_manifest(copy, lambda manifest: manifest["files"].pop("model.safetensors"))
    assert "model.safetensors: holds weights but is not listed in the manifest" in verify(copy).faults


def test_the_model_card_may_be_rewritten(copy):
    (copy / "README.md").write_text("# Ours")
    assert verify(copy).ok


def test_an_edited_tensor_of_a_base_that_differs_in_unsampled_bytes_is_found(copy, base, tmp_path):
    other = shutil.copytree(base, tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    tensors[DOWN].view(-1)[DOWN_UNSAMPLED] *= 1 + 2**-20  # within the tolerance of the edit, outside the fingerprint
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    assert model_fingerprint(other) == model_fingerprint(base)
    faults = verify(copy, base=other).faults
    assert len(faults) == 1 and faults[0].startswith(f"{DOWN}: the base model's bytes hash to")


def test_a_weight_put_back_is_found_even_when_the_hash_agrees(copy, base):
    original = load_file(base / "model.safetensors")[DOWN]
    change_tensors(copy, lambda tensors: tensors.update({DOWN: original}))
    faults = verify(copy).faults
    assert any("keeps a component" in fault for fault in faults)
    assert any("is not the base model's tensor with the edit applied" in fault for fault in faults)
    hide_base(copy)
    assert ["keeps a component" in fault for fault in verify(copy).faults] == [True]


def test_an_edit_on_the_wrong_side_of_a_square_matrix_is_found(copy, base):
    name = "model.layers.0.self_attn.o_proj.weight"
    original = load_file(base / "model.safetensors")[name]
    change_tensors(copy, lambda tensors: tensors.update({name: original - 1.5 * original @ BASIS.T @ BASIS}))
    assert any(fault.startswith(f"{name}: keeps a component") for fault in verify(copy).faults)


def test_an_alpha_of_the_wrong_sign_is_found_with_the_base_though_the_norm_is_right(copy, base):
    original = load_file(base / "model.safetensors")[DOWN]
    change_tensors(copy, lambda tensors: tensors.update({DOWN: original - 0.5 * BASIS.T @ (BASIS @ original)}))
    faults = verify(copy).faults
    assert len(faults) == 1 and "is not the base model's tensor with the edit applied" in faults[0]


def test_damage_outside_the_subspace_is_found_with_the_base(copy):
    outside = torch.randn(32, 48, generator=torch.Generator().manual_seed(0)) * 1e-3
    outside -= BASIS.T @ (BASIS @ outside)
    change_tensors(copy, lambda tensors: tensors.update({DOWN: tensors[DOWN] + outside}))
    assert [("edit applied" in fault) for fault in verify(copy).faults] == [True]


def test_a_manifest_that_claims_another_alpha_is_found(copy):
    change_manifest(copy, lambda manifest: manifest.update(alpha=1.0))
    hide_base(copy)
    faults = verify(copy).faults
    assert len(faults) == 8 and all("keeps a component" in fault for fault in faults)


def test_an_unlisted_change_is_found_by_comparison_with_the_base(copy):
    change_tensors(copy, set_value(NORM, 3, 1.5))
    assert verify(copy).faults == [f"{NORM}: differs from the base model but is not listed as edited"]


def test_a_change_after_the_edit_is_found_by_the_fingerprint_without_the_base(copy):
    tensors = load_file(copy / "model.safetensors")
    tensors[NORM][3] = 1.5
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    hide_base(copy)
    changed, hashed = verify(copy).faults
    assert changed == "the weights' fingerprint is not the manifest's: they were changed after the edit"
    assert hashed.startswith("model.safetensors: its bytes hash to")


@pytest.mark.parametrize("name", [DOWN, NORM])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_values_that_are_not_finite_are_found(copy, name, value):
    change_tensors(copy, set_value(name, 1, value))
    assert any(fault.startswith(f"{name}: ") and "not finite" in fault for fault in verify(copy).faults)


def test_a_tensor_dropped_from_the_list_or_from_the_files_is_found(copy):
    change_manifest(copy, lambda manifest: manifest["tensors"].remove(record_of(manifest)))
    faults = verify(copy).faults
    assert f"{DOWN}: to be edited but not listed" in faults
    assert f"{DOWN}: differs from the base model but is not listed as edited" in faults
    change_tensors(copy, lambda tensors: tensors.pop(NORM))
    assert f"{NORM}: in the base model but not in the checkpoint" in verify(copy).faults
    change_tensors(copy, lambda tensors: tensors.pop(DOWN))
    assert any("1 of 8 tensors" in fault for fault in verify(copy).faults)


def test_a_tensor_listed_beyond_the_edit_is_found(copy):
    extra = {"name": NORM, "file": "model.safetensors", "dtype": "F32", "shape": [32], "output_axis": 0}
    extra |= {"component_before": 1.0, "component_after": 0.0, "component_scaled": 1.0}
    extra |= {"n_not_scaled": 0, "base_sha256": "0" * 64}
    change_manifest(copy, lambda manifest: manifest["tensors"].append(extra))
    assert f"{NORM}: listed but not to be edited" in verify(copy).faults


def test_another_subspace_than_the_manifest_names_is_found(copy):
    Subspace(random_subspace(32, 3, seed=7).basis).save(copy / BASIS_FILE, force=True)
    faults = verify(copy).faults
    assert any("is not the subspace the manifest names" in fault for fault in faults)
    sha256 = file_sha256(copy / BASIS_FILE)
    change_manifest(copy, lambda manifest: manifest["basis"].update(sha256=sha256))
    assert any("keeps a component" in fault for fault in verify(copy).faults)


def test_folders_that_cannot_be_verified_are_one_clear_line(base, copy):
    with pytest.raises(ArtifactError, match="not an edited checkpoint"):
        verify(base)
    change_manifest(copy, lambda manifest: manifest.pop("alpha"))
    with pytest.raises(ArtifactError, match="its manifest lacks 'alpha'"):
        verify(copy)
    change_manifest(copy, lambda manifest: manifest.update(kind="other"))
    with pytest.raises(ArtifactError, match="expected a manifest of kind"):
        verify(copy)
