"""Speculative decoding: drafts from the prompt or from a plain draft model, verified by each request's edited model.

Engines run in processes of their own: stock vLLM's CPU engine starts no second one in a process where drafts were made.
"""

import pytest
from edited_requests import (
    EFFECT,
    INTERVENTIONS,
    LOGPROB_TOLERANCE,
    Reference,
    prompt,
    raw_request,
    run,
    sampling,
    start_llm,
)
from tiny_models import servable_model

pytestmark = pytest.mark.engine

N_TOKENS = 24
PROMPTS = [prompt(36 + index % 3, index % 4) for index in range(len(INTERVENTIONS))]  # some share their first block


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return Reference(tmp_path_factory.mktemp("speculative"))


@pytest.fixture(scope="module", params=[pytest.param("ngram", marks=pytest.mark.slow), "draft_model"])
def answered(request, reference):
    """(outputs of one mixed batch, those of each request asked alone, counts of drafted and accepted tokens)."""
    drafts = {"method": request.param, "num_speculative_tokens": 3}
    if request.param == "ngram":
        drafts |= {"prompt_lookup_max": 2, "prompt_lookup_min": 1}
    else:
        drafts |= {"model": str(reference.folder)}  # the served model itself, unedited: good drafts for base rows only
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
        arguments = {"max_num_seqs": 16, "speculative_config": drafts, "disable_log_stats": False}
        llm = start_llm(reference, skip_tokenizer_init=True, **arguments)
    try:
        together = answer(llm, PROMPTS, INTERVENTIONS)
        n_drafted, n_accepted = drafted(llm)
        alone = [answer(llm, [ids], [one])[0] for ids, one in zip(PROMPTS, INTERVENTIONS, strict=True)]
        yield request.param, together, alone, n_drafted, n_accepted, llm
    finally:
        llm.llm_engine.engine_core.shutdown()


def answer(llm, prompts, interventions):
    return run(
        llm, prompts, [sampling(one, max_tokens=N_TOKENS, ignore_eos=True, detokenize=False) for one in interventions]
    )


def drafted(llm):
    """Tokens that were proposed, and those of them that the model would have chosen itself."""
    found = {metric.name: metric.value for metric in llm.get_metrics() if hasattr(metric, "value")}
    return found["vllm:spec_decode_num_draft_tokens"], found["vllm:spec_decode_num_accepted_tokens"]


def test_every_verified_token_is_the_edited_models_own(reference, answered):
    outputs = answered[1]
    for output, intervention in zip(outputs, INTERVENTIONS, strict=True):
        (completion,) = output.outputs
        greedy = reference.generate(
            list(output.prompt_token_ids), intervention, max_new_tokens=N_TOKENS, min_new_tokens=0
        )
        assert list(completion.token_ids)[: len(greedy)] == greedy, intervention
        assert reference.distance(output, completion, intervention) < LOGPROB_TOLERANCE, intervention
        if intervention is not None:
            assert reference.distance(output, completion, None) > EFFECT, intervention


def test_drafts_are_made_and_both_taken_and_refused(answered):
    _, _, _, n_drafted, n_accepted, _ = answered
    assert 0 < n_accepted < n_drafted  # a test without either would prove nothing about several tokens in a step


def test_a_request_is_answered_alone_as_in_the_batch(answered):
    _, together, alone, *_ = answered
    for one, other, intervention in zip(together, alone, INTERVENTIONS, strict=True):
        assert one.outputs[0].token_ids == other.outputs[0].token_ids, intervention
    assert any(output.num_cached_tokens for output in alone)  # cached blocks came only from equal interventions


@pytest.mark.parametrize("answered", ["draft_model"], indirect=True)  # n-grams are drafted from the prompt, by no model
def test_the_draft_model_runs_unedited(answered):
    llm = answered[-1]
    everything = ("four", 1.0, "all")
    before = drafted(llm)
    answer(llm, [prompt(41, 9)], [everything])
    edited = rate(before, drafted(llm))
    before = drafted(llm)
    answer(llm, [prompt(41, 9)], [None])
    assert rate(before, drafted(llm)) == 1.0 > edited  # the served model without an edit agrees with its own copy


def rate(before, after):
    """The part of the drafted tokens between two counts that was accepted."""
    return (after[1] - before[1]) / (after[0] - before[0])


def test_what_no_front_end_of_ours_has_seen_is_edited_or_ends_alone(reference, answered):
    """The engine core is in a process of its own here, and lives on."""
    core = answered[-1].llm_engine.engine_core
    token_ids, edit = prompt(21, 5), ("four", 1.0, "all")
    asked = {"edited": {"ablation": "four"}, "unknown": {"ablation": "x"}, "plain": None}
    for name, extra_args in asked.items():
        core.add_request(raw_request(name, token_ids, extra_args))
    tokens, ends = {name: [] for name in asked}, {}
    while len(ends) < len(asked):
        for output in core.get_output().outputs:
            tokens[output.request_id] += output.new_token_ids
            if output.finish_reason is not None:
                ends[output.request_id] = str(output.finish_reason)
    assert ends == {"edited": "length", "unknown": "error", "plain": "length"}
    found = {
        name: reference.generate(token_ids, one, max_new_tokens=6, min_new_tokens=6)
        for name, one in (("edited", edit), ("plain", None))
    }
    assert {name: tokens[name] for name in found} == found and found["edited"] != found["plain"]


@pytest.mark.slow
def test_a_draft_model_of_another_width_is_no_obstacle(reference, tmp_path):
    small = servable_model("LlamaForCausalLM", vocab_size=260, hidden_size=64, head_dim=32, num_attention_heads=2)
    small.save_pretrained(tmp_path / "small")
    drafts = {"method": "draft_model", "model": str(tmp_path / "small"), "num_speculative_tokens": 2}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
        llm = start_llm(reference, skip_tokenizer_init=True, max_num_seqs=16, speculative_config=drafts)
    try:
        for output, intervention in zip(answer(llm, PROMPTS, INTERVENTIONS), INTERVENTIONS, strict=True):
            assert reference.distance(output, output.outputs[0], intervention) < LOGPROB_TOLERANCE, intervention
    finally:
        llm.llm_engine.engine_core.shutdown()
