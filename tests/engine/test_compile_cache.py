"""The key of vLLM's compile cache: a base graph and an ablated one, or two ablated ones, are never taken for each other."""

import pytest
from tiny_models import D_MODEL, save_servable_model

from surgery.residual.subspace import random_subspace
from vllm_refusal.engine.engine import Request, Sampling

pytestmark = pytest.mark.engine

TOKEN_IDS = list(range(3, 12))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_servable_model(tmp_path_factory.mktemp("cache") / "model", "LlamaForCausalLM")


def cache_key(start_engine, model, modules):
    """What vLLM hashes of an engine's settings, after the model was built and as at its first compilation."""
    from vllm.compilation.caching import aot_compile_hash_factors

    with start_engine(model, modules, skip_tokenizer_init=True) as engine:
        (key,) = engine._llm.apply_model(lambda built: str(aot_compile_hash_factors(built.engine_config)))
    return key


def test_keys_differ_wherever_the_graph_does_and_only_there(start_engine, model, tmp_path):
    path = random_subspace(D_MODEL, 4, seed=0).save(tmp_path / "sub.safetensors")
    stream, writes = ({"sub": {"path": str(path), "site": site}} for site in ("stream", "writes"))
    plain, ablated, again = (cache_key(start_engine, model, modules) for modules in ({}, stream, stream))
    assert ablated == again
    path.unlink()
    random_subspace(D_MODEL, 2, seed=0).save(path)  # the settings are the same, letter by letter
    other_rank = cache_key(start_engine, model, stream)
    assert len({plain, ablated, other_rank, cache_key(start_engine, model, writes)}) == 4


@pytest.mark.slow
def test_a_second_compiled_start_answers_as_the_first_whatever_was_cached_between(
    start_engine, model, tmp_path, monkeypatch
):
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path / "cache"))
    path = random_subspace(D_MODEL, 4, seed=0).save(tmp_path / "sub.safetensors")
    modules = {"sub": {"path": str(path)}}

    def answers(modules):
        requests = [Request("plain", TOKEN_IDS)]
        requests += [Request("ablated", TOKEN_IDS, {"ablation": "sub"})] if modules else []
        with start_engine(model, modules, eager=False, skip_tokenizer_init=True) as engine:
            found = engine.generate(requests, Sampling(max_tokens=4, logprobs=5))
            return {response.id: (response.token_ids, response.logprobs) for response in found}

    first = [answers({}), answers(modules)]
    assert first[1]["plain"][0] == first[0]["plain"][0] and first[1]["ablated"] != first[1]["plain"]
    assert [answers({}), answers(modules)] == first
    path.unlink()
    random_subspace(D_MODEL, 1, seed=7).save(path)  # another graph under the same settings
    replaced = answers(modules)
    assert replaced["plain"][0] == first[0]["plain"][0] and replaced["ablated"] != first[1]["ablated"]
