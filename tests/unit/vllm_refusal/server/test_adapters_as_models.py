"""A served LoRA adapter chosen by `model=`, together with an ablation among the request's keys."""

import asyncio
from types import SimpleNamespace

import pytest

pytest.importorskip("vllm")

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.serve.engine.serving import BaseServing
from vllm.lora.request import LoRARequest

from surgery.residual.subspace import random_subspace
from vllm_refusal.server.names import _selecting_ablation
from vllm_refusal.settings.modules import AblationConfig, AblationModule

ADAPTER = LoRARequest("tuned", 1, "/adapters/tuned")


@pytest.fixture
def serving():
    """The parts of vLLM's serving class that choose a model: a base, an adapter, and the ablation "refusal"."""
    module = AblationModule(
        "refusal", "", random_subspace(8, 1, seed=0).basis, None, 1.0, (0,), "stream", "sha", "file"
    )
    ablation = AblationConfig({"refusal": module}, None, 1, 8, 4)
    models = SimpleNamespace(
        lora_requests={"tuned": ADAPTER},
        input_processor=SimpleNamespace(ablation=ablation),
        is_base_model=lambda name: name in ("base", "refusal"),
    )
    return SimpleNamespace(
        models=models,
        _is_model_supported=models.is_base_model,
        create_error_response=lambda message, **_: message,
    )


async def nothing_wrong(self, request):
    return None


def choose(serving, **fields):
    """(what was refused, the adapter, the extra arguments of the engine's request)."""
    request = ChatCompletionRequest(messages=[], **fields)
    refused = asyncio.run(_selecting_ablation(nothing_wrong)(serving, request))
    adapter = BaseServing._maybe_get_adapters(serving, request)
    return refused, adapter, request.to_sampling_params(8, {}).extra_args


def test_an_adapter_chosen_as_model_keeps_the_keys_of_an_ablation(serving):
    keys = {"ablation": "refusal", "ablation_alpha": 0.5}
    assert choose(serving, model="tuned", vllm_xargs=keys) == (None, ADAPTER, keys)


def test_an_ablation_chosen_as_model_takes_no_adapter_and_the_base_takes_neither(serving):
    assert choose(serving, model="refusal") == (None, None, {"ablation": "refusal"})
    refused, adapter, extra_args = choose(serving, model="base")
    assert (refused, adapter) == (None, None) and not extra_args


def test_an_adapter_without_keys_gets_no_ablation(serving):
    refused, adapter, extra_args = choose(serving, model="tuned")
    assert (refused, adapter) == (None, ADAPTER) and not extra_args
