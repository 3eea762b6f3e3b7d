"""Interventions together with what else a request may ask for: samples, beams, log probabilities, constraints, embeddings."""

import json
import math
import random
import re
from dataclasses import replace

import pytest
import torch
from edited_requests import (
    BLOCK_SIZE,
    EFFECT,
    INTERVENTIONS,
    LOGPROB_TOLERANCE,
    Reference,
    prompt,
    run,
    sampling,
    start_llm,
)
from tiny_models import tiny_tokenizer
from tokenizers import decoders

pytestmark = pytest.mark.engine

EOS = 1
N_LISTED = 20  # the most log probabilities for a token
EDITED = INTERVENTIONS[1]
SOME = [None, *INTERVENTIONS[1:6]]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """(reference, engine) with a tokenizer of bytes."""
    reference = Reference(tmp_path_factory.mktemp("served"))
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save_pretrained(reference.folder)
    structured = {"backend": "xgrammar", "disable_any_whitespace": True}
    llm = start_llm(reference, max_num_seqs=16, enable_prompt_embeds=True, structured_outputs_config=structured)
    yield reference, llm
    llm.llm_engine.engine_core.shutdown()


@pytest.fixture
def default_four(served, monkeypatch):
    """The engine as if it had been started with the default "four"."""
    engine = served[1].llm_engine
    default = replace(engine.input_processor.ablation, default="four")
    for part in (engine.input_processor, engine.engine_core.engine_core):
        monkeypatch.setattr(part, "ablation", default)
    return served


def words(llm, seed=0):
    """A prompt that is text, so that the answer's first character is whole."""
    return llm.get_tokenizer().encode(f"question {seed}")


def assert_edited(reference, output, completion, intervention):
    assert reference.distance(output, completion, intervention) < LOGPROB_TOLERANCE, intervention
    if intervention is not None:
        assert reference.distance(output, completion, None) > EFFECT, intervention


def test_log_probabilities_of_prompt_and_answer_are_those_of_the_edited_model(served):
    reference, llm = served
    prompts = [prompt(20 + seed, seed) for seed in range(len(SOME))]
    params = [sampling(each, max_tokens=12, logprobs=5, prompt_logprobs=5) for each in SOME]
    for output, intervention in zip(run(llm, prompts, params), SOME, strict=True):
        assert_edited(reference, output, output.outputs[0], intervention)
        found, token_ids = output.prompt_logprobs, list(output.prompt_token_ids)
        assert found[0] is None and len(found) == len(token_ids)

        def distance(rows, found=found):
            return max(
                abs(entry.logprob - float(rows[position, token]))
                for position, step in enumerate(found[1:])
                for token, entry in step.items()
            )

        assert distance(reference.logprobs(token_ids, intervention)) < LOGPROB_TOLERANCE
        if intervention is not None:
            assert distance(reference.logprobs(token_ids, None)) > EFFECT


def test_cached_prefixes_are_shared_between_equal_interventions_in_any_order(served):
    reference, llm = served
    token_ids = prompt(2 * BLOCK_SIZE + 7, 77)
    order = 3 * SOME
    random.Random(5).shuffle(order)
    for index, intervention in enumerate(order):
        (output,) = run(llm, [token_ids], sampling(intervention, max_tokens=6))
        assert output.num_cached_tokens == (2 * BLOCK_SIZE if intervention in order[:index] else 0), intervention
        assert_edited(reference, output, output.outputs[0], intervention)


@pytest.mark.parametrize("intervention", SOME[:4], ids=str)
def test_every_sample_of_a_request_is_edited_and_is_that_of_its_own_seed(served, intervention):
    """vLLM gives the i-th sample the seed plus i."""
    reference, llm = served
    arguments = {"temperature": 1.0, "max_tokens": 16, "logprobs": 5}
    (output,) = run(llm, [prompt(10)], sampling(intervention, n=3, seed=40, **arguments))
    samples = sorted(output.outputs, key=lambda completion: completion.index)
    assert len({tuple(completion.token_ids) for completion in samples}) == 3
    for index, completion in enumerate(samples):
        assert_edited(reference, output, completion, intervention)
        (alone,) = run(llm, [prompt(10)], sampling(intervention, seed=40 + index, **arguments))
        assert list(alone.outputs[0].token_ids) == list(completion.token_ids)


