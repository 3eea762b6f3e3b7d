"""The proof by effect: an engine that computes the same with and without a module is refused, whichever it is."""

import asyncio
from types import SimpleNamespace

import pytest

from surgery.subspace import random_subspace
from vllm_refusal.config import AblationModule
from vllm_refusal.proof import NoEffectError, prove_module

MODULE = AblationModule("strong", "", random_subspace(8, 1, seed=0).basis, None, 1.0, (0,), "stream", "sha", "file")


class Client:
    """A server's client whose engine of each rank answers with the log probability given for an ablation."""

    def __init__(self, *logprobs):
        self.logprobs, self.asked = logprobs, []
        self.engine_core = SimpleNamespace(core_engines=[None] * len(logprobs))
        self.model_config = SimpleNamespace(get_vocab_size=lambda: 96)

    async def generate(self, prompt, params, request_id, data_parallel_rank):
        name = params.extra_args["ablation"]
        self.asked.append((data_parallel_rank, name))
        entry = SimpleNamespace(logprob=self.logprobs[data_parallel_rank or 0][name])
        yield SimpleNamespace(outputs=[SimpleNamespace(logprobs=[{7: entry}])])


def test_a_module_that_changes_something_in_every_engine_is_proven():
    client = Client({"none": -1.0, "strong": -2.0}, {"none": -1.0, "strong": -1.5})
    asyncio.run(prove_module(client, MODULE))
    assert client.asked == [(0, "none"), (0, "strong"), (1, "none"), (1, "strong")]


@pytest.mark.parametrize("n_working", [0, 1])
def test_a_module_without_effect_in_one_engine_is_refused_by_name(n_working):
    working, idle = {"none": -1.0, "strong": -2.0}, {"none": -1.0, "strong": -1.0}
    with pytest.raises(NoEffectError, match="'strong' .* has no effect on the model's output"):
        asyncio.run(prove_module(Client(*[working] * n_working, idle), MODULE))
