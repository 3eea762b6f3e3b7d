"""Captured activations against Hugging Face forward hooks, for every architecture of the plugin's table."""

import asyncio
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from tiny_models import D_MODEL, N_LAYERS, TRACED, VOCAB_SIZE, save_servable_model, servable_model

from surgery.architecture.table import ARCHITECTURES, entry_of
from surgery.reading.hooks import ablated, captured
from surgery.residual.subspace import random_subspace
from vllm_refusal.engine.captured import CaptureError, take_captured
from vllm_refusal.engine.engine import Request, Sampling

pytestmark = pytest.mark.engine

TOLERANCE = 1e-5  # relative, per vector: sums run in another order in the two float32 engines; observed below 2e-6
APART = 0.05  # relative distance of another layer's or an edited stream; observed above 0.2
BLOCK_SIZE = 32
STEP_TOKENS = 64  # prompts longer than this come in chunks
ALL = {"capture_layers": "all", "capture_sites": "all"}


@pytest.fixture(scope="module", params=[*sorted(ARCHITECTURES), "LlamaForCausalLM traced"])
def served(request, tmp_path_factory, start_engine):
    """(Hugging Face model, its entry, engine, basis) of one architecture."""
    architecture, _, traced = request.param.partition(" ")
    folder = tmp_path_factory.mktemp(architecture)
    model = servable_model(architecture)
    model.save_pretrained(folder / "model")
    subspace = random_subspace(D_MODEL, 4, seed=4)
    path = str(subspace.save(folder / "sub.safetensors"))
    modules = {"stream": {"path": path}, "writes": {"path": path, "site": "writes"}}
    with start_engine(
        folder / "model",
        modules,
        eager=not traced,
        compilation_config=TRACED if traced else {},
        capture=True,
        skip_tokenizer_init=True,
        block_size=BLOCK_SIZE,
        max_num_batched_tokens=STEP_TOKENS,
    ) as engine:
        yield model, entry_of(architecture), engine, subspace.basis


def sites_of(entry):
    return ARCHITECTURES[entry.name].resid_sites


def prompt(length, seed=0):
    return [3 + (17 * seed + 11 * step) % (VOCAB_SIZE - 3) for step in range(length)]


def answer(engine, requests, max_tokens=6):
    return {response.id: response for response in engine.generate(requests, Sampling(max_tokens=max_tokens))}


def hooked(served, token_ids, site=None, alpha=1.0):
    """[n_sites, n_layers, d_model] float32 by forward hooks, of the edited stream when an ablation's site is given."""
    model, entry, _, basis = served
    edited = nullcontext() if site is None else ablated(model, basis, alpha, "all", site)
    with torch.no_grad(), edited, captured(model, entry, sites_of(entry)) as capture:
        model(torch.tensor([token_ids]))
        return capture.take()[:, :, 0, 0]


def distance(found, expected):
    """Largest relative distance of a vector from the expected one."""
    return float(((found - expected).norm(dim=-1) / expected.norm(dim=-1)).max())


def test_a_mixed_batch_equals_forward_hooks_for_every_architecture(served):
    """Short and chunked prompts, all and some layers, plain and ablated requests, and requests that capture nothing."""
    _, _, engine, _ = served
    requests = [
        Request("all", prompt(9), capture=ALL),
        Request("none", prompt(9)),
        Request("chunked", prompt(100, 1), capture=ALL),
        Request("some", prompt(7, 2), capture={"capture_layers": "1,3-4"}),
        Request("stream", prompt(12, 3), {"ablation": "stream"}, ALL),
        Request("writes", prompt(70, 4), {"ablation": "writes", "ablation_alpha": 0.5}, ALL),
        Request("ablated", prompt(12, 3), {"ablation": "stream"}),
    ]
    answers = answer(engine, requests)
    by_id = {request.id: request.token_ids for request in requests}
    assert answers["none"].captured is None and answers["ablated"].captured is None
    for name, site, alpha in (
        ("all", None, 1.0),
        ("chunked", None, 1.0),
        ("stream", "stream", 1.0),
        ("writes", "writes", 0.5),
    ):
        found = answers[name].captured
        assert found.sites == sites_of(served[1]) and found.layers == tuple(range(N_LAYERS)), name
        assert found.resid.dtype == torch.float32
        expected = hooked(served, by_id[name], site, alpha)
        assert distance(found.resid, expected) < TOLERANCE, name
        assert distance(found.resid, expected.roll(1, dims=1)) > APART, name  # a layer off by one would be seen
        if site is not None:
            assert distance(found.resid, hooked(served, by_id[name])) > APART, name
    some = answers["some"].captured
    assert some.sites == ("resid_post",) and some.layers == (1, 3, 4)
    assert distance(some.resid, hooked(served, by_id["some"])[-1:, [1, 3, 4]]) < TOLERANCE


def test_capturing_changes_no_answer(served):
    _, _, engine, _ = served
    plain = answer(engine, [Request(str(seed), prompt(20, seed)) for seed in range(4)], max_tokens=12)
    capturing = answer(engine, [Request(str(seed), prompt(20, seed), capture=ALL) for seed in range(4)], max_tokens=12)
    for name, response in plain.items():
        assert capturing[name].token_ids == response.token_ids


