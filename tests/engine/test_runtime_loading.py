"""Workers that load and unload ablations while they run: as those of their start, or nothing changes."""

import pytest
from tiny_models import D_MODEL, save_servable_model

from surgery.residual.subspace import random_subspace
from vllm_refusal.engine.engine import Request, Sampling

pytestmark = pytest.mark.engine

TOKEN_IDS = list(range(3, 12))


def test_a_file_that_changes_between_front_end_and_worker_is_loaded_nowhere(start_engine, tmp_path):
    """What the server asks of its workers, asked here of one in this process."""
    model = save_servable_model(tmp_path / "model", "LlamaForCausalLM")
    path = random_subspace(D_MODEL, 2, seed=0).save(tmp_path / "sub.safetensors")
    with start_engine(model, skip_tokenizer_init=True, additional_config=ROOM) as engine:
        load, config = loader(engine, path)
        path.unlink()
        random_subspace(D_MODEL, 2, seed=1).save(path)
        (answer,) = load()
        assert "was replaced while it was loaded" in answer["fault"]
        assert engine._llm.collective_rpc("unload_ablation", args=("late",)) == [False]
        assert list(config().modules) == []
        load, config = loader(engine, path)
        assert load() == [{"fault": None, "modules": ["late"]}]
        assert engine._llm.collective_rpc("unload_ablation", args=("late",)) == [True]


ROOM = {"ablation": {"max_modules": 2, "max_rank": 4, "sites": ["stream", "writes"]}}


def loader(engine, path, site="stream"):
    """Check a file as the front end does. Returns: what loads it on the worker, what gives the worker's config."""
    from vllm_refusal.model.worker import digests_of
    from vllm_refusal.settings.engine_settings import load_another

    llm, spec = engine._llm, {"path": str(path), "site": site, "layers": "1-3"}
    module = load_another("late", spec, llm.llm_engine.vllm_config)

    def load():
        return llm.collective_rpc("load_ablation", args=("late", spec, digests_of(module)))

    return load, lambda: llm.apply_model(lambda built: built.ablation.config)[0]


@pytest.mark.parametrize(
    ("architecture", "site", "eager"),
    [
        ("LlamaForCausalLM", "stream", True),
        ("Gemma2ForCausalLM", "writes", True),  # whose bases are mapped through post-norms
        pytest.param("Gemma2ForCausalLM", "writes", False, marks=pytest.mark.slow),
    ],
)
def test_workers_apply_what_they_loaded_as_what_they_started_with(start_engine, tmp_path, architecture, site, eager):
    model = save_servable_model(tmp_path / "model", architecture)
    path = random_subspace(D_MODEL, 3, seed=0).save(tmp_path / "sub.safetensors")
    asked = [Request("ablated", TOKEN_IDS, {"ablation": "late"}), Request("plain", TOKEN_IDS)]

    def answers(engine):
        found = engine.generate(asked, Sampling(max_tokens=8, logprobs=5))
        return {answer.id: (answer.token_ids, answer.logprobs) for answer in found}

    module = {"late": {"path": str(path), "site": site, "layers": "1-3"}}
    with start_engine(model, module, eager=eager, skip_tokenizer_init=True) as engine:
        expected = answers(engine)
    assert expected["ablated"] != expected["plain"]
    with start_engine(model, eager=eager, skip_tokenizer_init=True, additional_config=ROOM) as engine:
        plain = next(iter(engine.generate(asked[1:], Sampling(max_tokens=8, logprobs=5))))
        load, config = loader(engine, path, site)
        assert load() == [{"fault": None, "modules": ["late"]}]
        engine._llm.llm_engine.input_processor.ablation = config()
        found = answers(engine)
    assert (plain.token_ids, plain.logprobs) == found["plain"]
    for name in found:
        assert found[name][0] == expected[name][0]
        for step, other in zip(found[name][1], expected[name][1], strict=True):
            assert step == pytest.approx(other, abs=1e-5)  # a compiled sum over more rows may round otherwise
