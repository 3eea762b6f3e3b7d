"""Interventions through all that vLLM's scheduler does to a request: chunks, preemption, waiting, finishing, aborts."""

import pytest
from edited_requests import (
    EFFECT,
    INTERVENTIONS,
    LOGPROB_TOLERANCE,
    Reference,
    prompt,
    run,
    sampling,
    start_llm,
)
from tiny_models import TRACED

pytestmark = pytest.mark.engine

MAX_NUM_SEQS = 4
STEP_TOKENS = 48
N_BLOCKS = 13  # of 32 tokens, one of them vLLM's own: four short requests, or one and a half of the longest


@pytest.fixture(scope="module", params=["eager", "traced"])
def cramped(request, tmp_path_factory):
    """(reference, engine) with few slots, short steps and few blocks."""
    reference = Reference(tmp_path_factory.mktemp("cramped"))
    llm = start_llm(
        reference,
        enforce_eager=request.param == "eager",
        compilation_config=TRACED if request.param == "traced" else {},
        skip_tokenizer_init=True,
        max_num_seqs=MAX_NUM_SEQS,
        max_num_batched_tokens=STEP_TOKENS,
        num_gpu_blocks_override=N_BLOCKS,
    )
    yield reference, llm
    llm.llm_engine.engine_core.shutdown()


@pytest.fixture
def steps(monkeypatch):
    """(slots, numbers of tokens) of each step, in batch order."""
    from vllm_refusal.edit.slot_tables import SlotTables

    found = []
    original = SlotTables.write_tokens

    def recording(self, slots, n_tokens):
        found.append((list(slots), [int(n) for n in n_tokens]))
        return original(self, slots, n_tokens)

    monkeypatch.setattr(SlotTables, "write_tokens", recording)
    return found


@pytest.fixture
def preempted(monkeypatch):
    """Ids of the requests that the scheduler has preempted."""
    from vllm.v1.core.sched.scheduler import Scheduler

    found = []
    original = Scheduler._preempt_request

    def counting(self, request, *args, **kwargs):
        found.append(request.request_id)
        return original(self, request, *args, **kwargs)

    monkeypatch.setattr(Scheduler, "_preempt_request", counting)
    return found


def plain(**arguments):
    return sampling(**{"detokenize": False, "ignore_eos": True} | arguments)


def assert_edited(reference, outputs, interventions):
    """Every answer is that of forward hooks, and not that of the plain model."""
    for output, intervention in zip(outputs, interventions, strict=True):
        (completion,) = output.outputs
        assert reference.distance(output, completion, intervention) < LOGPROB_TOLERANCE, intervention
        if intervention is not None:
            assert reference.distance(output, completion, None) > EFFECT, intervention


def n_slots_in_use(llm):
    (counters,) = llm.collective_rpc("ablation_counters")
    return counters["n_slots_in_use"]


def n_slots_afterwards(llm):
    """In this process no step follows the last one, so a plain request's tells the workers what has finished."""
    run(llm, [prompt(4)], plain(max_tokens=1))
    return n_slots_in_use(llm)


def test_every_chunk_of_a_split_prompt_is_edited_beside_rows_that_decode(cramped, steps):
    reference, llm = cramped
    interventions = [INTERVENTIONS[1], None, *INTERVENTIONS[2:5]]
    prompts = [prompt(length, seed) for seed, length in enumerate((20, 130, 121, 110, 150))]
    outputs = run(llm, prompts, [plain(intervention=each, max_tokens=24) for each in interventions])
    assert_edited(reference, outputs, interventions)
    assert max(sum(n_tokens) for _, n_tokens in steps) <= STEP_TOKENS < 110

    def mixed(slots, n_tokens):
        decoding = {slot for slot, n in zip(slots, n_tokens, strict=True) if n == 1}
        prefilling = {slot for slot, n in zip(slots, n_tokens, strict=True) if n > 1}
        return any(decoding) and any(prefilling - decoding)

    assert sum(mixed(*step) for step in steps) >= 3


def test_preempted_requests_resume_under_their_own_intervention(cramped, preempted):
    reference, llm = cramped
    interventions = [*INTERVENTIONS[1:4], INTERVENTIONS[5]]
    prompts = [prompt(40, seed) for seed in range(4)]
    params = [plain(intervention=each, max_tokens=100) for each in interventions]
    together = run(llm, prompts, params)
    assert len(preempted) >= 2
    assert_edited(reference, together, interventions)
    preempted.clear()
    for index in range(4):
        (alone,) = run(llm, [prompts[index]], [params[index]])
        assert alone.outputs[0].token_ids == together[index].outputs[0].token_ids
    assert preempted == []


def test_requests_that_finish_out_of_order_leave_their_slots_to_those_that_wait(cramped, steps):
    """Twelve interventions, four slots, answers of 2 to 40 tokens."""
    reference, llm = cramped
    lengths = [40 - 17 * index % 39 for index in range(len(INTERVENTIONS))]
    prompts = [prompt(9 + index, index) for index in range(len(INTERVENTIONS))]
    params = [plain(intervention=each, max_tokens=n) for each, n in zip(INTERVENTIONS, lengths, strict=True)]
    outputs = run(llm, prompts, params)
    assert [len(output.outputs[0].token_ids) for output in outputs] == lengths
    assert min(lengths) < 5 and max(lengths) > 30
    assert_edited(reference, outputs, INTERVENTIONS)
    assert max(len(slots) for slots, _ in steps) == MAX_NUM_SEQS
    assert max(max(slots) for slots, _ in steps if slots) <= MAX_NUM_SEQS
    assert n_slots_afterwards(llm) == 0


def test_aborted_requests_give_their_slots_back_and_disturb_no_other(cramped):
    from vllm.inputs import tokens_input

    reference, llm = cramped
    engine = llm.llm_engine
    interventions = INTERVENTIONS[1:7]
    for index, each in enumerate(interventions):
        engine.add_request(f"r{index}", tokens_input(prompt(12, index)), plain(intervention=each, max_tokens=30))
    finished, n_steps = [], 0
    while engine.has_unfinished_requests():
        finished += [output for output in engine.step() if output.finished]
        n_steps += 1
        if n_steps == 5:
            assert n_slots_in_use(llm) == MAX_NUM_SEQS
            engine.abort_request(["r0", "r2", "r5"])  # two that run, one that waits
        if n_steps == 8:
            assert 0 < n_slots_in_use(llm) < MAX_NUM_SEQS
    finished.sort(key=lambda output: output.request_id)
    assert [output.request_id for output in finished] == ["r1", "r3", "r4"]
    assert_edited(reference, finished, [interventions[index] for index in (1, 3, 4)])
    assert n_slots_afterwards(llm) == 0
