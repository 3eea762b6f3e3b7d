"""Orthogonalized checkpoints: what they edit, what they keep, how they fail. Their effect is in test_surgery_equivalence."""

import errno
import hashlib
import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_models import logits, write_model

from surgery.architecture.entry import IN_OUT, Architecture, Output
from surgery.architecture.table import ARCHITECTURES, entry_of
from surgery.commands.summary import render, summarize
from surgery.console.errors import (
    AlphaError,
    ArtifactError,
    DiskError,
    LayerRangeError,
    ModelError,
    OutputExistsError,
    ShapeError,
)
from surgery.files import shards
from surgery.files.artifacts import file_sha256
from surgery.files.shards import read_shard, read_shards, tensors_by_name
from surgery.model.models import describe_model, is_tied, load_model, load_tokenizer, model_fingerprint
from surgery.reading.hooks import ablated
from surgery.residual.operator import ablate
from surgery.residual.subspace import random_subspace
from surgery.weights import checkpoint as module
from surgery.weights.checkpoint import orthogonalize
from surgery.weights.edits import plan_edits
from surgery.weights.manifest import BASIS_FILE, FILE, read_manifest
from surgery.weights.verify import verify

LLAMA = "LlamaForCausalLM"
BASIS = random_subspace(32, 4, seed=4).basis
# Float32: the edit rounds the weights once (6e-8) and sums run in another order; d_model 32, up to twelve blocks.
RELATIVE = 5e-5


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("llama") / "m", LLAMA)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("sharded") / "m", LLAMA, shards=True)


@pytest.fixture
def edit(tmp_path):
    """Orthogonalize a folder into tmp_path/out and return that folder."""

    def run(folder, basis=BASIS, alpha=1.0, **options):
        orthogonalize(describe_model(folder), basis, alpha, tmp_path / "out", **options)
        return tmp_path / "out"

    return run


def load(folder):
    return load_model(describe_model(folder))


def tensors_of(folder):
    return {name: value for file in sorted(folder.glob("*.safetensors")) for name, value in load_file(file).items()}


def changed_names(before, after):
    before, after = tensors_of(before), tensors_of(after)
    return {name for name in before if not torch.equal(before[name], after[name])}


def close(a, b):
    return (a - b).abs().max() <= RELATIVE * b.abs().max()


