"""No admitted request leaves anything behind that spoils another's answer: blocks of the cache are reused unwritten."""

import pytest
import torch
from edited_requests import LOGPROB_TOLERANCE, Reference, prompt, run, sampling, start_llm

pytestmark = pytest.mark.engine

HARSH = [("four", 4.0, "all"), ("four", -4.0, "all"), ("affine", -4.0, "all"), ("writes", -4.0, "all")]
FURTHEST = {"float32": 1e6, "bfloat16": 1e6, "float16": 4e4}
"""Offsets that an engine starts with: beyond float16's range no edit can put a stream, and the proof says so."""
PLAIN = [prompt(20 + index, index) for index in range(4)]


@pytest.fixture(scope="module", params=FURTHEST)
def served(request, tmp_path_factory):
    """(reference, engine) with so few blocks that each is used again and again, and an offset as far out as may be."""
    reference = Reference(tmp_path_factory.mktemp("finite"))
    reference.offset.fill_(FURTHEST[request.param])
    reference._saved(reference.folder.parent, "affine", force=True)
    llm = start_llm(
        reference,
        dtype=request.param,
        skip_tokenizer_init=True,
        max_num_seqs=8,
        num_gpu_blocks_override=12,
        enable_prompt_embeds=True,
        additional_config={"ablation": {"modules": reference.modules}},
    )
    yield reference, llm, request.param
    llm.llm_engine.engine_core.shutdown()


def plain(**arguments):
    return sampling(**{"detokenize": False, "ignore_eos": True, "max_tokens": 12} | arguments)


def answers(llm):
    return [output.outputs[0].logprobs for output in run(llm, PLAIN, plain())]


def within(dtype, harsh):
    """The strengths that an engine of this dtype admits."""
    return [case for case in harsh if not (dtype == "float16" and case[0] == "writes")]


def test_plain_answers_after_the_harshest_admitted_edits_are_those_of_before(served):
    reference, llm, dtype = served
    before = answers(llm)
    for _ in range(2):
        harsh = [plain(intervention=case, max_tokens=40) for case in within(dtype, HARSH)]
        run(llm, [prompt(60, index) for index in range(len(harsh))], harsh)
        assert answers(llm) == before
    if dtype == "float32":
        for output in run(llm, PLAIN, plain()):
            assert reference.distance(output, output.outputs[0], None) < LOGPROB_TOLERANCE


def test_a_strength_that_would_make_anything_else_than_numbers_is_refused(served):
    from vllm.exceptions import VLLMValidationError

    _, llm, _ = served
    before = answers(llm)
    for alpha in (1e10, -1e30):
        with pytest.raises(VLLMValidationError, match="outside -4 to 4"):
            run(llm, [prompt(20)], plain(intervention=("four", alpha, "all")))
    assert answers(llm) == before


def test_embedded_prompts_that_are_not_finite_end_their_own_request(served):
    from vllm.exceptions import VLLMValidationError

    _, llm, dtype = served
    before = answers(llm)
    embeds = torch.full((20, 128), float("nan"), dtype=getattr(torch, dtype))
    with pytest.raises(VLLMValidationError, match="prompt_embeds hold numbers that are not finite"):
        llm.generate([{"prompt_embeds": embeds}], plain(), use_tqdm=False)
    assert answers(llm) == before
