"""An ablation's name given as a model: resolved in one place, and refused wherever that place was passed over."""

import asyncio
from types import SimpleNamespace

import pytest

from surgery.residual.subspace import random_subspace
from vllm_refusal.compatibility.wrapping import owner_of
from vllm_refusal.server import names as serving
from vllm_refusal.server.launch import ServerError, _check_names, default_name
from vllm_refusal.settings.modules import AblationConfig, AblationModule

D_MODEL, N_LAYERS = 16, 3
HELLO = [{"role": "user", "content": "Hello"}]


def module(name, path="/data/file.safetensors"):
    basis = random_subspace(D_MODEL, 1, seed=0).basis
    return AblationModule(name, path, basis, None, 1.0, (0, 2), "stream", f"sha-{name}", f"file-{name}")


@pytest.fixture
def base_serving(monkeypatch):
    """vLLM's own serving class with our methods, on a model `base` and ablations `one` and `two`."""
    from vllm.entrypoints.openai.models.protocol import BaseModelPath
    from vllm.entrypoints.openai.models.serving import OpenAIServingModels
    from vllm.entrypoints.serve.engine.serving import BaseServing

    for place, wrapper in serving.wrapped().items():
        owner, method = owner_of(place)
        monkeypatch.setattr(owner, method, wrapper(getattr(owner, method)))
    config = AblationConfig({name: module(name) for name in ("one", "two")}, None, N_LAYERS, D_MODEL, 4)
    client = SimpleNamespace(
        model_config=SimpleNamespace(max_model_len=64),
        renderer=None,
        input_processor=SimpleNamespace(ablation=config, ablation_metrics=None),
    )
    models = OpenAIServingModels(client, [BaseModelPath(name="base", model_path="/models/secret/base")])
    return BaseServing(models, client.model_config)


def chat(model, **vllm_xargs):
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    return ChatCompletionRequest(model=model, messages=HELLO, vllm_xargs=vllm_xargs or None)


def checked(base_serving, request):
    """Returns: vLLM's error or None, and what the model's name is then taken for in the same context."""

    async def check():
        error = await base_serving._check_model(request)
        return error, base_serving.models.is_base_model(request.model)

    return asyncio.run(check())


def test_a_name_is_accepted_only_where_its_keys_were_set(base_serving):
    from vllm.exceptions import VLLMNotFoundError

    request = chat("one", ablation_alpha=0.5)
    assert not base_serving.models.is_base_model("one")
    with pytest.raises(VLLMNotFoundError):
        base_serving._maybe_get_adapters(request)
    assert checked(base_serving, request) == (None, True)
    assert request.vllm_xargs == {"ablation": "one", "ablation_alpha": 0.5}
    assert checked(base_serving, chat("base")) == (None, True)
    assert not base_serving.models.is_base_model("one")  # another request's context


def test_one_request_s_name_is_not_accepted_for_the_next_of_its_context(base_serving):
    async def both():
        assert await base_serving._check_model(chat("one")) is None
        return base_serving.models.is_base_model("two"), await base_serving._check_model(chat("base"))

    assert asyncio.run(both()) == (False, None)


@pytest.mark.parametrize(
    ("lost", "kept"),
    [({}, False), (None, False), ({"ablation": "two"}, False), ({"ablation": "one"}, False)]
    + [({"ablation": "one", "ablation_alpha": 0.5, "other": 1}, True)],
)
def test_keys_that_a_route_loses_on_the_way_to_the_engine_fail_the_request(base_serving, lost, kept):
    from vllm.exceptions import VLLMValidationError
    from vllm.sampling_params import SamplingParams

    async def engine(self, request_id, prompt, params, *args, **kwargs):
        return "admitted"

    async def admitted():
        assert await base_serving._check_model(chat("one", ablation_alpha=0.5)) is None
        return await serving._refusing_lost_keys(engine)(None, "r", "prompt", SamplingParams(extra_args=lost))

    if kept:
        assert asyncio.run(admitted()) == "admitted"
        return
    with pytest.raises(VLLMValidationError, match="lost on the way"):
        asyncio.run(admitted())


def test_requests_that_ask_for_nothing_and_those_of_no_client_pass(base_serving):
    from vllm.sampling_params import SamplingParams

    async def engine(self, request_id, prompt, params, *args, **kwargs):
        return "admitted"

    async def admitted(request):
        assert request is None or await base_serving._check_model(request) is None
        return await serving._refusing_lost_keys(engine)(
            None, "r", "prompt", SamplingParams(extra_args={"ablation": "two"})
        )

    assert asyncio.run(admitted(chat("base"))) == asyncio.run(admitted(None)) == "admitted"


def test_a_server_with_ablations_does_not_start_where_any_model_name_is_accepted(monkeypatch):
    def arguments(ablation):
        settings = {"ablation": {"modules": ablation}} if ablation else {}
        return SimpleNamespace(model="m", served_model_name=["m"], lora_modules=None, additional_config=settings)

    _check_names(arguments({"one": {}}))
    monkeypatch.setenv("VLLM_SKIP_MODEL_NAME_VALIDATION", "1")
    _check_names(arguments({}))
    with pytest.raises(ServerError, match="VLLM_SKIP_MODEL_NAME_VALIDATION"):
        _check_names(arguments({"one": {}}))


def test_a_model_is_served_under_its_hub_id_or_its_folders_last_name(tmp_path, monkeypatch):
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "models" / "tiny")
    folder = str(tmp_path / "models" / "tiny")
    assert {default_name(model) for model in (folder, f"{folder}/", ".", "../tiny")} == {"tiny"}
    assert default_name("org/tiny") == "org/tiny"


@pytest.mark.parametrize(
    ("model", "keys", "status", "words"),
    [
        ("base", {"ablation": "three"}, 404, "ablation 'three' is not loaded; loaded: one, two"),
        ("one", {"ablation_alpha": "x"}, 400, "finite number"),
        ("one", {"ablation_layers": "0-99"}, 400, "layer 3-99 is outside the model: it has 3 layers, 0..2"),
        ("one", {"ablation_layer": 1}, 400, "unknown request key ablation_layer"),
        ("base", {"ablation_alpha": 1.0}, 400, "names no ablation"),
        ("base", {"capture_layers": "all"}, 400, "offline only"),
        ("three", {}, 404, "The model `three` does not exist. Valid names: base, one, two."),
    ],
)
def test_what_cannot_be_honoured_is_refused_before_a_route_begins_to_answer(base_serving, model, keys, status, words):
    error, _ = checked(base_serving, chat(model, **keys))
    assert (error.error.code, "\n" in error.error.message) == (status, False) and words in error.error.message
    assert checked(base_serving, chat("one", ablation_alpha=0.5, ablation_layers="0-1"))[0] is None


def test_the_list_of_models_shows_names_of_files_and_no_absolute_path(base_serving):
    from vllm.lora.request import LoRARequest

    base_serving.models.lora_requests["adapter"] = LoRARequest("adapter", 1, "/home/someone/adapter")
    listed = asyncio.run(base_serving.models.show_available_models())
    assert {card.id: card.root for card in listed.data} == {
        "base": "base",
        "adapter": "adapter",
        "one": "file.safetensors",
        "two": "file.safetensors",
    }
    base_serving.models.base_model_paths[0].model_path = "organization/model"
    assert asyncio.run(base_serving.models.show_available_models()).data[0].root == "organization/model"