def contents(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_square_matrix_is_edited_on_its_output_side(llama, edit):
    name = "model.layers.0.self_attn.o_proj.weight"
    before, after = tensors_of(llama)[name], tensors_of(edit(llama))[name]
    assert before.shape == (32, 32)
    assert (BASIS @ after).norm() <= 1e-5 * (BASIS @ before).norm()  # float32: products over 32 terms, one rounding
    assert (after @ BASIS.T).norm() > 0.5 * (before @ BASIS.T).norm()


def test_a_declared_input_first_layout_is_edited_along_its_last_axis(tmp_path, monkeypatch, edit):
    # Mistral has no biases, and its up_proj, [48, 32], has the shape of a Conv1D that maps 48 to 32.
    folder = write_model(tmp_path / "m", "MistralForCausalLM")
    entry = Architecture("MistralForCausalLM", mlp=Output("mlp.up_proj"), weight_layout=IN_OUT)
    monkeypatch.setitem(ARCHITECTURES, "MistralForCausalLM", entry)
    before = tensors_of(folder)
    plan = plan_edits(entry, tensors_by_name(read_shards(folder)), (0,), 32, embeddings=False)
    assert [found.output_axis for found in plan.values()] == [1, 1]
    after = tensors_of(edit(folder))
    name = "model.layers.0.self_attn.o_proj.weight"
    assert (after[name] @ BASIS.T).norm() <= 1e-5 * (before[name] @ BASIS.T).norm()
    assert (BASIS @ after[name]).norm() > 0.5 * (BASIS @ before[name]).norm()


def test_biases_of_edited_matrices_are_edited_too(llama, edit):
    before, after = tensors_of(llama), tensors_of(edit(llama))
    for name in ("model.layers.1.self_attn.o_proj.bias", "model.layers.1.mlp.down_proj.bias"):
        assert (BASIS @ after[name]).norm() < 1e-5 < (BASIS @ before[name]).norm()


def test_layer_one_is_not_layer_ten(tmp_path, edit):
    folder = write_model(tmp_path / "deep", "MistralForCausalLM", n_layers=12)
    changed = changed_names(folder, edit(folder, layers=[1]))
    assert changed == {"model.layers.1.self_attn.o_proj.weight", "model.layers.1.mlp.down_proj.weight"}


def test_all_layers_means_the_first_and_the_last_too(tmp_path, edit):
    folder = write_model(tmp_path / "deep", "MistralForCausalLM", n_layers=12)
    changed = changed_names(folder, edit(folder))
    assert {int(name.split(".")[2]) for name in changed} == set(range(12)) and len(changed) == 24


def test_alpha_scales_what_is_left_and_is_not_ignored(llama, tmp_path):
    left = {}
    for alpha in (0.5, 1.0, 1.5):
        manifest = orthogonalize(describe_model(llama), BASIS, alpha, tmp_path / f"a{alpha}")
        record = next(entry for entry in manifest["tensors"] if entry["name"].endswith("0.mlp.down_proj.weight"))
        left[alpha] = record["component_after"] / record["component_before"]
        signed = BASIS @ tensors_of(tmp_path / f"a{alpha}")[record["name"]]
        expected = (1 - alpha) * (BASIS @ tensors_of(llama)[record["name"]])
        assert torch.allclose(signed, expected, atol=1e-5)  # 1.5 reverses the sign: the norm alone would not show it
    assert left == {
        0.5: pytest.approx(0.5, abs=1e-5),
        1.0: pytest.approx(0, abs=1e-5),
        1.5: pytest.approx(0.5, abs=1e-5),
    }


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_are_edited_in_float32_and_rounded_once(tmp_path, edit, dtype):
    folder = write_model(tmp_path / "half", "Qwen2ForCausalLM", dtype)
    name = "model.layers.1.mlp.down_proj.weight"
    before, after = tensors_of(folder)[name], tensors_of(edit(folder))[name]
    assert after.dtype == dtype
    exact = before.double() - BASIS.double().T @ (BASIS.double() @ before.double())
    # Rounding the exact result once; float32 sums may flip a rare tie, never by more than one step.
    assert (after == exact.to(dtype)).float().mean() > 0.99
    ratio = (BASIS @ after.float()).norm() / (BASIS @ before.float()).norm()
    assert 1e-6 < ratio < (0.005 if dtype == torch.bfloat16 else 0.001)  # the dtype's rounding floor, not zero
    assert verify(tmp_path / "out").ok


def test_a_single_file_keeps_header_order_and_every_byte_that_is_not_edited(llama, edit):
    out = edit(llama)
    before, after = read_shard(llama / "model.safetensors"), read_shard(out / "model.safetensors")
    assert json.dumps(after.header) == json.dumps(before.header)
    assert [t.name for t in after.tensors] == [t.name for t in before.tensors]
    with safe_open(out / "model.safetensors", "pt") as handle:
        assert handle.metadata() == {"format": "pt"}
    edited = {record["name"] for record in read_manifest(out)["tensors"]}
    assert changed_names(llama, out) == edited and len(edited) == 8
    assert not (out / shards.INDEX_FILE).exists()


def test_shards_keep_their_layout_and_the_model_loads(sharded, edit):
    out = edit(sharded)
    names = sorted(path.name for path in sharded.glob("*.safetensors"))
    assert len(names) > 3 and sorted(path.name for path in out.glob("*.safetensors")) == names
    assert (out / shards.INDEX_FILE).read_bytes() == (sharded / shards.INDEX_FILE).read_bytes()
    for name in names:
        assert read_shard(out / name).header == read_shard(sharded / name).header
    model = load(sharded)
    with ablated(model, BASIS, site="writes"):
        assert close(logits(load(out)), logits(model))


def test_other_files_are_kept_and_other_copies_of_the_weights_left_out(llama, tmp_path, edit):
    folder = shutil.copytree(llama, tmp_path / "m")
    (folder / "original").mkdir()
    for name in ("pytorch_model.bin", "consolidated.safetensors", "original/consolidated.00.pth", "model.gguf"):
        (folder / name).write_bytes(b"weights")
    (folder / "original" / "params.json").write_text("{}")
    (folder / "LICENSE").write_text("terms")
    out = edit(folder)
    ours = {FILE, "README.md", BASIS_FILE, "vllm_refusal"}
    left_out = {"pytorch_model.bin", "consolidated.safetensors", "original/consolidated.00.pth", "model.gguf"}
    assert set(contents(out)) == set(contents(folder)) - left_out | ours
    assert set(read_manifest(out)["left_out"]) == left_out
    for name in ("config.json", "tokenizer.json", "chat_template.jinja", "generation_config.json", "LICENSE"):
        assert (out / name).read_bytes() == (folder / name).read_bytes()
    assert load_tokenizer(describe_model(out)).get_chat_template()


def test_links_of_a_hub_snapshot_become_files(llama, tmp_path, edit):
    folder = tmp_path / "snapshot"
    folder.mkdir()
    for path in llama.iterdir():
        (folder / path.name).symlink_to(path)
    out = edit(folder)
    assert not any(path.is_symlink() for path in out.rglob("*"))
    assert changed_names(llama, out)


def test_the_manifest_and_the_model_card_say_that_it_is_edited(llama, tmp_path, edit):
    folder = shutil.copytree(llama, tmp_path / "m")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Original card\n")
    out = edit(folder, alpha=1.5, layers="1", source={"path": "s", "sha256": "abc", "source_layers": [3, 4]})
    manifest = read_manifest(out)
    assert manifest["edited"] is True and "remove refusals" in manifest["warning"]
    assert (manifest["alpha"], manifest["layers"], manifest["basis"]["rank"]) == (1.5, "1", 4)
    assert manifest["base_model"] == describe_model(folder).to_json()
    assert manifest["source"]["sha256"] == "abc" and manifest["basis"]["source_layers"] == [3, 4]
    assert manifest["fingerprint"] == model_fingerprint(out) != model_fingerprint(folder)
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlicense: mit\n---\n# Edited checkpoint") and card.endswith("# Original card\n")


def test_untied_embeddings_are_edited_on_request_and_the_unembedding_never(llama, edit):
    plain = changed_names(llama, edit(llama))
    assert "model.embed_tokens.weight" not in plain
    out = edit(llama, embeddings=True, force=True)
    assert changed_names(llama, out) == plain | {"model.embed_tokens.weight"}
    after = tensors_of(out)["model.embed_tokens.weight"]
    assert (after @ BASIS.T).norm() <= 1e-5 * (tensors_of(llama)["model.embed_tokens.weight"] @ BASIS.T).norm()
    assert read_manifest(out)["untied"] is False and verify(out).ok


@pytest.mark.parametrize("shards", [False, True])
def test_tied_embeddings_are_untied_and_the_unembedding_keeps_its_values(tmp_path, edit, shards):
    folder = write_model(tmp_path / "tied", "Qwen2ForCausalLM", tied=True, shards=shards)
    assert "lm_head.weight" not in tensors_of(folder)
    out = edit(folder, embeddings=True)
    before, after = tensors_of(folder), tensors_of(out)
    assert torch.equal(after["lm_head.weight"], before["model.embed_tokens.weight"])
    assert not torch.equal(after["model.embed_tokens.weight"], before["model.embed_tokens.weight"])
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False
    model, edited = load(folder), load(out)
    assert torch.equal(edited.lm_head.weight, model.lm_head.weight)
    assert not torch.equal(edited.lm_head.weight, edited.model.embed_tokens.weight)
    # The reference: ablate the embeddings' output and all writes of the tied model.
    handle = model.model.embed_tokens.register_forward_hook(lambda _module, _args, output: ablate(output, BASIS))
    with ablated(model, BASIS, site="writes"):
        assert close(logits(edited), logits(model))
    handle.remove()
    assert verify(out).ok


def store_the_head_too(folder):
    """Store a tied model's unembedding beside its embedding, as some publishers do."""
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_a_tied_unembedding_that_the_files_store_too_is_untied_like_any_other(tmp_path, edit):
    folder = store_the_head_too(write_model(tmp_path / "tied", "Qwen2ForCausalLM", tied=True))
    out = edit(folder, embeddings=True)
    assert is_tied(folder) and not is_tied(out) and read_manifest(out)["untied"] is True
    assert tensors_of(out).keys() == tensors_of(folder).keys()
    assert torch.equal(load(out).lm_head.weight, tensors_of(folder)["model.embed_tokens.weight"])
    assert verify(out).ok


def test_a_config_that_ties_the_unembedding_to_an_edited_embedding_is_a_fault(tmp_path, edit):
    out = edit(write_model(tmp_path / "tied", "Qwen2ForCausalLM", tied=True), embeddings=True)
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    assert any("config.json ties lm_head to the edited embedding" in fault for fault in verify(out).faults)


DRAFTS = ("mtp.layers.0.mlp.down_proj.weight", "mtp.fc.weight", "model.layers.2.eh_proj.weight")


def test_tensors_of_a_draft_head_are_said_to_be_unedited(llama, tmp_path, edit):
    folder = shutil.copytree(llama, tmp_path / "m")
    drafts = {name: torch.ones(32, 32) for name in DRAFTS}
    save_file(load_file(folder / "model.safetensors") | drafts, folder / "model.safetensors", {"format": "pt"})
    out = edit(folder)
    (note,) = read_manifest(out)["notes"]
    assert read_manifest(out)["draft_tensors"] == sorted(DRAFTS)
    assert (
        "3 tensors of a draft head" in note
        and "model.layers.2.eh_proj.weight" in note
        and "speculative decoding" in note
    )
    assert note in (out / "README.md").read_text() and any("draft head" in line for line in verify(out).notes)
    assert changed_names(folder, out).isdisjoint(DRAFTS) and f"note: {note}" in render(summarize(out))


def test_a_model_without_a_draft_head_has_no_note_of_one(llama, edit):
    out = edit(llama)
    assert read_manifest(out)["draft_tensors"] == read_manifest(out)["notes"] == verify(out).notes == []


@pytest.mark.parametrize(("architecture", "noted"), [("Gemma2ForCausalLM", True), ("Qwen2ForCausalLM", False)])
def test_where_vllm_would_tie_an_untied_unembedding_again_the_user_is_told(tmp_path, edit, architecture, noted):
    folder = write_model(tmp_path / "tied", architecture, tied=True)
    untied, card = read_manifest(edit(folder, embeddings=True)), (tmp_path / "out" / "README.md").read_text()
    assert untied["untied"] and bool(untied["notes"]) is noted and ("In vLLM" in card) is noted
    shutil.rmtree(tmp_path / "out")
    assert read_manifest(edit(folder))["notes"] == []


def test_the_index_of_an_untied_model_counts_the_new_tensor(tmp_path, edit):
    folder = write_model(tmp_path / "tied", "Qwen2ForCausalLM", tied=True, shards=True)
    before = json.loads((folder / shards.INDEX_FILE).read_text())
    after = json.loads((edit(folder, embeddings=True) / shards.INDEX_FILE).read_text())
    assert after["metadata"]["total_size"] == before["metadata"]["total_size"] + 260 * 32 * 4
    assert set(after["weight_map"]) == {*before["weight_map"], "lm_head.weight"}
    stored = tensors_by_name(read_shards(tmp_path / "out"))
    assert all(stored[name].path.name == file for name, file in after["weight_map"].items())


def test_tied_embeddings_stay_tied_when_they_are_not_edited(tmp_path, edit):
    folder = write_model(tmp_path / "tied", "Qwen2ForCausalLM", tied=True)
    out = edit(folder)
    assert "lm_head.weight" not in tensors_of(out) and read_manifest(out)["untied"] is False
    assert (out / "config.json").read_bytes() == (folder / "config.json").read_bytes()


def test_a_missing_matrix_is_an_error_not_a_smaller_edit(llama, tmp_path, edit):
    folder = shutil.copytree(llama, tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.down_proj.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"1 of .* e\.g\. model\.layers\.1\.mlp\.down_proj\.weight"):
        edit(folder)
    assert contents(tmp_path) == contents_of_only(tmp_path, "m")


def contents_of_only(parent, name):
    """What `contents(parent)` gives when nothing but the folder `name` is there."""
    return sorted([name, *(f"{name}/{path}" for path in contents(parent / name))])


def test_models_that_cannot_be_edited_are_refused_with_the_reason(llama, tmp_path, edit):
    folder = shutil.copytree(llama, tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.0.self_attn.o_proj.weight"
    save_file({**tensors, name: tensors[name].to(torch.float8_e4m3fn)}, folder / "model.safetensors")
    with pytest.raises(ModelError, match="stored as F8_E4M3"):
        edit(folder)
    save_file({**tensors, name: tensors[name].double()}, folder / "model.safetensors")
    with pytest.raises(ModelError, match="stored as F64"):
        edit(folder)
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    quantized = {**config, "quantization_config": {"quant_method": "gptq", "bits": 4}}
    (folder / "config.json").write_text(json.dumps(quantized))
    with pytest.raises(ModelError, match="quantized"):
        edit(folder)
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["NovelForCausalLM"]}))
    with pytest.raises(ModelError, match="NovelForCausalLM is not supported"):
        edit(folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="no safetensors weights"):
        edit(folder)
    assert contents(tmp_path) == contents_of_only(tmp_path, "m")