def test_a_prompt_from_the_prefix_cache_is_captured_all_the_same(served):
    _, _, engine, _ = served
    token_ids = prompt(2 * BLOCK_SIZE, 9)
    for n_cached in (0, BLOCK_SIZE, BLOCK_SIZE):  # of a prompt that is cached whole, the last block is computed again
        (response,) = answer(engine, [Request("again", token_ids, capture=ALL)]).values()
        assert response.n_cached_tokens == n_cached
        assert distance(response.captured.resid, hooked(served, token_ids)) < TOLERANCE


def test_a_request_that_cannot_be_honoured_is_refused_and_the_engine_goes_on(served):
    from vllm.exceptions import VLLMClientError

    _, _, engine, _ = served
    for keys, reason in (
        ({"capture_layers": "3-99"}, "outside the model"),
        ({"capture_sites": "all"}, "without capture_layers"),
        ({"capture_layers": "all", "capture_sites": "logits"}, "must name some of"),
    ):
        with pytest.raises(VLLMClientError, match=reason):
            answer(engine, [Request("refused", prompt(5), capture=keys)])
    assert answer(engine, [Request("next", prompt(5), capture=ALL)])["next"].captured is not None


def test_a_server_with_capture_settings_refuses_to_capture(served):
    """The front end of every server, `AsyncLLM`, is told as soon as an engine with capture settings starts."""
    from vllm import SamplingParams
    from vllm.exceptions import VLLMValidationError
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.exceptions import EngineDeadError

    def add(keys):
        stopped = SimpleNamespace(errored=True)
        return asyncio.run(AsyncLLM.add_request(stopped, "1", prompt(5), SamplingParams(extra_args=keys)))

    with pytest.raises(VLLMValidationError, match="offline only"):
        add(ALL)
    with pytest.raises(EngineDeadError):  # reached vLLM's own
        add({"ablation": "stream"})


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """`vllm.LLM` as its users have it, with so few blocks that requests are preempted, and its Hugging Face model."""
    from vllm import LLM

    from vllm_refusal.settings.capture import capture_arguments

    folder = save_servable_model(tmp_path_factory.mktemp("small") / "model", "LlamaForCausalLM")
    llm = LLM(
        model=str(folder),
        dtype="float32",
        enforce_eager=True,
        skip_tokenizer_init=True,
        max_model_len=128,
        block_size=BLOCK_SIZE,
        num_gpu_blocks_override=7,
        enable_prefix_caching=False,
        distributed_executor_backend="uni",
        **capture_arguments(max_bytes=4 * 3 * N_LAYERS * D_MODEL * 4),  # four requests with everything
    )
    yield llm, (servable_model("LlamaForCausalLM"), entry_of("LlamaForCausalLM"), None, None)
    llm.llm_engine.engine_core.shutdown()


def generate(llm, prompts, **sampling):
    from vllm import SamplingParams

    params = SamplingParams(**{"temperature": 0, "detokenize": False, "extra_args": ALL} | sampling)
    return llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)


def test_preempted_requests_are_captured_as_if_they_had_run_through(small, monkeypatch):
    from vllm.v1.core.sched.scheduler import Scheduler

    llm, model = small
    n_preempted = 0
    original = Scheduler._preempt_request

    def counting(self, *args, **kwargs):
        nonlocal n_preempted
        n_preempted += 1
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Scheduler, "_preempt_request", counting)
    prompts = [prompt(25, seed) for seed in range(4)]
    outputs = generate(llm, prompts, max_tokens=60, ignore_eos=True)
    assert n_preempted > 0
    found = take_captured(llm)
    for token_ids, output in zip(prompts, outputs, strict=True):
        assert distance(found[output.request_id].resid, hooked(model, token_ids)) < TOLERANCE


def test_several_samples_of_one_prompt_are_captured_once(small):
    llm, model = small
    (output,) = generate(llm, [prompt(9)], n=3, temperature=1.0, seed=0, max_tokens=4)
    assert len(output.outputs) == 3
    found = take_captured(llm, [output.request_id])
    assert distance(found[output.request_id].resid, hooked(model, prompt(9))) < TOLERANCE
    assert take_captured(llm) == {}


def test_what_is_not_fetched_counts_against_the_bound_and_is_never_dropped(small):
    llm, model = small
    held = generate(llm, [prompt(9, seed) for seed in range(4)], max_tokens=1)
    (beyond,) = generate(llm, [prompt(9, 5)], max_tokens=1)
    with pytest.raises(CaptureError, match=rf"request {beyond.request_id}: .*exceed the bound"):
        take_captured(llm, [beyond.request_id])
    found = take_captured(llm)
    assert list(found) == [output.request_id for output in held]
    assert distance(found[held[3].request_id].resid, hooked(model, prompt(9, 3))) < TOLERANCE
    with pytest.raises(CaptureError, match="no activations wait"):
        take_captured(llm, [held[0].request_id])
