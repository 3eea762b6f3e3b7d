"""One model over two processes, by tensor and by pipeline parallelism, against Hugging Face forward hooks in float32."""

import os

import pytest
from edited_requests import EFFECT, INTERVENTIONS, LOGPROB_TOLERANCE, Reference, prompt, run, sampling, start_llm
from tiny_models import N_LAYERS, TRACED

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(
        len(os.sched_getaffinity(0)) < 2, reason="two workers spin for each other; each needs a core of its own"
    ),
]

N_TOKENS = 8
STAGES = (range(3), range(3, N_LAYERS))  # as vLLM divides five blocks
# Layers of one stage, of the other, and of both, at each site, beside the mixture that every engine is asked.
MIXED = [
    *INTERVENTIONS,
    *((name, 1.0, layers) for name in ("four", "writes") for layers in ("0-2", "3-4", "2-3")),
]
PROMPTS = [prompt(20 + 3 * index, index) for index in range(len(MIXED))]
N_INTERVENED = sum(len(ids) + N_TOKENS - 1 for ids, one in zip(PROMPTS, MIXED, strict=True) if one is not None)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return Reference(tmp_path_factory.mktemp("distributed"))


@pytest.fixture(scope="module")
def start_two(reference):
    """start_two(kind, **arguments): an engine in two processes, "tensor" or "pipeline"."""

    def start(kind, **arguments):
        if kind == "pipeline":  # stock vLLM's CPU engine has no uncompiled pipeline; tracing without a compiler will do
            arguments |= {"enforce_eager": False, "compilation_config": TRACED}
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("VLLM_CPU_OMP_THREADS_BIND", "|".join(map(str, sorted(os.sched_getaffinity(0))[:2])))
            arguments |= {f"{kind}_parallel_size": 2, "distributed_executor_backend": "mp"}
            return start_llm(reference, skip_tokenizer_init=True, max_num_seqs=len(MIXED), **arguments)

    return start


@pytest.fixture(scope="module", params=["tensor", pytest.param("pipeline", marks=pytest.mark.slow)])
def answered(request, start_two):
    """(kind, output of each of MIXED, what each worker counted, the decoder blocks that each worker edits)."""
    llm = start_two(request.param)
    try:
        before = counted(llm)  # the proof's
        answers = answer(llm, MIXED)
        more = [now - then for now, then in zip(counted(llm), before, strict=True)]
        yield request.param, answers, more, llm.collective_rpc(edited)
    finally:
        llm.llm_engine.engine_core.shutdown()


def counted(llm):
    return [counters["n_intervened_tokens"] for counters in llm.collective_rpc("ablation_counters")]


def answer(llm, interventions):
    params = [sampling(one, max_tokens=N_TOKENS, ignore_eos=True, detokenize=False) for one in interventions]
    return run(llm, PROMPTS, params)


def edited(worker):
    """The decoder blocks whose output this worker edits."""
    blocks = worker.model_runner.get_model().model.layers
    return [layer for layer, block in enumerate(blocks) if hasattr(block, "residual_edit")]


def steps(output):
    """(token, its log probabilities by token) of each step, to the last bit."""
    (completion,) = output.outputs
    found = [{token: entry.logprob for token, entry in step.items()} for step in completion.logprobs]
    return list(zip(completion.token_ids, found, strict=True))


def test_every_intervention_of_a_mixed_batch_equals_forward_hooks(reference, answered):
    _, outputs, _, _ = answered
    for output, intervention in zip(outputs, MIXED, strict=True):
        (completion,) = output.outputs
        assert reference.distance(output, completion, intervention) < LOGPROB_TOLERANCE, intervention
        if intervention is not None:
            assert reference.distance(output, completion, None) > EFFECT, intervention


def test_every_worker_edits_its_own_blocks_and_counts_every_intervened_token(answered):
    kind, _, n_intervened, blocks = answered
    own = [list(range(N_LAYERS))] * 2 if kind == "tensor" else list(map(list, STAGES))
    assert blocks == own
    assert n_intervened == [N_INTERVENED] * 2


@pytest.mark.slow
def test_rows_without_an_intervention_are_those_of_stock_vllm_bit_for_bit(answered, start_two):
    kind, outputs, _, _ = answered
    stock = start_two(kind, additional_config={})
    try:
        plain = answer(stock, [None] * len(MIXED))
    finally:
        stock.llm_engine.engine_core.shutdown()
    for output, expected, intervention in zip(outputs, plain, MIXED, strict=True):
        assert (steps(output) == steps(expected)) == (intervention is None), intervention