def test_beams_are_those_of_the_default_ablation_and_take_no_keys_of_their_own(default_four):
    from vllm.sampling_params import BeamSearchParams

    reference, llm = default_four
    with pytest.raises(TypeError, match="extra_args"):
        BeamSearchParams(beam_width=3, max_tokens=8, extra_args={"ablation": "four"})
    params = BeamSearchParams(beam_width=3, max_tokens=8, ignore_eos=True)
    (found,) = llm.beam_search([{"prompt_token_ids": prompt(10)}], params)
    assert len(found.sequences) == 3

    def score(beam, intervention):
        rows = reference.logprobs(beam.tokens, intervention)[9:-1]
        return float(rows.gather(1, torch.tensor(beam.tokens[10:])[:, None]).sum())

    for beam in found.sequences:
        assert beam.cum_logprob == pytest.approx(score(beam, ("four", 1.0, "all")), abs=8 * LOGPROB_TOLERANCE)
        assert abs(beam.cum_logprob - score(beam, None)) > EFFECT


def test_a_beam_search_over_http_that_would_lose_a_key_is_refused(served):
    """An engine with a default would apply it to a request that says "none", or at a strength not asked for."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.exceptions import VLLMValidationError

    from vllm_refusal.admission.refusals import refusing_ablation

    def beams(default, keys):
        request = ChatCompletionRequest(model="m", messages=[], use_beam_search=True, vllm_xargs=keys)
        return refusing_ablation(ChatCompletionRequest.to_beam_search_params, default)(request, 4, {})

    for default, keys in (
        (None, {"ablation": "four"}),
        ("four", {"ablation": "none"}),
        ("four", {"ablation_alpha": 0.5}),
    ):
        with pytest.raises(VLLMValidationError, match="beam search cannot apply"):
            beams(default, keys)
    for default, keys in ((None, {"ablation": "none"}), (None, None), ("four", None), ("four", {"session_id": "s"})):
        assert beams(default, keys).max_tokens == 4


def distance_among_allowed(reference, output, intervention):
    """vLLM masks what the grammar forbids before it takes log probabilities, so the allowed tokens share all of it."""
    (completion,) = output.outputs
    token_ids = list(output.prompt_token_ids)
    rows = reference.logprobs([*token_ids, *completion.token_ids], intervention)[len(token_ids) - 1 :]
    largest = 0.0
    for row, step in zip(rows, completion.logprobs, strict=False):  # nothing was sampled after the last row
        found = {token: entry.logprob for token, entry in step.items() if entry.logprob > -math.inf}
        assert len(found) < N_LISTED <= len(step)  # every allowed token is among those listed
        expected = row[list(found)].log_softmax(-1)
        largest = max(largest, float((expected - torch.tensor(list(found.values()))).abs().max()))
    return largest


@pytest.mark.parametrize(
    ("constraint", "fits"),
    [
        ({"choice": ["yes", "no", "maybe so"]}, lambda text: text in ("yes", "no", "maybe so")),
        ({"regex": "[ab]{6}[0-9]{3}"}, lambda text: re.fullmatch("[ab]{6}[0-9]{3}", text)),
        (
            {"json": {"type": "object", "properties": {"ok": {"enum": ["p", "q"]}}, "required": ["ok"]}},
            lambda text: json.loads(text)["ok"] in ("p", "q"),
        ),
    ],
    ids=["choice", "regex", "json"],
)
def test_a_structured_answer_is_valid_and_of_the_edited_model(served, constraint, fits):
    from vllm.sampling_params import StructuredOutputsParams

    reference, llm = served
    structured = [
        sampling(each, max_tokens=40, logprobs=N_LISTED, structured_outputs=StructuredOutputsParams(**constraint))
        for each in SOME
    ]
    prompts = [words(llm, seed) for seed in range(len(SOME))]
    outputs = run(llm, prompts, structured)
    for output, intervention in zip(outputs, SOME, strict=True):
        assert fits(output.outputs[0].text), (output.outputs[0].text, intervention)
        assert distance_among_allowed(reference, output, intervention) < LOGPROB_TOLERANCE, intervention
        if intervention is not None:
            assert distance_among_allowed(reference, output, None) > EFFECT, intervention
    free = run(llm, prompts, [sampling(each, max_tokens=40) for each in SOME])
    assert all(output.outputs[0].text != other.outputs[0].text for output, other in zip(free, outputs, strict=True))


@pytest.mark.parametrize("intervention", SOME[:4], ids=str)
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"repetition_penalty": 1.7}, lambda first: {"repetition_penalty": 1.7}),
        ({"logit_bias": "first"}, lambda first: {"sequence_bias": [[[first], -100.0]]}),
        ({"bad_words": "first"}, lambda first: {"bad_words_ids": [[first]]}),
        ({"min_tokens": 9, "logit_bias": "eos"}, lambda first: {"min_new_tokens": 9, "sequence_bias": [[[EOS], 50.0]]}),
    ],
    ids=["repetition_penalty", "logit_bias", "bad_words", "min_tokens"],
)
def test_processed_choices_equal_those_of_transformers_under_the_same_edit(served, ours, theirs, intervention):
    reference, llm = served
    token_ids = prompt(12, 3)
    (free,) = run(llm, [token_ids], sampling(intervention, max_tokens=16))
    first = free.outputs[0].token_ids[0]
    assert list(free.outputs[0].token_ids) == reference.generate(token_ids, intervention, max_new_tokens=16)
    if ours.get("logit_bias") == "first":
        ours = {"logit_bias": {first: -100.0}}
    elif ours.get("logit_bias") == "eos":
        ours = {**ours, "logit_bias": {EOS: 50.0}}
    elif "bad_words" in ours:
        ours = {"bad_words": [llm.get_tokenizer().decode([first])]}
    (processed,) = run(llm, [token_ids], sampling(intervention, max_tokens=16, **ours))
    found = list(processed.outputs[0].token_ids)
    assert found == reference.generate(token_ids, intervention, max_new_tokens=16, **theirs(first))
    assert found != list(free.outputs[0].token_ids)


def test_stop_strings_cut_the_edited_answer(served):
    _, llm = served
    (free,) = run(llm, [words(llm)], sampling(EDITED, max_tokens=20))
    text = free.outputs[0].text
    stop = text[6:8]
    (cut,) = run(llm, [words(llm)], sampling(EDITED, max_tokens=20, stop=[stop]))
    assert cut.outputs[0].finish_reason == "stop" and cut.outputs[0].text == text[: text.index(stop)]


def test_embedded_prompts_are_edited_like_tokens(served):
    reference, llm = served
    with torch.no_grad():
        embedded = [reference.model.get_input_embeddings()(torch.tensor(prompt(40, seed))) for seed in range(len(SOME))]
    inputs = [{"prompt_embeds": each.detach()} for each in embedded]
    params = [sampling(each, max_tokens=10) for each in SOME]
    outputs = llm.generate(inputs, params, use_tqdm=False)
    by_tokens = run(llm, [prompt(40, seed) for seed in range(len(SOME))], params)
    for output, expected, intervention in zip(outputs, by_tokens, SOME, strict=True):
        assert list(output.outputs[0].token_ids) == list(expected.outputs[0].token_ids)
        assert_edited(reference, expected, output.outputs[0], intervention)


def test_pooling_is_refused_by_an_engine_that_generates(served):
    _, llm = served
    for task in ("embed", "classify", "token_embed"):
        with pytest.raises(ValueError, match="pooling|task"):
            llm.encode([{"prompt_token_ids": prompt(5)}], pooling_task=task, use_tqdm=False)


def test_an_engine_that_pools_does_not_start_with_ablations(served):
    reference, _ = served
    with pytest.raises(Exception, match="ablation together with a pooling runner is not supported"):
        start_llm(reference, runner="pooling", convert="embed")


def test_a_streamed_prompt_that_asks_for_an_ablation_is_refused_and_another_is_not(default_four):
    """Its next part may come with other keys, over blocks that were computed under these."""
    from vllm.exceptions import VLLMValidationError
    from vllm.inputs import tokens_input

    processor = default_four[1].llm_engine.input_processor

    def part(**extra_args):
        params = sampling(extra_args=extra_args or None)
        return processor.process_inputs("r", tokens_input(prompt(5)), params, ("generate",), resumable=True)

    for keys in ({"ablation": "one"}, {}):
        with pytest.raises(VLLMValidationError, match="streamed"):
            part(**keys)
    assert part(ablation="none").resumable