def test_bad_arguments_are_refused_before_anything_is_written(llama, tmp_path, edit):
    for alpha, message in ((float("nan"), "finite"), (0.0, "leave every weight")):
        with pytest.raises(AlphaError, match=message):
            edit(llama, alpha=alpha)
    with pytest.raises(ShapeError, match="d_model 8 but .* has 32"):
        edit(llama, basis=torch.eye(8)[:1])
    with pytest.raises(ArtifactError, match="not orthonormal"):
        edit(llama, basis=BASIS * 2)
    with pytest.raises(LayerRangeError, match="layer 2 is outside"):
        edit(llama, layers="1-2")
    assert contents(tmp_path) == []


def test_an_existing_output_is_kept_without_force_and_only_checkpoints_are_replaced(llama, tmp_path, edit):
    out = edit(llama, alpha=0.5)
    with pytest.raises(OutputExistsError):
        edit(llama)
    assert read_manifest(out)["alpha"] == 0.5
    edit(llama, force=True)
    assert read_manifest(out)["alpha"] == 1.0 and contents(tmp_path)[0] == "out"
    (out / FILE).unlink()
    with pytest.raises(ArtifactError, match="not an edited checkpoint"):
        edit(llama, force=True)
    info = describe_model(llama)
    for inside in (llama, llama / "out", llama.parent):
        with pytest.raises(ArtifactError, match="overlaps"):
            orthogonalize(info, BASIS, 1.0, inside, force=True)
    with pytest.raises(ArtifactError, match="does not exist"):
        orthogonalize(info, BASIS, 1.0, tmp_path / "no" / "out")


