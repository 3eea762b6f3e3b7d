"""What a client may ask for, and what the engine's settings must be."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tiny_models import D_MODEL, N_LAYERS, save_servable_model

from surgery.console.errors import (
    AlphaError,
    ArtifactError,
    LayerRangeError,
    MismatchError,
    ModelError,
    RefusalError,
    ShapeError,
)
from surgery.files.artifacts import save_artifact
from surgery.model.models import describe_model
from surgery.residual.subspace import random_subspace
from surgery.residual.vectors import RefusalVectors
from vllm_refusal.admission import engine_core
from vllm_refusal.admission.engine_core import admit
from vllm_refusal.server.launch import ServerError, server_arguments
from vllm_refusal.settings.engine_settings import load_config
from vllm_refusal.settings.module_options import OptionError, parse_ablation_option
from vllm_refusal.settings.modules import ConfigError
from vllm_refusal.settings.request import Intervention, RequestError, UnknownAblationError, resolve


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_servable_model(tmp_path_factory.mktemp("model"), "LlamaForCausalLM")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    random_subspace(D_MODEL, 1, seed=0).save(folder / "one.safetensors")
    random_subspace(D_MODEL, 4, seed=1).save(folder / "four.safetensors")
    random_subspace(D_MODEL * 2, 1, seed=0).save(folder / "wide.safetensors")
    vectors = torch.randn(N_LAYERS, D_MODEL, generator=torch.Generator().manual_seed(0))
    RefusalVectors(vectors).save(folder / "rvs.safetensors")
    save_artifact(folder / "skewed.safetensors", "subspace", {"basis": torch.ones(2, D_MODEL)}, {})
    return folder


@pytest.fixture
def engine(model):
    """Builds what the settings are read from: the parts of a vLLM config that matter to them."""

    def build(
        ablation,
        architecture="LlamaForCausalLM",
        speculative=None,
        dbo=False,
        tp=1,
        runner_type="generate",
        v2=False,
        pcp=1,
        kv_transfer=None,
        dtype="torch.float32",
        **parallel,
    ):
        known = {"tensor_parallel_size": tp, "prefill_context_parallel_size": pcp, "use_ubatching": dbo}
        known |= {"enable_elastic_ep": False, "use_sequence_parallel_moe": False}
        return SimpleNamespace(
            additional_config={"ablation": ablation} if ablation is not None else {},
            model_config=SimpleNamespace(
                model=str(model),
                revision=None,
                architecture=architecture,
                runner_type=runner_type,
                dtype=dtype,
                get_total_num_hidden_layers=lambda: N_LAYERS,
                get_hidden_size=lambda: D_MODEL,
            ),
            speculative_config=speculative,
            use_v2_model_runner=v2,
            kv_transfer_config=kv_transfer,
            parallel_config=SimpleNamespace(**known | parallel),
            scheduler_config=SimpleNamespace(max_num_seqs=8),
        )

    return build


@pytest.fixture
def config(engine, files):
    modules = {
        "one": {"path": str(files / "one.safetensors"), "alpha": 0.5, "layers": "1-3"},
        "four": {"path": str(files / "four.safetensors"), "site": "writes"},
        "rv": {"path": str(files / "rvs.safetensors"), "source_layer": 2},
        "qr": {"path": str(files / "rvs.safetensors"), "source_layers": "1,3-4"},
    }
    return load_config(engine({"modules": modules}))


def test_settings_are_read_with_their_defaults(config):
    assert config.modules["one"].alpha == 0.5 and config.modules["one"].layers == (1, 2, 3)
    assert config.modules["four"].alpha == 1.0 and config.modules["four"].layers == tuple(range(N_LAYERS))
    assert [module.rank for module in config.modules.values()] == [1, 4, 1, 3]
    assert (config.rank, config.sites, config.default, config.max_slots) == (4, ("stream", "writes"), None, 8)


def test_an_rv_file_gives_the_unit_vector_of_its_source_layer(config, files):
    expected = RefusalVectors.load(files / "rvs.safetensors").direction(2)
    torch.testing.assert_close(config.modules["rv"].basis[0], expected)


def test_an_engine_without_settings_has_no_config(engine):
    assert load_config(engine(None)) is None


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ({"path": "missing.safetensors"}, ArtifactError, "no such file"),
        ({"path": "wide.safetensors"}, ShapeError, f"d_model {2 * D_MODEL} .* has {D_MODEL}"),
        ({"path": "skewed.safetensors"}, ArtifactError, "not orthonormal"),
        ({"path": "rvs.safetensors"}, ArtifactError, "source_layer"),
        ({"path": "rvs.safetensors", "source_layer": 99}, LayerRangeError, "outside the model"),
        ({"path": "one.safetensors", "source_layer": 1}, ArtifactError, "is a subspace already"),
        ({"path": "one.safetensors", "alpha": float("inf")}, AlphaError, "finite"),
        ({"path": "one.safetensors", "layers": "9"}, LayerRangeError, "outside the model"),
        ({"path": "one.safetensors", "site": "logits"}, ConfigError, "site must be one of"),
        ({"path": "one.safetensors", "strength": 1}, ConfigError, "unknown setting strength"),
    ],
)
def test_a_module_that_does_not_fit_stops_the_engine_by_name(engine, files, spec, error, words):
    spec = {**spec, "path": str(files / spec["path"])}
    with pytest.raises(error, match=rf"ablation 'bad'.*{words}"):
        load_config(engine({"modules": {"bad": spec}}))


def test_engines_that_cannot_ablate_are_refused_with_the_reason(engine, files):
    settings = {"modules": {"one": {"path": str(files / "one.safetensors")}}}
    assert load_config(engine(settings)) is not None
    assert load_config(engine(settings, speculative=SimpleNamespace(method="ngram"))) is not None
    for arguments, words in (
        ({"architecture": "WhisperForConditionalGeneration"}, "Whisper"),
        ({"speculative": SimpleNamespace(method="eagle")}, "speculative decoding by eagle .*ngram, draft_model"),
        ({"speculative": SimpleNamespace(method="ngram"), "v2": True}, "needs Model Runner V1"),
        ({"dbo": True}, "micro-batching"),
        ({"enable_elastic_ep": True}, "elastic expert parallelism"),
        ({"use_sequence_parallel_moe": True}, "sequence-parallel experts"),
        ({"runner_type": "pooling"}, "pooling runner"),
        ({"pcp": 2}, "context parallelism"),
        ({"kv_transfer": object()}, "KV transfer"),
    ):
        with pytest.raises(ConfigError, match=words):
            load_config(engine(settings, **arguments))
    with pytest.raises(ConfigError, match="max_slots"):
        load_config(engine({**settings, "max_slots": 3}))
    with pytest.raises(ConfigError, match="default ablation 'two'"):
        load_config(engine({**settings, "default": "two"}))
    with pytest.raises(ConfigError, match="names no modules"):
        load_config(engine({"modules": {}}))


@pytest.mark.parametrize(
    ("architecture", "tp", "words"),
    [
        ("Gemma2ForCausalLM", 1, "passes a norm"),
        ("Glm4ForCausalLM", 1, "passes a norm"),
        ("GraniteForCausalLM", 1, "is multiplied by a number"),
        ("CohereForCausalLM", 2, "partial sum"),
        ("CohereForCausalLM", 1, None),
        ("LlamaForCausalLM", 2, None),
    ],
)
def test_an_offset_of_writes_is_refused_where_what_is_added_is_another_thing(engine, tmp_path, architecture, tp, words):
    path = tmp_path / "affine.safetensors"
    save_artifact(path, "subspace", {"basis": torch.eye(D_MODEL)[:1], "offset": torch.ones(1)}, {})
    settings = {"modules": {"affine": {"path": str(path), "site": "writes"}}}
    if words is None:
        assert load_config(engine(settings, architecture=architecture, tp=tp)) is not None
        return
    with pytest.raises(
        ConfigError if tp > 1 else ModelError, match=f"ablation 'affine': an offset .*{architecture}.*{words}"
    ):
        load_config(engine(settings, architecture=architecture, tp=tp))
    settings["modules"]["affine"]["site"] = "stream"
    assert load_config(engine(settings, architecture=architecture, tp=tp)) is not None
    save_artifact(path, "subspace", {"basis": torch.eye(D_MODEL)[:1]}, {}, force=True)
    settings["modules"]["affine"]["site"] = "writes"
    assert load_config(engine(settings, architecture=architecture, tp=tp)) is not None


def test_rvs_of_another_model_are_refused_unless_allowed(engine, model, tmp_path):
    other = describe_model(save_servable_model(tmp_path / "other", "LlamaForCausalLM", seed=3))
    random_subspace(D_MODEL, 1, seed=0)
    path = tmp_path / "rvs.safetensors"
    RefusalVectors(torch.ones(N_LAYERS, D_MODEL), header={"model": other.to_json()}).save(path)
    spec = {"path": str(path), "source_layer": 1}
    with pytest.raises(MismatchError, match=other.fingerprint[:12]):
        load_config(engine({"modules": {"foreign": spec}}))
    assert load_config(engine({"modules": {"foreign": {**spec, "allow_other_model": True}}})) is not None


def test_a_request_is_resolved_with_the_modules_defaults(config):
    intervention = resolve({"ablation": "one", "other_plugin": 3}, config)
    assert (intervention.module, intervention.alpha, intervention.layers) == ("one", 0.5, (1, 2, 3))
    changed = resolve({"ablation": "one", "ablation_alpha": 2, "ablation_layers": [0, 4.0]}, config)
    assert (changed.alpha, changed.layers) == (2.0, (0, 4))
    assert Intervention.from_wire(changed.to_wire()) == changed


def test_nothing_asked_none_and_alpha_zero_are_no_intervention(config):
    for keys in (None, {}, {"other": 1}, {"ablation": "none"}, {"ablation": "one", "ablation_alpha": 0}):
        assert resolve(keys, config) is None
    assert resolve({"ablation": "one"}, config) is not None


def test_the_default_applies_to_requests_that_name_none_and_can_be_bypassed(engine, files):
    settings = {"modules": {"one": {"path": str(files / "one.safetensors")}}, "default": "one"}
    config = load_config(engine(settings))
    assert resolve({}, config).module == "one"
    assert resolve({"ablation_alpha": 0.25}, config).alpha == 0.25
    assert resolve({"ablation": "none"}, config) is None


@pytest.mark.parametrize(
    ("keys", "error"),
    [
        ({"ablation": "two"}, UnknownAblationError),
        ({"ablation": 3}, UnknownAblationError),
        ({"ablation": "one", "ablation_alpha": "1"}, AlphaError),
        ({"ablation": "one", "ablation_alpha": float("nan")}, AlphaError),
        ({"ablation": "one", "ablation_layers": "5"}, LayerRangeError),
        ({"ablation": "one", "ablation_layers": []}, LayerRangeError),
        ({"ablation_alpha": 1.0}, RequestError),
        ({"ablation": "none", "ablation_alpha": 1.0}, RequestError),
        ({"ablation": "one", "ablation_resolved": {}}, RequestError),
    ],
)
def test_a_request_that_cannot_be_honoured_is_an_error(config, keys, error):
    with pytest.raises(error):
        resolve(keys, config)


def test_keys_without_settings_are_an_error_and_no_keys_are_not():
    with pytest.raises(RequestError, match="started without ablation"):
        resolve({"ablation": "one"}, None)
    assert resolve({"something": 1}, None) is None


def test_digests_differ_in_whatever_changes_the_result(config, engine, files):
    def digest(keys, settings=config):
        return resolve(keys, settings).digest

    one = {"ablation": "one"}
    same = digest({**one, "ablation_alpha": 0.5, "ablation_layers": "1-3"})
    others = [
        digest({**one, "ablation_alpha": 0.6}),
        digest({**one, "ablation_layers": "1-4"}),
        digest({"ablation": "four"}),
        digest(one, load_config(engine({"modules": {"one": {"path": str(files / "four.safetensors")}}}))),
        digest(
            {**one, "ablation_alpha": 0.5, "ablation_layers": "1-3"},
            load_config(engine({"modules": {"one": {"path": str(files / "one.safetensors"), "site": "writes"}}})),
        ),
    ]
    assert digest(one) == same
    assert len({same, *others}) == 6


def test_command_line_modules_are_read():
    assert parse_ablation_option("a=f.safetensors") == ("a", {"path": "f.safetensors"})
    name, settings = parse_ablation_option("t2=dir/f.safetensors,layers=3,5,7-9,alpha=1.5,source_layer=9,site=writes")
    assert name == "t2"
    assert settings == {
        "path": "dir/f.safetensors",
        "layers": "3,5,7-9",
        "alpha": 1.5,
        "source_layer": "9",
        "site": "writes",
    }


@pytest.mark.parametrize("text", ["a", "a=", "=f", "a=f,alpha=x", "a=f,strength=2", "a=f,7-9", "a=f,alpha=nan"])
def test_command_line_modules_that_cannot_be_read_are_an_error(text):
    with pytest.raises(RefusalError):
        parse_ablation_option(text)


def test_an_additional_config_of_the_user_is_kept():
    arguments = server_arguments("M", {"a": {"path": "f"}}, None, ["--port", "1", "--additional-config", '{"x": 1}'])
    assert arguments[:4] == ["--model", "M", "--port", "1"]
    assert arguments[-1] == '{"x": 1, "ablation": {"modules": {"a": {"path": "f"}}, "default": null}}'
    with pytest.raises(ServerError):
        server_arguments("M", {}, None, ["--additional-config={"])
    with pytest.raises(ServerError):
        server_arguments("M", {}, None, ["--additional-config", '{"ablation": {}}'])
    with pytest.raises(OptionError):
        parse_ablation_option("nothing")


@pytest.mark.parametrize("alpha", [4.1, -5, 1e10, 1e30])
def test_a_strength_beyond_the_engines_bound_is_refused(config, alpha):
    assert resolve({"ablation": "one", "ablation_alpha": 4}, config).alpha == 4
    assert resolve({"ablation": "one", "ablation_alpha": -4}, config).alpha == -4
    with pytest.raises(AlphaError, match="outside -4 to 4, what this engine admits"):
        resolve({"ablation": "one", "ablation_alpha": alpha}, config)


def test_the_bound_is_a_setting_and_holds_for_modules_too(engine, files):
    def load(alpha=1.0, **settings):
        modules = {"one": {"path": str(files / "one.safetensors"), "alpha": alpha}}
        return load_config(engine({"modules": modules, **settings}))

    wide = load(alpha=9.0, max_alpha=10)
    assert resolve({"ablation": "one", "ablation_alpha": -10}, wide).alpha == -10
    with pytest.raises(AlphaError, match="ablation 'one': alpha 9 is outside -4 to 4"):
        load(alpha=9.0)
    for bound in (0, -1, 1e7):
        with pytest.raises(ConfigError, match="max_alpha must be above 0"):
            load(max_alpha=bound)
    with pytest.raises(AlphaError, match="finite"):
        load(max_alpha=float("inf"))


def test_writes_in_float16_take_no_strength_that_makes_them_longer(engine, files):
    modules = {
        site: {"path": str(files / "one.safetensors"), "site": site, "alpha": 1.5} for site in ("stream", "writes")
    }
    narrow = load_config(engine({"modules": modules}, dtype="torch.float16"))
    assert resolve({"ablation": "writes", "ablation_alpha": 2}, narrow).alpha == 2
    assert resolve({"ablation": "stream", "ablation_alpha": -3}, narrow).alpha == -3
    for alpha in (2.1, -0.5):
        with pytest.raises(AlphaError, match="outside 0 to 2, .* at site writes in float16"):
            resolve({"ablation": "writes", "ablation_alpha": alpha}, narrow)
    assert resolve({"ablation": "writes", "ablation_alpha": -3}, load_config(engine({"modules": modules}))).alpha == -3


def test_an_offset_that_no_stream_reaches_is_refused(engine, tmp_path):
    def load(offset):
        path = tmp_path / "affine.safetensors"
        tensors = {"basis": torch.eye(D_MODEL)[:1], "offset": torch.tensor([offset])}
        save_artifact(path, "subspace", tensors, {}, force=True)
        return load_config(engine({"modules": {"affine": {"path": str(path)}}}))

    assert load(-1e5).modules["affine"].offset is not None
    with pytest.raises(ConfigError, match="offset 3e.38 is beyond 1e.06"):
        load(-3e38)


# ---------------------------------------------------------------- the engine core


def core_request(extra_args=None, salt=None, **more):
    fields = {"prompt_embeds": None, "resumable": False, "cache_salt": salt}
    return SimpleNamespace(sampling_params=SimpleNamespace(extra_args=extra_args), **fields | more)


def salt_of(config, extra_args=None, salt=None):
    request = core_request(extra_args, salt)
    admit(request, config)
    return request.cache_salt


def test_a_request_that_no_front_end_of_ours_has_seen_is_resolved_in_the_core(config):
    request = core_request({"ablation": "one", "ablation_alpha": 2})
    admit(request, config)
    assert Intervention.from_wire(request.sampling_params.extra_args["ablation_resolved"]).alpha == 2
    by_default = core_request()
    admit(by_default, replace(config, default="rv"))
    assert by_default.sampling_params.extra_args["ablation_resolved"]["module"] == "rv"
    plain = core_request()
    admit(plain, config)
    assert plain.sampling_params.extra_args is None
    with pytest.raises(UnknownAblationError, match="'x' is not loaded"):
        admit(core_request({"ablation": "x"}), config)
    with pytest.raises(RequestError, match="started without ablation"):
        admit(core_request({"ablation": "one"}), None)


def test_a_record_of_the_front_ends_must_be_what_the_core_finds(config):
    def carrying(intervention, **keys):
        return core_request({**keys, "ablation_resolved": intervention.to_wire()})

    found = resolve({"ablation": "one"}, config)
    admit(carrying(found, ablation="one"), config)
    forged = replace(found, alpha=3.0)
    for request in (
        carrying(found),
        carrying(found, ablation="rv"),
        carrying(found, ablation="one", ablation_alpha=0.0),
    ):
        with pytest.raises(RequestError, match="resolved to something else"):
            admit(request, config)
    request = carrying(forged, ablation="one")  # under the digest of another strength
    admit(request, config)
    assert request.sampling_params.extra_args["ablation_resolved"]["alpha"] == found.alpha


def test_no_salt_of_a_clients_is_that_of_another_intervention(config):
    digest = resolve({"ablation": "one"}, config).digest
    ablated = salt_of(config, {"ablation": "one"})
    assert ablated == salt_of(config, {"ablation": "one"}) != salt_of(config)
    forged = (f"\x1fablation:{digest}", ablated, digest, f'", "{digest}', f'null, "{digest}"]')
    salts = [salt_of(config, {"ablation": "none"}, salt) for salt in forged]
    assert ablated not in salts and len(set(salts)) == len(forged)
    assert salt_of(config, {"ablation": "one"}, "mine") not in (ablated, salt_of(config, None, "mine"))
    assert salt_of(None, None, "mine") == "mine"  # an engine without ablation is stock


def test_embedded_prompts_that_are_not_finite_and_streamed_ones_end_in_the_core(config):
    from vllm.exceptions import VLLMValidationError

    embeds = torch.zeros(3, D_MODEL)
    admit(core_request(prompt_embeds=embeds), config)
    embeds[1, 5] = float("nan")
    with pytest.raises(VLLMValidationError, match="prompt_embeds hold numbers that are not finite"):
        admit(core_request(prompt_embeds=embeds), config)
    admit(core_request(resumable=True), config)
    with pytest.raises(VLLMValidationError, match="streamed prompt"):
        admit(core_request({"ablation": "one"}, resumable=True), config)


def test_what_the_core_admits_follows_what_its_workers_load(config, files, monkeypatch):
    from vllm_refusal.settings.modules import Room

    room = replace(config, room=Room(9, 8, ("stream", "writes")))
    added = replace(room.modules["one"], name="late")
    monkeypatch.setattr(engine_core, "load_another", lambda name, spec, vllm_config: added)
    core = SimpleNamespace(ablation=room, vllm_config=None)
    faults = [{"fault": None}]
    call = engine_core.following_modules(lambda *arguments: faults)
    call(core, "load_ablation", None, ("late", {}, {}))
    assert "late" in core.ablation.modules
    call(core, "unload_ablation", None, ("late",))
    assert "late" not in core.ablation.modules
    faults[0]["fault"] = "a worker could not"
    call(core, "load_ablation", None, ("late", {}, {}))
    call(core, "ablation_counters")
    assert core.ablation.modules.keys() == config.modules.keys()


def test_an_architecture_that_another_plugin_registered_as_a_class_is_left_alone(monkeypatch):
    from vllm.model_executor.models.registry import ModelRegistry

    import vllm_refusal

    registered = SimpleNamespace(model_cls=object)
    monkeypatch.setitem(ModelRegistry.models, "Qwen3ForCausalLM", registered)
    vllm_refusal.register()
    assert ModelRegistry.models["Qwen3ForCausalLM"] is registered
