"""LoRA adapters: what their files hold, and what is refused. Their effect is in test_surgery_equivalence."""

import json
import os
from dataclasses import replace

import pytest
import torch
from peft import PeftConfig
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_models import fuse_experts, write_model

from surgery.commands.summary import render, summarize
from surgery.console.errors import AlphaError, ArtifactError, LayerRangeError, ModelError, OutputExistsError, ShapeError
from surgery.files.artifacts import file_sha256, read_header
from surgery.model.models import describe_model
from surgery.residual.subspace import random_subspace
from surgery.weights.adapter import write_adapter
from surgery.weights.checkpoint import orthogonalize
from surgery.weights.manifest import ADAPTER_KIND, FILE, read_manifest

BASIS = random_subspace(32, 4, seed=4).basis
DOWN = "model.layers.1.mlp.down_proj"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("adapter") / "m", "Qwen2ForCausalLM")


@pytest.fixture
def written(model, tmp_path):
    return write_adapter(describe_model(model), BASIS, 1.5, tmp_path / "out", "1", source={"sha256": "abc"})


def delta(folder, module):
    tensors = load_file(folder / "adapter_model.safetensors")
    a, b = (tensors[f"base_model.model.{module}.lora_{name}.weight"] for name in "AB")
    return b @ a


def test_the_factors_are_the_edit_of_the_checkpoint(model, written, tmp_path):
    orthogonalize(describe_model(model), BASIS, 1.5, tmp_path / "edited", "1")
    before, after = load_file(model / "model.safetensors"), load_file(tmp_path / "edited/model.safetensors")
    for module in ("model.layers.1.self_attn.o_proj", DOWN):
        expected = after[f"{module}.weight"] - before[f"{module}.weight"]
        # Float32: the checkpoint rounds the whole weight (up to 1.5) once, the factors their product.
        assert torch.allclose(delta(tmp_path / "out", module), expected, atol=1e-6)
        assert expected.norm() > 0.1


def test_only_the_chosen_layers_have_factors_and_all_are_counted(written, tmp_path):
    modules = ["model.layers.1.self_attn.o_proj", DOWN]
    expected = {f"base_model.model.{module}.lora_{factor}.weight" for module in modules for factor in "AB"}
    assert load_file(tmp_path / "out/adapter_model.safetensors").keys() == expected
    assert [one["name"] for one in written["modules"]] == modules


def test_peft_reads_the_configuration(written, tmp_path, model):
    config = PeftConfig.from_pretrained(tmp_path / "out")
    assert (config.peft_type, config.r, config.lora_alpha, config.bias) == ("LORA", 4, 4, "none")
    assert config.layers_to_transform == [1] and config.base_model_name_or_path == str(model)
    ours = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert set(ours) <= set(config.to_dict())  # nothing that PEFT would warn of


def test_the_folder_says_that_it_is_an_edit_and_of_which_model(written, tmp_path, model):
    out = tmp_path / "out"
    manifest = read_manifest(out, ADAPTER_KIND)
    assert manifest == written and manifest["edited"] is True and "remove refusals" in manifest["warning"]
    assert manifest["base_model"] == describe_model(model).to_json()
    assert (manifest["alpha"], manifest["layers"], manifest["source"]) == (1.5, "1", {"sha256": "abc"})
    assert manifest["sha256"] == file_sha256(out / "adapter_model.safetensors")
    header = read_header(out / "adapter_model.safetensors", (ADAPTER_KIND,))
    assert header["model"]["fingerprint"] == manifest["base_model"]["fingerprint"] and header["alpha"] == 1.5
    with safe_open(out / "adapter_model.safetensors", "pt") as handle:
        assert handle.metadata()["format"] == "pt"
    assert "edited to remove refusals" in (out / "README.md").read_text()
    with pytest.raises(ArtifactError, match="kind orthogonalized_checkpoint"):
        read_manifest(out)


def test_show_describes_an_adapter(written, tmp_path):
    text = render(summarize(tmp_path / "out"))
    assert "LoRA adapter" in text and "modules edited    2" in text and "1.5" in text


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("mixture") / "m", "Qwen2MoeForCausalLM", n_layers=3)


def test_every_expert_has_factors_of_its_own_and_its_other_maps_have_none_that_act(mixture, tmp_path):
    manifest = write_adapter(describe_model(mixture), BASIS, 1.5, tmp_path / "out", "0,2")
    orthogonalize(describe_model(mixture), BASIS, 1.5, tmp_path / "edited", "0,2")
    before, after = load_file(mixture / "model.safetensors"), load_file(tmp_path / "edited/model.safetensors")
    changed = [name.removesuffix(".weight") for name in before if not torch.equal(before[name], after[name])]
    assert sorted(one["name"] for one in manifest["modules"]) == sorted(changed) and len(changed) == 2 + 1 + 4 + 1
    for module in changed:
        expected = after[f"{module}.weight"] - before[f"{module}.weight"]
        assert torch.allclose(delta(tmp_path / "out", module), expected, atol=1e-6) and expected.norm() > 0.1
    for number in range(4):  # vLLM takes an expert's three maps together or not at all
        for other in ("gate_proj", "up_proj"):
            unchanged = delta(tmp_path / "out", f"model.layers.2.mlp.experts.{number}.{other}")
            assert unchanged.shape == (24, 32) and not unchanged.any()