def test_a_failure_on_the_way_leaves_nothing_and_keeps_what_was_there(llama, tmp_path, edit, monkeypatch):
    out = edit(llama, alpha=0.5)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    def full(*_args):
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("write_edited", "write_model_card"):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, full)
            with pytest.raises(DiskError, match="No space left"):
                edit(llama, force=True)
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_too_little_disk_space_is_found_beforehand(llama, tmp_path, edit, monkeypatch):
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _path: usage(10, 0, 1000))
    with pytest.raises(DiskError, match="GB are free"):
        edit(llama)
    assert contents(tmp_path) == []


def test_an_overflowing_edit_is_an_error(tmp_path, edit):
    folder = write_model(tmp_path / "half", "Qwen2ForCausalLM", torch.float16)
    with pytest.raises(ModelError, match=r"\.weight holds values that are not finite.*alpha 1e\+06"):
        edit(folder, alpha=1e6)
    assert not (tmp_path / "out").exists()


def test_large_tensors_in_several_blocks_give_the_same_values(llama, tmp_path, edit, monkeypatch):
    expected = edit(llama, embeddings=True)
    monkeypatch.setattr("surgery.weights.matrices._BLOCK_VALUES", 7 * 48)
    monkeypatch.setattr("surgery.files.shards._BLOCK", 999)
    monkeypatch.setattr("surgery.weights.measure._BLOCK", 1000)
    orthogonalize(describe_model(llama), BASIS, 1.0, tmp_path / "second", embeddings=True)
    before, after = tensors_of(expected), tensors_of(tmp_path / "second")
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)  # float32 sums may be reordered
    assert before.keys() == after.keys() and verify(tmp_path / "second").ok


