"""The proof that an engine removes what its modules say, by what its workers measured and what it answers."""

import asyncio
from dataclasses import replace
from types import SimpleNamespace

import pytest

from surgery.residual.subspace import random_subspace
from vllm_refusal.admission.core_proof import prove_core
from vllm_refusal.model.proof import NoEffectError, check_proven, prove_module, steps
from vllm_refusal.server.launch import check_effects
from vllm_refusal.settings.modules import AblationConfig, AblationModule

MODULE = AblationModule("strong", "", random_subspace(8, 1, seed=0).basis, None, 1.0, (0, 1), "stream", "sha", "file")
PLAIN, ABLATED = {7: -1.0, 8: -2.0}, {7: -1.5, 8: -1.8}


def measured(left=1e-7, control=0.3, layers=(0, 1)):
    return [("strong", "stream", layer, left, control) for layer in layers]


def prove(*workers, running=ABLATED, watched=ABLATED, can_watch=(True,), dtype="torch.float32"):
    proof = steps([MODULE], dtype)
    asked = [next(proof)]
    with pytest.raises(StopIteration):
        for found in (list(can_watch), [PLAIN, watched], list(workers), [PLAIN, running]):
            asked.append(proof.send(found))
    assert asked == ["watch_ablations", "answers", "watched_ablations", "answers"]


def test_what_leaves_nothing_where_the_control_leaves_much_is_proven():
    prove(measured())
    prove(measured(layers=(0,)), measured(layers=(1,)))  # a worker for each half of the blocks
    prove(measured(left=2e-3), dtype="torch.bfloat16")
    prove(measured(left=0.5e-5, control=1.5e-5))  # nothing to remove there, but the answer is another


@pytest.mark.parametrize(
    ("workers", "words"),
    [
        ([measured(left=0.3)], "leaves 0.3 of the stream in its subspace at layer 0, where 0.3 is without it"),
        ([measured(left=2e-3)], "leaves 0.002"),
        ([measured(layers=(0,)), measured(left=0.1, layers=(1,))], "at layer 1"),
        ([measured(layers=(1,))], "nothing was seen of it at layer 0"),
        ([[]], "nothing was seen of it at layer 0"),
        ([[("other", "stream", layer, 0.0, 0.3) for layer in (0, 1)]], "nothing was seen"),
    ],
)
def test_what_leaves_something_or_was_not_seen_is_refused_by_name(workers, words):
    with pytest.raises(NoEffectError, match=f"'strong' .*{words}.*VLLM_PLUGINS"):
        prove(*workers)


def test_a_compiled_graph_that_answers_like_the_plain_model_is_refused_and_noise_is_not():
    with pytest.raises(NoEffectError, match="no effect on the compiled model's output"):
        prove(measured(), running=PLAIN)
    prove(measured(), running={token: value + 1e-4 for token, value in ABLATED.items()})
    prove(measured(), watched=PLAIN, running=PLAIN)  # too small an effect on the answer to tell; its removal was seen


def test_where_no_worker_can_be_watched_the_answers_must_differ():
    prove([], can_watch=(True, False))
    with pytest.raises(NoEffectError, match="no effect on the model's output"):
        prove([], can_watch=(False,), running=PLAIN)


class Client:
    """A server's client whose engines answer with log probabilities and measurements of their own."""

    def __init__(self, *lefts):
        self.lefts, self.asked = lefts, []
        self.engine_core = SimpleNamespace(core_engines=[None] * len(lefts), call_utility_all_async=self.ask)
        self.model_config = SimpleNamespace(get_vocab_size=lambda: 96, dtype="torch.float32")

    async def ask(self, _, method, timeout, args, kwargs):
        self.watching = method == "watch_ablations"
        return [[True] if method == "watch_ablations" else [measured(left)] for left in self.lefts]

    async def generate(self, prompt, params, request_id, data_parallel_rank):
        name = params.extra_args["ablation"]
        self.asked.append((data_parallel_rank, name))
        found = {
            token: SimpleNamespace(logprob=value) for token, value in (PLAIN if name == "none" else ABLATED).items()
        }
        yield SimpleNamespace(outputs=[SimpleNamespace(logprobs=[found])])


@pytest.mark.parametrize("control", [0.0, 1.5e-5])
def test_where_no_layer_says_anything_and_neither_does_the_answer_nothing_is_proven(control):
    with pytest.raises(NoEffectError, match="no effect on the model's output"):
        prove(measured(left=control, control=control), watched=PLAIN, running=PLAIN)


def test_a_question_that_fails_leaves_nobody_watching():
    client = Client(1e-7)

    async def failing(*_, **__):
        raise RuntimeError("the engine said no")
        yield

    client.generate = failing
    with pytest.raises(RuntimeError, match="said no"):
        asyncio.run(prove_module(client, MODULE))
    assert client.watching is False


def test_every_engine_of_a_server_is_proven():
    client = Client(1e-7, 1e-7)
    asyncio.run(prove_module(client, MODULE))
    assert client.asked == [(rank, name) for rank in (0, 1) for _ in range(2) for name in ("none", "strong")]
    with pytest.raises(NoEffectError, match="leaves 0.2"):
        asyncio.run(prove_module(Client(1e-7, 0.2), MODULE))


def test_a_front_end_believes_only_engines_that_have_proven_every_module():
    good = {"proven": ["strong", "weak"], "fault": None}
    check_proven(["strong"], [good])
    for answer, words in (
        (None, "runs without ablation though it was asked for"),
        ("whatever a worker answers to a method that it does not know", "runs without ablation"),
        ({"proven": [], "fault": "ablation 'strong' leaves 0.3"}, "leaves 0.3"),
        ({"proven": ["weak"], "fault": None}, "'strong' is not proven by every engine"),
    ):
        with pytest.raises(NoEffectError, match=words):
            check_proven(["strong"], [good, answer])


def test_a_server_whose_front_end_has_no_plugin_does_not_listen():
    settings = SimpleNamespace(additional_config={"ablation": {"modules": {"strong": {}}}})
    for processor in (SimpleNamespace(), SimpleNamespace(ablation=None)):
        with pytest.raises(NoEffectError, match="runs without ablation"):
            asyncio.run(check_effects(SimpleNamespace(vllm_config=settings, input_processor=processor)))
    asyncio.run(check_effects(SimpleNamespace(vllm_config=SimpleNamespace(additional_config={}))))


def test_a_core_proves_what_was_loaded_since_and_nothing_while_requests_run():
    config = AblationConfig({"strong": MODULE}, None, 2, 8, max_slots=1)
    core = SimpleNamespace(ablation=config, proven={"strong": MODULE})
    core.scheduler = SimpleNamespace(has_unfinished_requests=lambda: True)
    assert prove_core(core) == ["strong"]
    core.ablation = config.without("strong").with_module(replace(MODULE, alpha=0.5))  # another one of the same name
    with pytest.raises(ValueError, match="between requests"):
        prove_core(core)
    core.ablation = config.without("strong")
    assert prove_core(core) == [] and core.proven == {}
