"""Weights replaced, configuration changed and sleep asked for while an engine runs: its edits stay what they were."""

from types import SimpleNamespace

import pytest
import torch
from edited_requests import EFFECT, INTERVENTIONS, LOGPROB_TOLERANCE, Reference, prompt, run, sampling, start_llm
from tiny_models import D_MODEL, servable_model

from surgery.files.artifacts import save_artifact
from surgery.residual.subspace import random_subspace

pytestmark = pytest.mark.engine

PROMPTS = [prompt(20 + index, index) for index in range(len(INTERVENTIONS))]
FACTOR = 1.05  # of every weight of the other model


@pytest.fixture
def served(tmp_path):
    """(reference, engine); a fresh one for each test, since weights are replaced."""
    reference = Reference(tmp_path)
    llm = start_llm(reference, skip_tokenizer_init=True, max_num_seqs=len(PROMPTS), enable_prefix_caching=False)
    yield reference, llm
    llm.llm_engine.engine_core.shutdown()


def answer(llm):
    asked = [sampling(one, max_tokens=8, ignore_eos=True, detokenize=False) for one in INTERVENTIONS]
    return run(llm, PROMPTS, asked)


def distances(reference, outputs):
    return [
        reference.distance(output, output.outputs[0], one) for output, one in zip(outputs, INTERVENTIONS, strict=True)
    ]


def test_edits_hold_over_a_reload_of_the_same_weights_and_of_others(served, tmp_path):
    reference, llm = served
    before = answer(llm)
    llm.collective_rpc("reload_weights")
    assert [output.outputs[0].logprobs for output in answer(llm)] == [output.outputs[0].logprobs for output in before]
    with torch.no_grad():
        for parameter in reference.model.parameters():
            parameter.mul_(FACTOR)
    reference.model.save_pretrained(tmp_path / "other")
    llm.collective_rpc("reload_weights", kwargs={"weights_path": str(tmp_path / "other")})
    assert max(distances(reference, answer(llm))) < LOGPROB_TOLERANCE
    assert min(distances(reference, before)) > EFFECT  # the other weights are another model


def test_edits_hold_over_sleep_and_a_changed_load_configuration(served):
    reference, llm = served
    llm.sleep(2)  # stock vLLM ignores it on a CPU; on a GPU it saves and restores buffers, as all of our tables are
    llm.wake_up()
    llm.collective_rpc("update_config", args=({"load_config": {"load_format": "safetensors"}},))
    assert max(distances(reference, answer(llm))) < LOGPROB_TOLERANCE


def test_every_table_that_an_edit_reads_is_a_buffer_of_the_model(served):
    """What sleep at level 2 saves are the model's buffers; a table that is none would come back as noise."""
    (found,) = served[1].collective_rpc(tables_outside_the_buffers)
    assert found == ["another"]


def tables_outside_the_buffers(worker):
    model = worker.model_runner.get_model()
    tables = model.ablation
    storages = {buffer.untyped_storage().data_ptr() for buffer in model.buffers()}
    named = {"slot": tables.slot, "module_of_slot": tables.module_of_slot, "bases": tables.bases}
    named["another"] = torch.zeros(1)  # the control: one that is no buffer
    named |= {"offsets": tables.offsets, **tables.alpha}
    return [name for name, table in named.items() if table.untyped_storage().data_ptr() not in storages]


def test_other_weights_are_refused_where_bases_depend_on_them(tmp_path):
    model = servable_model("Gemma2ForCausalLM")
    model.save_pretrained(tmp_path / "model")
    save_artifact(tmp_path / "sub.safetensors", "subspace", {"basis": random_subspace(D_MODEL, 2, seed=1).basis}, {})
    modules = {"sub": {"path": str(tmp_path / "sub.safetensors"), "site": "writes"}}
    reference = SimpleNamespace(folder=tmp_path / "model", modules=modules)
    llm = start_llm(reference, skip_tokenizer_init=True, max_model_len=128)
    try:
        with pytest.raises(RuntimeError, match="weights cannot be replaced while site 'writes'"):
            llm.collective_rpc("reload_weights")
    finally:
        llm.llm_engine.engine_core.shutdown()
