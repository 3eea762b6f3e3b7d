"""Adapters in bulk generation: they touch nobody else's answers."""

import pytest

from surgery.residual.subspace import Subspace
from surgery.residual.vectors import RefusalVectors
from surgery.weights.adapter import write_adapter
from vllm_refusal.engine.engine import Engine, EngineError, EngineOptions, Request, Sampling

pytestmark = pytest.mark.engine


def texts(engine, asked):
    answers = engine.generate(asked, Sampling(max_tokens=24))
    return {found.id: (found.text, found.finish_reason, found.n_tokens) for found in answers}


def options(**vllm):
    return EngineOptions(dtype="float32", eager=True, max_num_seqs=64, vllm={"max_model_len": 256, **vllm})


@pytest.fixture(scope="module")
def adapters(rvs, organism, tmp_path_factory):
    folder, vectors = tmp_path_factory.mktemp("adapters"), RefusalVectors.load(rvs)
    for name, layers in (("late", "3-5"), ("early", "0-1")):
        write_adapter(organism, Subspace.from_vectors(vectors, layers).basis, 1.0, folder / name)
    return {name: folder / name for name in ("late", "early")}


def adapted(prompts, name):
    return [Request(f"{name}-{number}", token_ids, adapter=name) for number, token_ids in enumerate(prompts)]


def test_adapters_in_one_batch_answer_as_each_alone(organism, harmful_ids, adapters):
    with Engine(organism, {}, options(), adapters) as engine:
        together = texts(engine, [*adapted(harmful_ids, "late"), *adapted(harmful_ids, "early")])
        alone = {**texts(engine, adapted(harmful_ids, "late")), **texts(engine, adapted(harmful_ids, "early"))}
        with pytest.raises(EngineError, match="adapter '' is not loaded; loaded: late, early"):
            texts(engine, adapted(harmful_ids, ""))
    assert together == alone
    assert [together[f"late-{number}"] for number in range(4)] != [together[f"early-{number}"] for number in range(4)]


def test_an_engine_argument_that_vllm_does_not_have_is_named_with_the_one_meant(organism):
    with pytest.raises(EngineError, match=r"has no engine argument max_model_length \(is it max_model_len\?\)"):
        Engine(organism, {}, options(max_model_length=128))