_THREADS = """
import sys, torch
from surgery.model.models import describe_model
from surgery.weights.checkpoint import orthogonalize
from surgery.residual.subspace import random_subspace
from surgery.weights.verify import verify
torch.set_num_threads(3)
orthogonalize(describe_model(sys.argv[1]), random_subspace(32, 3, seed=1).basis, 1.0, sys.argv[2])
verify(sys.argv[2])
print(torch.get_num_threads())
"""


def test_the_number_of_threads_is_what_it_was(llama, tmp_path):
    """In a process of its own: once an engine has run in one, vLLM does not let the number be changed."""
    arguments = [sys.executable, "-c", _THREADS, str(llama), str(tmp_path / "out")]
    assert subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.strip() == "3"


def test_the_manifest_holds_the_hashes_of_what_was_read_and_written(sharded, edit):
    out = edit(sharded)
    manifest, base = read_manifest(out), tensors_by_name(read_shards(sharded))
    for record in manifest["tensors"]:
        assert record["base_sha256"] == hashlib.sha256(shards.read_bytes(base[record["name"]])).hexdigest()
    written = {name for name in contents(out) if (out / name).is_file()}
    assert manifest["files"].keys() == written - {FILE, "README.md"}
    assert all(sha256 == file_sha256(out / name) for name, sha256 in manifest["files"].items())


def test_progress_counts_bytes_to_the_end(llama, edit):
    calls = []
    edit(llama, progress=lambda done, total: calls.append((done, total)))
    assert calls == sorted(calls) and len(calls) == 9 and calls[-1][0] == calls[-1][1]


def test_the_basis_is_out_of_the_loaders_sight(llama, edit):
    out = edit(llama)
    assert (out / BASIS_FILE).is_file() and [path.name for path in out.glob("*.safetensors")] == ["model.safetensors"]


def test_an_edited_checkpoint_can_be_edited_again(llama, tmp_path, edit):
    first = edit(llama)
    manifest = orthogonalize(describe_model(first), random_subspace(32, 1, seed=8).basis, 1.0, tmp_path / "twice")
    assert manifest["base_manifest_sha256"] and verify(tmp_path / "twice").ok
    assert entry_of(manifest["base_model"]["architecture"])
