"""What a request may ask to be captured, what the engine's settings must be, and how activations are held."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from surgery.architecture.table import ARCHITECTURES
from surgery.console.errors import LayerRangeError
from surgery.residual.sites import RESID_SITES
from vllm_refusal.edit.reader import CaptureStore, StreamReader
from vllm_refusal.engine.captured import take_captured
from vllm_refusal.settings.capture import (
    CaptureConfig,
    CaptureError,
    CaptureRequest,
    capture_arguments,
    load_capture,
    resolve_capture,
)
from vllm_refusal.settings.modules import ConfigError

N_LAYERS, D_MODEL = 4, 8
ONE_LAYER = D_MODEL * 4  # bytes


def engine(**changed):
    """What the settings are read from: the parts of a vLLM config that matter to them."""
    arguments = capture_arguments()
    parallel = {"use_ubatching": False, "data_parallel_size": 1, "prefill_context_parallel_size": 1}
    parallel |= {"enable_elastic_ep": False, "use_sequence_parallel_moe": False}
    parallel |= {name: changed.pop(name) for name in (*parallel, "worker_extension_cls") if name in changed}
    parts = {
        "additional_config": arguments["additional_config"],
        "model_config": SimpleNamespace(
            architecture=changed.pop("architecture", "LlamaForCausalLM"),
            runner_type="generate",
            get_total_num_hidden_layers=lambda: N_LAYERS,
            get_hidden_size=lambda: D_MODEL,
        ),
        "parallel_config": SimpleNamespace(**{"worker_extension_cls": arguments["worker_extension_cls"]} | parallel),
        "cache_config": SimpleNamespace(kv_sharing_fast_prefill=changed.pop("kv_sharing_fast_prefill", False)),
        "speculative_config": None,
        "kv_transfer_config": None,
        "use_v2_model_runner": False,
    }
    return SimpleNamespace(**parts | changed)


@pytest.fixture
def config():
    return load_capture(engine())


def test_settings_are_read_with_their_defaults(config):
    assert config == CaptureConfig(N_LAYERS, D_MODEL, 2**30)
    assert load_capture(engine(additional_config=capture_arguments(5000)["additional_config"])).max_bytes == 5000


@pytest.mark.parametrize("additional", [{}, {"ablation": {}}, None])
def test_an_engine_without_settings_does_not_capture(additional):
    assert load_capture(engine(additional_config=additional)) is None


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"architecture": "WhisperForConditionalGeneration"}, "capture is not supported for architecture Whisper"),
        ({"speculative_config": SimpleNamespace(method="ngram")}, "capture together with speculative"),
        ({"use_ubatching": True}, "capture together with micro-batching"),
        ({"use_v2_model_runner": True}, "VLLM_USE_V2_MODEL_RUNNER=0"),
        ({"data_parallel_size": 2}, "data parallelism"),
        ({"prefill_context_parallel_size": 2}, "context parallelism"),
        ({"kv_transfer_config": object()}, "KV transfer"),
        ({"kv_sharing_fast_prefill": True}, "kv_sharing_fast_prefill"),
        ({"worker_extension_cls": ""}, "capture_arguments"),
        ({"additional_config": {"capture": {"max_gib": 1}}}, "unknown setting max_gib"),
        ({"additional_config": {"capture": {"max_bytes": 0}}}, "max_bytes"),
        ({"additional_config": {"capture": True}}, "expected a JSON object"),
    ],
)
def test_engines_that_cannot_capture_are_refused_with_the_reason(changed, words):
    assert load_capture(engine()) is not None
    with pytest.raises(ConfigError, match=words):
        load_capture(engine(**changed))


def test_a_request_is_resolved_with_every_form_of_layers_and_sites(config):
    def resolved(**keys):
        capture = resolve_capture("7", keys, config)
        assert CaptureRequest.from_wire(capture.to_wire()) == capture and capture.id == "7"
        return capture.layers, capture.sites

    assert resolved(capture_layers="all") == ((0, 1, 2, 3), ("resid_post",))
    assert resolved(capture_layers="1-2", capture_sites="resid_mid") == ((1, 2), ("resid_mid",))
    assert resolved(capture_layers=[3, 0.0], capture_sites=["resid_post", "resid_pre"]) == (
        (0, 3),
        ("resid_pre", "resid_post"),
    )
    assert resolved(capture_layers=2, capture_sites="all") == ((2,), RESID_SITES)


def test_a_request_without_keys_captures_nothing(config):
    for keys in (None, {}, {"ablation": "one"}, {"captured": 1}):
        assert resolve_capture("7", keys, config) is None
        assert resolve_capture("7", keys, None) is None


@pytest.mark.parametrize(
    ("keys", "error", "words"),
    [
        ({"capture_layers": "4"}, LayerRangeError, "outside the model"),
        ({"capture_layers": []}, LayerRangeError, "empty"),
        ({"capture_sites": "all"}, CaptureError, "without capture_layers"),
        ({"capture_layers": "all", "capture_sites": "logits"}, CaptureError, "must name some of"),
        ({"capture_layers": "all", "capture_sites": []}, CaptureError, "must name some of"),
        ({"capture_layers": "all", "capture_sites": 3}, CaptureError, "must name some of"),
        ({"capture_layers": "all", "capture_position": -2}, CaptureError, "unknown request key capture_position"),
        ({"capture_layers": "all", "capture_resolved": {}}, CaptureError, "unknown request key capture_resolved"),
    ],
)
def test_a_request_that_cannot_be_honoured_is_an_error(config, keys, error, words):
    with pytest.raises(error, match=words):
        resolve_capture("7", keys, config)


def test_a_request_to_an_engine_without_capture_is_an_error_that_says_how_to_start_one():
    with pytest.raises(CaptureError, match=r"offline only.*capture_arguments"):
        resolve_capture("7", {"capture_layers": "all"}, None)


def test_a_site_that_the_models_blocks_do_not_have_is_an_error(monkeypatch):
    side_by_side = replace(ARCHITECTURES["LlamaForCausalLM"], fed_mid=None)
    monkeypatch.setitem(ARCHITECTURES, "LlamaForCausalLM", side_by_side)
    config = load_capture(engine())
    assert resolve_capture("7", {"capture_layers": 0, "capture_sites": "all"}, config).sites == (
        "resid_pre",
        "resid_post",
    )
    with pytest.raises(CaptureError, match="this model's resid_pre, resid_post"):
        resolve_capture("7", {"capture_layers": 0, "capture_sites": "resid_mid"}, config)


def test_a_request_larger_than_the_bound_is_an_error():
    small = CaptureConfig(N_LAYERS, D_MODEL, max_bytes=3 * ONE_LAYER)
    assert resolve_capture("7", {"capture_layers": "1-3"}, small).layers == (1, 2, 3)
    with pytest.raises(CaptureError, match="larger max_bytes"):
        resolve_capture("7", {"capture_layers": "all"}, small)


def read_step(reader, captures, rows, streams):
    """One step in which every block tells its stream, [n_layers, n_tokens, d_model], as two addends."""
    with reader.reading(captures, rows, "cpu"):
        for layer, stream in enumerate(streams):
            reader.record("resid_post", layer, (stream - 1, torch.ones_like(stream)))


@pytest.fixture
def streams():
    return torch.randn(N_LAYERS, 6, D_MODEL, generator=torch.Generator().manual_seed(0))


class Llm:
    """The one method of `vllm.LLM` that fetching uses, over workers in this process."""

    def __init__(self, *stores):
        self.stores = stores

    def collective_rpc(self, method, args):
        assert method == "take_captured"
        return [{} if store is None else store.take(*args) for store in self.stores]


def test_each_request_gets_its_own_row_and_layers(config, streams):
    store = CaptureStore(config)
    captures = [CaptureRequest("a", (0, 1, 2, 3), ("resid_post",)), CaptureRequest("b", (1, 3), ("resid_post",))]
    reader = StreamReader(store)
    read_step(reader, captures, [4, 2], streams)
    assert not reader.active
    found = take_captured(Llm(store, None))
    assert list(found) == ["a", "b"] and found["b"].layers == (1, 3)
    torch.testing.assert_close(found["a"].resid, streams[None, :, 4])
    torch.testing.assert_close(found["b"].resid, streams[None, [1, 3], 2])


def test_pipeline_stages_are_joined_in_the_order_of_layers(config, streams):
    stores = [CaptureStore(config), CaptureStore(config)]
    captures = [CaptureRequest("a", (0, 1, 2, 3), ("resid_post",)), CaptureRequest("late", (3,), ("resid_post",))]
    for store, layers in zip(stores, ((2, 3), (0, 1)), strict=True):
        with (reader := StreamReader(store)).reading(captures, [0, 1], "cpu"):
            for layer in layers:
                reader.record("resid_post", layer, (streams[layer], None))
    found = take_captured(Llm(*stores), ["late", "a"])
    torch.testing.assert_close(found["a"].resid, streams[None, :, 0])
    torch.testing.assert_close(found["late"].resid, streams[None, [3], 1])


def test_what_was_fetched_is_forgotten_and_what_was_not_stays(config, streams):
    store = CaptureStore(config)
    captures = [CaptureRequest(id, (0,), ("resid_post",)) for id in ("a", "b")]
    read_step(StreamReader(store), captures, [0, 1], streams)
    assert list(take_captured(Llm(store), ["a"])) == ["a"]
    with pytest.raises(CaptureError, match="request a: no activations wait"):
        take_captured(Llm(store), ["a", "b"])
    assert list(take_captured(Llm(store))) == ["b"]
    assert take_captured(Llm(store)) == {}


def test_beyond_the_bound_a_request_is_refused_by_name_and_nothing_held_is_lost(streams):
    store = CaptureStore(CaptureConfig(N_LAYERS, D_MODEL, max_bytes=2 * ONE_LAYER))
    captures = [CaptureRequest(id, (0,), ("resid_post",)) for id in ("a", "b", "c")]
    read_step(StreamReader(store), captures, [0, 1, 2], streams)
    with pytest.raises(CaptureError, match=f"request c: .*the bound of {2 * ONE_LAYER}"):
        take_captured(Llm(store))
    assert list(take_captured(Llm(store))) == ["a", "b"]
    read_step(StreamReader(store), captures[2:], [2], streams)  # there is room again
    torch.testing.assert_close(take_captured(Llm(store))["c"].resid, streams[None, :1, 2])


def test_a_request_read_again_replaces_what_was_read_before(streams):
    store = CaptureStore(CaptureConfig(N_LAYERS, D_MODEL, max_bytes=ONE_LAYER))
    capture = CaptureRequest("a", (2,), ("resid_post",))
    for row in (1, 3):
        read_step(StreamReader(store), [capture], [row], streams)
    torch.testing.assert_close(take_captured(Llm(store))["a"].resid, streams[None, 2:3, 3])


def test_a_step_that_fails_stores_nothing(config, streams):
    store = CaptureStore(config)
    reader = StreamReader(store)
    with pytest.raises(ZeroDivisionError), reader.reading([CaptureRequest("a", (0,), ("resid_post",))], [0], "cpu"):
        raise ZeroDivisionError
    assert not reader.active and take_captured(Llm(store)) == {}
