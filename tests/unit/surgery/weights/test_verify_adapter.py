"""Verification finds every way in which an adapter's factors can differ from the edit that its manifest states."""

import json
import re
import shutil

import pytest
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_models import write_model

from eval.cli import main
from surgery.architecture.table import ARCHITECTURES
from surgery.console.errors import ArtifactError, MismatchError
from surgery.files.artifacts import file_sha256
from surgery.model.models import describe_model
from surgery.residual.subspace import random_subspace
from surgery.weights.adapter import WEIGHTS, write_adapter
from surgery.weights.manifest import ADAPTER_CONFIG, FILE
from surgery.weights.verify_adapter import verify_adapter

BASIS = random_subspace(32, 3, seed=0).basis
OUT = "model.layers.0.self_attn.o_proj"  # square
A, B = (f"base_model.model.{OUT}.lora_{letter}.weight" for letter in "AB")
NO_BIASES = {"attention_bias": False, "mlp_bias": False}
WITHOUT_BIASES = sorted(ARCHITECTURES.keys() - {"GPTNeoXForCausalLM"})  # which always has them, and so no adapter


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("base") / "m", "Qwen2ForCausalLM")


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    out = tmp_path_factory.mktemp("adapter") / "out"
    write_adapter(describe_model(base), BASIS, 1.5, out)
    return out


@pytest.fixture
def copy(adapter, tmp_path):
    return shutil.copytree(adapter, tmp_path / "copy")


def change_manifest(folder, change):
    manifest = json.loads((folder / FILE).read_text())
    change(manifest)
    (folder / FILE).write_text(json.dumps(manifest))


def forge(folder, change):
    """Change factors, and the hash in the manifest with them."""
    with safe_open(folder / WEIGHTS, "pt") as handle:
        metadata = handle.metadata()
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata=metadata)
    change_manifest(folder, lambda manifest: manifest.update(sha256=file_sha256(folder / WEIGHTS)))


def hide_base(folder):
    change_manifest(folder, lambda manifest: manifest["base_model"].update(path="/no/such/folder"))


@pytest.mark.parametrize("architecture", WITHOUT_BIASES)
def test_an_honest_adapter_of_every_family_passes(tmp_path, architecture):
    folder = write_model(tmp_path / "m", architecture, **NO_BIASES)
    manifest = write_adapter(describe_model(folder), BASIS, 0.5, tmp_path / "out", "1")
    report = verify_adapter(tmp_path / "out")
    assert report.faults == [] and report.base == str(folder)
    assert report.n_modules == len(manifest["modules"]) >= 2


def test_without_the_base_the_rest_is_still_checked_and_said(copy):
    hide_base(copy)
    report = verify_adapter(copy)
    assert report.ok and report.base is None and "not compared" in report.notes[0]
    forge(copy, lambda tensors: tensors[B].mul_(2))
    assert any("orthonormal" in fault for fault in verify_adapter(copy).faults)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors[A].neg_(), "A is not Q W"),
        (lambda tensors: tensors[A].mul_(1.01), r"\|A\| is"),
        (lambda tensors: tensors[B].neg_(), "A is not Q W"),
        (lambda tensors: tensors[B].mul_(2 / 3), "orthonormal"),
        (lambda tensors: tensors[A].fill_(float("nan")), "not finite"),
        (lambda tensors: tensors.pop(A), "has no factors"),
        (lambda tensors: tensors.update({A: tensors[A][:2].clone()}), "factors of shape"),
        (lambda tensors: tensors.update({A: tensors[B].T.contiguous(), B: tensors[A].T.contiguous()}), "orthonormal"),
        (lambda tensors: tensors.update({A.replace("o_proj", "q_proj"): tensors[A].clone()}), "belongs to no module"),
    ],
)
def test_factors_that_are_not_the_edit_are_found_though_the_hash_agrees(copy, change, message):
    forge(copy, change)
    faults = verify_adapter(copy).faults
    assert any(re.search(message, fault) for fault in faults), faults


def test_an_adapter_made_on_the_wrong_side_of_a_square_matrix_is_found(copy, base):
    weight = load_file(base / "model.safetensors")[f"{OUT}.weight"]
    forge(copy, lambda tensors: tensors.update({A: (weight @ BASIS.T).T.contiguous()}))
    assert any("A is not Q W" in fault for fault in verify_adapter(copy).faults)


def test_a_changed_byte_is_found_by_the_hash(copy):
    data = bytearray((copy / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (copy / WEIGHTS).write_bytes(data)
    assert any("its bytes hash to" in fault for fault in verify_adapter(copy).faults)


@pytest.mark.parametrize(
    ("name", "value"), [("lora_alpha", 6), ("r", 8), ("use_rslora", True), ("alpha_pattern", {"o_proj": 9})]
)
def test_a_configuration_that_scales_the_edit_is_found(copy, name, value):
    config = json.loads((copy / ADAPTER_CONFIG).read_text())
    (copy / ADAPTER_CONFIG).write_text(json.dumps({**config, name: value}))
    assert any(name in fault for fault in verify_adapter(copy).faults)


def test_another_alpha_and_modules_left_out_are_found(copy):
    change_manifest(copy, lambda manifest: manifest["modules"].pop())
    faults = verify_adapter(copy).faults
    assert any("to be edited but not listed" in fault for fault in faults)
    assert any("belongs to no module" in fault for fault in faults)
    change_manifest(copy, lambda manifest: manifest.update(alpha=1.0))
    assert any("B is not -alpha" in fault for fault in verify_adapter(copy).faults)


def test_another_base_model_and_folders_of_another_kind_are_one_clear_line(copy, base, tmp_path):
    other = write_model(tmp_path / "other", "Qwen2ForCausalLM", seed=5)
    assert verify_adapter(copy, base=base).ok
    with pytest.raises(MismatchError, match="give the folder of"):
        verify_adapter(copy, base=other)
    with pytest.raises(ArtifactError, match="not an adapter of ours"):
        verify_adapter(base)
    change_manifest(copy, lambda manifest: manifest.pop("alpha"))
    with pytest.raises(ArtifactError, match="its manifest lacks 'alpha'"):
        verify_adapter(copy)


def test_the_command_verifies_an_adapter_as_it_does_a_checkpoint(copy):
    command = main.get_command(None, "verify")
    result = CliRunner().invoke(command, [str(copy)])
    assert result.exit_code == 0 and f"verified {copy}: rank 3 on 4 modules, recomputed from" in result.stdout
    forge(copy, lambda tensors: tensors[A].neg_())
    result = CliRunner().invoke(command, [str(copy)])
    assert result.exit_code == 1 and "FAULTY" in result.stdout and "A is not Q W" in result.stderr


def test_factors_in_half_precision_are_read_as_they_are(copy):
    forge(copy, lambda tensors: tensors.update({name: value.bfloat16() for name, value in tensors.items()}))
    assert any("A is not Q W" in fault or "orthonormal" in fault for fault in verify_adapter(copy).faults)
