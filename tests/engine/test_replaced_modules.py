"""An engine whose ablations are replaced answers as one that started with them, and as none of those before."""

import pytest

from vllm_refusal.engine.engine import Engine, EngineOptions, Request, Sampling
from vllm_refusal.settings.modules import ConfigError

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def start(organism):
    options = EngineOptions(dtype="float32", eager=True, max_num_seqs=64, vllm={"max_model_len": 256})
    return lambda modules, room=None: Engine(organism, modules, options, room=room)


def test_replaced_ablations_answer_as_those_of_a_start(rvs, harmful_ids, start):
    from vllm.exceptions import VLLMNotFoundError

    early, late = ({"x": {"path": str(rvs), "source_layers": layers}} for layers in ("0-1", "3-5"))

    def texts(engine):
        asked = [
            Request(f"{name}-{number}", ids, {"ablation": name})
            for number, ids in enumerate(harmful_ids)
            for name in ("x", "none")
        ]
        return {response.id: response.text for response in engine.generate(asked, Sampling(max_tokens=16))}

    with start(late) as engine:
        expected = texts(engine)
    with start(early, {"max_modules": 1, "max_rank": 3}) as engine:
        before = texts(engine)
        engine.replace_modules(late)
        assert texts(engine) == expected != before
        engine.replace_modules(early)
        assert texts(engine) == before
        with pytest.raises(ConfigError, match="room for rank 3"):
            engine.replace_modules({"x": {"path": str(rvs), "source_layers": "2-5"}})
        with pytest.raises(VLLMNotFoundError, match="'x' is not loaded"):  # what was taken away is not admitted
            texts(engine)