def test_peft_is_told_of_parameters_where_it_would_take_a_module_for_the_experts_alone(mixture, tmp_path):
    write_adapter(describe_model(mixture), BASIS, 1.0, tmp_path / "out", "0,2")
    config = PeftConfig.from_pretrained(tmp_path / "out")
    assert list(config.target_modules) == ["self_attn.o_proj"] and config.target_parameters == [
        "model.layers.0.mlp.down_proj.weight",
        "model.layers.2.mlp.experts.down_proj",
        "model.layers.2.mlp.shared_expert.down_proj.weight",
    ]


@pytest.mark.parametrize("architecture", ["MixtralForCausalLM", "Qwen3MoeForCausalLM"])
def test_the_adapter_does_not_depend_on_how_the_files_hold_the_experts(architecture, tmp_path):
    folder = write_model(tmp_path / "m", architecture, attention_bias=False)
    write_adapter(describe_model(folder), BASIS, 1.0, tmp_path / "each")
    write_adapter(describe_model(fuse_experts(folder)), BASIS, 1.0, tmp_path / "one")
    each, one = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("each", "one"))
    assert each.keys() == one.keys()
    assert all(torch.allclose(each[name], one[name], atol=1e-6) for name in each)
    configs = [(tmp_path / name / "adapter_config.json").read_text() for name in ("each", "one")]
    assert configs[0] == configs[1]


def test_biases_are_refused_because_a_lora_adapter_cannot_edit_them(tmp_path):
    folder = write_model(tmp_path / "m", "LlamaForCausalLM")
    with pytest.raises(ModelError, match=r"4 of the modules .*self_attn\.o_proj\.bias.*refusal orthogonalize"):
        write_adapter(describe_model(folder), BASIS, 1.0, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bad_arguments_and_damaged_models_leave_nothing(model, tmp_path):
    info = describe_model(model)
    for arguments, error, message in (
        ((info, BASIS, 0.0), AlphaError, "leave every weight"),
        ((info, BASIS, float("inf")), AlphaError, "finite"),
        ((info, BASIS * 2, 1.0), ArtifactError, "not orthonormal"),
        ((info, torch.eye(8)[:1], 1.0), ShapeError, "d_model 8 but .* has 32"),
        ((replace(info, architecture="NovelForCausalLM"), BASIS, 1.0), ModelError, "NovelForCausalLM"),
    ):
        with pytest.raises(error, match=message):
            write_adapter(*arguments, tmp_path / "out")
    with pytest.raises(LayerRangeError, match="layer 7 is outside"):
        write_adapter(info, BASIS, 1.0, tmp_path / "out", "7")
    damaged = write_model(tmp_path / "m", "Qwen2ForCausalLM")
    tensors = load_file(damaged / "model.safetensors")
    tensors[f"{DOWN}.weight"][3, 5] = float("nan")
    save_file(tensors, damaged / "model.safetensors")
    with pytest.raises(ModelError, match=r"down_proj\.weight holds values that are not finite"):
        write_adapter(describe_model(damaged), BASIS, 1.0, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_only_an_adapter_is_replaced_and_only_with_force(model, written, tmp_path):
    info, out = describe_model(model), tmp_path / "out"
    with pytest.raises(OutputExistsError):
        write_adapter(info, BASIS, 1.0, out)
    assert read_manifest(out, ADAPTER_KIND)["alpha"] == 1.5
    assert write_adapter(info, BASIS, 1.0, out, force=True)["layers"] == "all"
    orthogonalize(info, BASIS, 1.0, tmp_path / "edited")
    with pytest.raises(ArtifactError, match="is not an adapter of ours"):
        write_adapter(info, BASIS, 1.0, tmp_path / "edited", force=True)
    with pytest.raises(ArtifactError, match="is not an edited checkpoint"):
        orthogonalize(info, BASIS, 1.0, out, force=True)
    (out / FILE).unlink()  # a PEFT adapter of somebody else
    with pytest.raises(ArtifactError, match="is not an adapter of ours"):
        write_adapter(info, BASIS, 1.0, out, force=True)


@pytest.mark.parametrize("drafts", [["mtp.fc.weight"], []])
def test_an_adapter_says_that_a_draft_head_stays_as_it_was_where_there_is_one(tmp_path, drafts):
    folder = write_model(tmp_path / "m", "Qwen2ForCausalLM")
    tensors = load_file(folder / "model.safetensors") | {name: torch.ones(32, 32) for name in drafts}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    manifest = write_adapter(describe_model(folder), BASIS, 1.0, tmp_path / "out")
    assert ["draft head" in note for note in manifest["notes"]] == [True] * len(drafts)
    assert ("draft head" in (tmp_path / "out" / "README.md").read_text()) is bool(drafts)


def test_the_card_of_an_adapter_escapes_what_utf8_cannot_hold(tmp_path):
    model = write_model(tmp_path / "m", "Qwen2ForCausalLM").rename(tmp_path / os.fsdecode(b"m\xff"))
    write_adapter(describe_model(model), BASIS, 1.5, tmp_path / "out", "1", source={"sha256": "abc"})
    assert "m\\udcff |" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
