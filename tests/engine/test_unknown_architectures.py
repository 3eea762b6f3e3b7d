"""An architecture whose blocks are not known is refused by name before its weights are loaded, never served plain."""

import pytest
import torch
from tiny_models import save_servable_model
from transformers import OPTConfig, OPTForCausalLM

from surgery.residual.subspace import random_subspace
from vllm_refusal.engine.doctor import check_engine
from vllm_refusal.server.launch import check_modules
from vllm_refusal.settings.modules import ConfigError

pytestmark = pytest.mark.engine

WIDTH = 128


@pytest.fixture(scope="module")
def opt(tmp_path_factory):
    """A model that vLLM serves and the plugin does not know."""
    torch.manual_seed(0)
    shape = {"hidden_size": WIDTH, "word_embed_proj_dim": WIDTH, "ffn_dim": 96, "num_attention_heads": 4}
    model = OPTForCausalLM(OPTConfig(vocab_size=96, num_hidden_layers=2, max_position_embeddings=128, **shape))
    folder = tmp_path_factory.mktemp("opt") / "model"
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def modules(tmp_path):
    path = random_subspace(WIDTH, 1, seed=0).save(tmp_path / "one.safetensors")
    return {"one": {"path": str(path)}}


def test_the_engine_serve_and_doctor_name_it_and_the_known_ones(opt, modules, start_engine):
    for start in (
        lambda: start_engine(opt, modules, skip_tokenizer_init=True),
        lambda: check_modules(str(opt), None, modules),
        lambda: check_engine(str(opt)),
    ):
        with pytest.raises(ConfigError) as caught:
            start()
        line = str(caught.value)
        assert line.startswith(
            "ablation is not supported for architecture OPTForCausalLM; supported: LlamaForCausalLM, "
        )
        assert "GPTNeoXForCausalLM" in line and "\n" not in line


def test_another_implementation_of_a_known_architecture_is_refused_as_well(modules, start_engine, tmp_path):
    """vLLM would run it by the code of transformers, whose blocks return another thing."""
    folder = save_servable_model(tmp_path / "model", "LlamaForCausalLM")
    with pytest.raises(ConfigError, match="not supported for architecture TransformersForCausalLM"):
        start_engine(folder, modules, skip_tokenizer_init=True, model_impl="transformers")


def toy_model():
    """Two blocks whose attention and MLP are linear maps, laid out as Granite's."""
    from torch import nn

    def block():
        parts = {"self_attn": nn.ModuleDict({"o_proj": nn.Linear(WIDTH, WIDTH)})}
        return nn.ModuleDict(parts | {"mlp": nn.ModuleDict({"down_proj": nn.Linear(WIDTH, WIDTH)})})

    return nn.ModuleDict({"model": nn.ModuleDict({"layers": nn.ModuleList([block(), block()])})})


def test_a_module_whose_forward_would_pass_by_the_edit_stops_the_engine():
    from surgery.architecture.table import ARCHITECTURES
    from vllm_refusal.edit.slot_tables import SlotTables
    from vllm_refusal.model.edited_modules import install_edits
    from vllm_refusal.settings.modules import AblationConfig, AblationModule

    basis = random_subspace(WIDTH, 1, seed=0).basis
    module = AblationModule("one", "", basis, None, 1.0, (0, 1), "writes", "sha", "")
    tables = SlotTables(AblationConfig({"one": module}, None, 2, WIDTH, 4), 8, "cpu")
    assert install_edits(toy_model(), ARCHITECTURES["GraniteForCausalLM"], tables) == 4
    fused = toy_model()
    writer = fused.get_submodule("model.layers.1.mlp.down_proj")
    writer.forward = writer.forward  # bound to the instance, as vLLM's backend for transformers does when it fuses
    with pytest.raises(RuntimeError, match="Linear has a forward of its own"):
        install_edits(fused, ARCHITECTURES["GraniteForCausalLM"], tables)
