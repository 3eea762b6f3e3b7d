"""Loading ablations into a running server: which files, how much room, in what order, and what a fault leaves behind."""

import asyncio
import os
import pickle
from types import SimpleNamespace

import pytest
import tiny_models
import torch
from prometheus_client import CollectorRegistry
from tiny_models import save_servable_model

from surgery.model.models import describe_model
from surgery.residual.subspace import random_subspace
from vllm_refusal.admission.engine_core import count_ablation_requests
from vllm_refusal.edit.slot_tables import SlotTables
from vllm_refusal.model.worker import WorkerError, digests_of
from vllm_refusal.server import runtime_ablations
from vllm_refusal.server.allowed_folder import MAX_BYTES, AllowedFolder, BadNameError, PathError, check_name
from vllm_refusal.server.launch import ServerError, _check_key, _check_names
from vllm_refusal.server.metrics import ServerMetrics
from vllm_refusal.server.names import _keeping_names_apart
from vllm_refusal.server.runtime_ablations import ConflictError, RuntimeAblations
from vllm_refusal.settings import engine_settings
from vllm_refusal.settings.engine_settings import _room
from vllm_refusal.settings.modules import AblationConfig, AblationModule, ConfigError, NoRoomError, Room
from vllm_refusal.settings.request import RESOLVED, RequestError, UnknownAblationError, make_intervention

D_MODEL, N_LAYERS = 16, 3
ROOM = Room(2, 4, ("stream",))


def module(name, seed=0, rank=2, site="stream", offset=None):
    basis = random_subspace(D_MODEL, rank, seed=seed).basis
    sha256 = f"sha-{seed}-{rank}"
    return AblationModule(name, f"/data/{name}", basis, offset, 1.0, (0, 2), site, sha256, f"file-{sha256}")


def config_of(*modules, default=None, room=ROOM):
    return AblationConfig({one.name: one for one in modules}, default, N_LAYERS, D_MODEL, 2, room)


@pytest.fixture
def folder(tmp_path):
    inside = tmp_path / "allowed"
    (inside / "sub").mkdir(parents=True)
    for path in (inside / "a.safetensors", inside / "sub" / "b.safetensors", tmp_path / "secret.safetensors"):
        path.write_bytes(b"x")
    return AllowedFolder.at(inside)


def test_files_in_the_folder_are_found_by_relative_and_absolute_paths_and_links_inside(folder):
    (folder.path / "link.safetensors").symlink_to("sub/b.safetensors")
    for asked, found in (
        ("a.safetensors", "a.safetensors"),
        ("./sub/b.safetensors", "sub/b.safetensors"),
        (str(folder.path / "a.safetensors"), "a.safetensors"),
        ("link.safetensors", "sub/b.safetensors"),
    ):
        assert folder.find(asked) == folder.path / found


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("../secret.safetensors", "outside the folder"),
        ("sub/../../secret.safetensors", "outside the folder"),
        ("sub/../a.safetensors", "outside the folder"),  # inside, but said in a way that is never needed
        ("/etc/passwd", "outside the folder"),
        ("{outside}", "outside the folder"),
        ("{folder}-beside/x.safetensors", "outside the folder"),
        ("out.safetensors", "outside the folder"),
        ("out/secret.safetensors", "outside the folder"),
        ("a.bin", "only .safetensors"),
        ("sub", "only .safetensors"),
        ("folder.safetensors", "not a regular file"),
        ("pipe.safetensors", "not a regular file"),
        ("loop.safetensors", "no such file"),
        ("missing.safetensors", "no such file"),
        ("x" * 5000 + ".safetensors", "no such file"),
        ("\ud800.safetensors", "no such file"),
        ("a\0.safetensors", "expected the path"),
        ("", "expected the path"),
        (None, "expected the path"),
        (["a.safetensors"], "expected the path"),
        ("large.safetensors", "at most"),
    ],
)
def test_what_is_not_a_small_file_of_the_folder_is_refused(folder, asked, words):
    outside = folder.path.parent / "secret.safetensors"
    (folder.path / "out.safetensors").symlink_to(outside)
    (folder.path / "out").symlink_to(folder.path.parent)
    (folder.path / "loop.safetensors").symlink_to("loop.safetensors")
    (folder.path / "folder.safetensors").mkdir()
    (folder.path / "a.bin").write_bytes(b"x")
    os.mkfifo(folder.path / "pipe.safetensors")
    with open(folder.path / "large.safetensors", "wb") as file:
        file.truncate(MAX_BYTES + 1)
    if isinstance(asked, str):
        asked = asked.replace("{outside}", str(outside)).replace("{folder}", str(folder.path))
    with pytest.raises(PathError, match=words):
        folder.find(asked)


def test_a_file_of_just_the_limit_is_accepted(folder):
    with open(folder.path / "a.safetensors", "wb") as file:
        file.truncate(MAX_BYTES)
    assert folder.find("a.safetensors").stat().st_size == MAX_BYTES


def test_a_folder_that_is_none_is_refused_at_the_start(folder):
    for path in (folder.path / "missing", folder.path / "a.safetensors"):
        with pytest.raises(PathError, match="no such folder"):
            AllowedFolder.at(path)


@pytest.mark.parametrize("name", ["a", "tier-2_v1.0", "9", "x" * 64])
def test_names_that_fit_a_label_and_an_address_are_accepted(name):
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "none", "-a", ".", "a b", "a/b", "a\n", "ä", "x" * 65, None, 3])
def test_other_names_are_refused(name):
    with pytest.raises(BadNameError):
        check_name(name)


def test_room_is_at_least_what_the_modules_need():
    assert config_of(module("a", rank=3), module("b", site="writes"), room=Room(0, 0, ())).room == Room(
        2, 3, ("stream", "writes")
    )
    assert config_of(module("a", rank=6)).room == Room(2, 6, ("stream",))
    assert config_of().room == ROOM


@pytest.mark.parametrize(
    ("new", "error", "words"),
    [
        (module("a"), ConfigError, "loaded already"),
        (module("wide", rank=5), ConfigError, "room for rank 4"),
        (module("written", site="writes"), ConfigError, "site writes was not set up"),
    ],
)
def test_what_there_is_no_room_for_is_refused(new, error, words):
    config = config_of(module("a"))
    with pytest.raises(error, match=words):
        config.with_module(new)
    full = config.with_module(module("b", rank=4))
    assert list(full.modules) == ["a", "b"] and list(config.modules) == ["a"]
    with pytest.raises(NoRoomError, match="all 2 ablations"):
        full.with_module(module("c"))
    assert full.without("a").with_module(module("c")).room == ROOM


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_modules": 0}, "from 1 to"),
        ({"max_modules": True}, "from 1 to"),
        ({"max_modules": 5000}, "from 1 to"),
        ({"max_modules": 2, "sites": []}, "sites must be"),
        ({"max_modules": 2, "sites": ["logits"]}, "sites must be"),
        ({"max_modules": 2, "sites": "stream"}, "sites must be"),
        ({"sites": ["stream"]}, "give max_modules"),
    ],
)
def test_room_that_cannot_be_reserved_is_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        _room(settings, [])
    assert _room({"max_modules": 3, "max_rank": 2, "sites": ["writes"]}, []) == Room(3, 2, ("writes",))
    assert _room({}, []) == Room(0, 0, ())


def wire(config, name, alpha=1.0):
    return {RESOLVED: make_intervention(config, name, alpha, (0,)).to_wire()}


def edited(tables, request_id, extra_args):
    """What the edit of block 0 makes of the same two rows under a request."""
    tables.write_tokens([tables.add_request(request_id, extra_args)], [2])
    return tables.edit_of("stream", 0).on_single(torch.arange(2.0 * D_MODEL).view(2, D_MODEL).sin())


def test_a_module_added_later_edits_as_one_of_the_start_in_the_same_memory():
    offset = torch.tensor([0.5, -1.0])
    old, new = module("old", 1), module("new", 2, offset=offset)
    started = SlotTables(config_of(old, new), 8, "cpu")
    tables = SlotTables(config_of(old), 8, "cpu")
    shapes, addresses = tables.shapes(), (tables.bases.data_ptr(), tables.offsets.data_ptr())
    before = edited(tables, "old", wire(tables.config, "old"))
    tables.add_module(new)
    assert (tables.shapes(), (tables.bases.data_ptr(), tables.offsets.data_ptr())) == (shapes, addresses)
    found = edited(tables, "new", wire(tables.config, "new"))
    assert torch.equal(found, edited(started, "new", wire(started.config, "new"))) and not torch.equal(found, before)
    assert torch.equal(edited(tables, "again", wire(tables.config, "old")), before)
    assert torch.equal(edited(tables, "plain", None), torch.arange(2.0 * D_MODEL).view(2, D_MODEL).sin())


def test_a_row_that_is_used_again_holds_nothing_of_the_module_before():
    tables = SlotTables(config_of(room=Room(1, 4, ("stream",))), 8, "cpu")
    tables.add_module(module("wide", 1, rank=4, offset=torch.ones(4)))
    edited(tables, "wide", wire(tables.config, "wide"))
    tables.remove_module("wide")
    with pytest.raises(RuntimeError, match="'wide' is not loaded"):
        tables.add_request("late", wire(config_of(module("wide", 1, rank=4)), "wide"))
    tables.add_module(module("narrow", 2, rank=1))
    fresh = SlotTables(config_of(module("narrow", 2, rank=1), room=Room(1, 4, ("stream",))), 8, "cpu")
    expected = edited(fresh, "r", wire(fresh.config, "narrow"))
    assert torch.equal(edited(tables, "r", wire(tables.config, "narrow")), expected)
    assert tables.n_slots_in_use == 1  # the ended request of the other module is forgotten


def test_equal_ablations_under_two_names_do_not_share_a_slot_that_one_of_them_takes_away():
    tables = SlotTables(config_of(module("one", 1), module("twin", 1)), 8, "cpu")
    first = edited(tables, "one", wire(tables.config, "one"))
    assert torch.equal(edited(tables, "twin", wire(tables.config, "twin")), first)
    tables.remove_module("one")
    tables.add_module(module("other", 5))
    assert torch.equal(edited(tables, "again", wire(tables.config, "twin")), first)


def test_a_module_that_comes_back_is_not_taken_for_what_has_its_old_row():
    tables = SlotTables(config_of(), 8, "cpu")
    tables.add_module(module("one", 1))
    first = edited(tables, "first", wire(tables.config, "one"))
    tables.remove_module("one")
    tables.add_module(module("other", 5))  # in the row that was free last
    tables.add_module(module("one", 1))
    assert torch.equal(edited(tables, "again", wire(tables.config, "one")), first)
    assert not torch.equal(edited(tables, "other", wire(tables.config, "other")), first)


def test_a_module_that_does_not_fit_leaves_the_tables_as_they_were():
    tables = SlotTables(config_of(module("old", 1)), 8, "cpu")
    bases = tables.bases.clone()
    with pytest.raises(ConfigError):
        tables.add_module(module("wide", rank=5))
    assert torch.equal(tables.bases, bases) and list(tables.config.modules) == ["old"]
    tables.add_module(module("new", 2))
    assert not torch.equal(tables.bases, bases)


def request(config, name, alpha=1.0):
    extra_args = {} if name is None else wire(config, name, alpha)
    return SimpleNamespace(request_id="r", sampling_params=SimpleNamespace(extra_args=extra_args))


def test_an_engine_core_counts_every_request_that_its_scheduler_has():
    config = config_of(module("a"), module("b"))
    requests = dict(enumerate([request(config, "a"), request(config, "a", 0.5), request(config, None)]))
    core = SimpleNamespace(scheduler=SimpleNamespace(requests=requests))
    assert [count_ablation_requests(core, name) for name in ("a", "b")] == [2, 0]


class Client:
    """A server's client of two engines with two workers each; `answers` may fail some calls."""

    def __init__(self, config, answers):
        self.vllm_config = None
        self.input_processor = SimpleNamespace(ablation=config)
        self.output_processor = SimpleNamespace(request_states={}, add_request=lambda request: "added")
        self.engine_core, self.answers, self.calls = self, answers, []

    async def call_utility_all_async(self, utility, *args):
        what = args[0] if utility == "collective_rpc" else utility
        self.calls.append((what, sorted(self.input_processor.ablation.modules)))
        answer = self.answers.get(what)
        if isinstance(answer, Exception):
            raise answer
        return answer if answer is not None else [[{"fault": None, "modules": ["new"]}] * 2] * 2


@pytest.fixture
def build(folder, monkeypatch):
    """build(config, answers by call): the client, the loader, the registry of its metrics."""

    def make(config, **answers):
        async def proven(client, module):
            client.calls.append(("proof", sorted(client.input_processor.ablation.modules)))
            if isinstance(answers.get("proof"), Exception):
                raise answers["proof"]

        def read(name, spec, vllm_config):
            return module(name, seed=1 if "b.safetensors" in spec["path"] else 0)

        monkeypatch.setattr(runtime_ablations, "prove_module", proven)
        monkeypatch.setattr(runtime_ablations, "load_another", read)
        monkeypatch.setattr(runtime_ablations, "DRAIN_SECONDS", 0.0)
        client, registry = Client(config, answers), CollectorRegistry()
        runtime = RuntimeAblations(client, folder, ServerMetrics(config, registry), lambda: {"base"})
        return client, runtime, registry

    return make


NEW = {"path": "a.safetensors"}


def loaded(client):
    return sorted(client.input_processor.ablation.modules)


def test_a_name_is_admitted_only_after_every_worker_has_it_and_its_effect_is_proven(build):
    client, runtime, registry = build(config_of(module("old")))
    found = asyncio.run(runtime.load("new", NEW))
    assert client.calls == [("load_ablation", ["old"]), ("proof", ["old"])]
    assert loaded(client) == ["new", "old"] and found.name == "new"
    assert registry.get_sample_value("vllm_refusal:requests_total", {"ablation": "new"}) == 0
    client.calls.clear()
    asyncio.run(runtime.load("new", NEW))  # the same again asks nobody
    assert client.calls == []
    for name, settings, words in (("new", {"path": "sub/b.safetensors"}, "another file"), ("base", NEW, "a model")):
        with pytest.raises(ConflictError, match=words):
            asyncio.run(runtime.load(name, settings))


@pytest.mark.parametrize(
    ("answers", "error", "words"),
    [
        ({"load_ablation": [[{"fault": None, "modules": ["new"]}] * 2, [{"fault": "gone"}] * 2]}, WorkerError, "gone"),
        ({"load_ablation": [[{"fault": None, "modules": []}]]}, WorkerError, "not in every worker"),
        ({"load_ablation": []}, WorkerError, "not in every worker"),
        ({"load_ablation": RuntimeError("a worker died")}, RuntimeError, "a worker died"),
        ({"proof": ConfigError("no effect")}, ConfigError, "no effect"),
    ],
)
def test_whatever_fails_on_any_worker_unloads_everywhere_and_admits_nothing(build, answers, error, words):
    client, runtime, registry = build(config_of(module("old")), **answers)
    with pytest.raises(error, match=words):
        asyncio.run(runtime.load("new", NEW))
    assert client.calls[-1] == ("unload_ablation", ["old"]) and loaded(client) == ["old"]
    assert registry.get_sample_value("vllm_refusal:requests_total", {"ablation": "new"}) is None


def test_an_ablation_is_withdrawn_before_engines_are_asked_and_workers_let_go_last(build):
    client, runtime, registry = build(config_of(module("old"), module("kept", 3)), count_ablation_requests=[0, 0])
    assert asyncio.run(runtime.unload("old")).name == "old"
    assert client.calls == [("count_ablation_requests", ["kept"]), ("unload_ablation", ["kept"])]
    assert registry.get_sample_value("vllm_refusal:requests_total", {"ablation": "old"}) is None
    assert registry.get_sample_value("vllm_refusal:requests_total", {"ablation": "kept"}) == 0
    for name in ("old", "none", None, []):
        with pytest.raises(UnknownAblationError):
            asyncio.run(runtime.unload(name))


@pytest.mark.parametrize("where", ["front end", "second engine", "engine that cannot say"])
def test_what_a_request_uses_stays_loaded_and_admitted(build, where):
    counts = {"front end": [0, 0], "second engine": [0, 1], "engine that cannot say": RuntimeError("dead")}[where]
    client, runtime, registry = build(config_of(module("old")), count_ablation_requests=counts)
    if where == "front end":
        client.output_processor.request_states = {"r": SimpleNamespace(ablation="old")}
    with pytest.raises(RuntimeError if isinstance(counts, Exception) else ConflictError):
        asyncio.run(runtime.unload("old"))
    assert loaded(client) == ["old"] and "unload_ablation" not in [call for call, _ in client.calls]
    assert registry.get_sample_value("vllm_refusal:requests_total", {"ablation": "old"}) == 0


def test_the_default_cannot_be_unloaded(build):
    client, runtime, _ = build(config_of(module("old"), default="old"))
    with pytest.raises(ConflictError, match="default"):
        asyncio.run(runtime.unload("old"))
    assert loaded(client) == ["old"] and client.calls == []


def test_a_request_whose_ablation_went_while_it_arrived_is_refused_and_others_are_not(build):
    from vllm.exceptions import VLLMNotFoundError

    config = config_of(module("old"), module("kept", 3))
    client, runtime, _ = build(config, count_ablation_requests=[0, 0])
    add = client.output_processor.add_request
    arriving = request(config, "old")
    assert add(arriving) == "added"
    asyncio.run(runtime.unload("old"))
    assert add(request(config, "kept")) == add(request(config, None)) == "added"
    with pytest.raises(VLLMNotFoundError, match="was unloaded"):
        add(arriving)
    client.input_processor.ablation = config_of(module("old", seed=9))  # another file under the same name
    with pytest.raises(VLLMNotFoundError, match="was unloaded"):
        add(arriving)


def test_messages_name_files_as_the_client_does(build, folder, monkeypatch):
    def unreadable(name, spec, vllm_config):
        raise ConfigError(f"ablation {name!r}: {spec['path']} holds no basis")

    _, runtime, _ = build(config_of())
    monkeypatch.setattr(runtime_ablations, "load_another", unreadable)
    with pytest.raises(ConfigError) as caught:
        asyncio.run(runtime.load("new", {"path": "sub/b.safetensors"}))
    assert str(caught.value) == "ablation 'new': sub/b.safetensors holds no basis"


@pytest.mark.parametrize("operator", [False, True])
def test_only_the_operator_accepts_vectors_of_other_weights(build, folder, monkeypatch, operator):
    seen = []
    client, _, _ = build(config_of())
    monkeypatch.setattr(
        runtime_ablations, "load_another", lambda name, spec, *_: seen.append(spec["allow_other_model"]) or module(name)
    )
    metrics = ServerMetrics(config_of(), CollectorRegistry())
    runtime = RuntimeAblations(client, AllowedFolder.at(folder.path, operator), metrics, set)
    for said in (True, False):
        with pytest.raises(RequestError, match="the operator's to say"):
            asyncio.run(runtime.load("new", {**NEW, "allow_other_model": said}))
    asyncio.run(runtime.load("new", NEW))
    assert seen == [operator]


def test_clients_may_load_only_where_a_key_is_asked_of_them(monkeypatch):
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    for key in (None, [], [""]):
        with pytest.raises(ServerError, match="needs an --api-key"):
            _check_key(SimpleNamespace(api_key=key))
    _check_key(SimpleNamespace(api_key=["key"]))
    monkeypatch.setenv("VLLM_API_KEY", "key")
    _check_key(SimpleNamespace(api_key=None))


def test_the_model_is_found_once_for_the_front_end_and_every_worker(tmp_path, monkeypatch):
    """A branch of the hub that moves while the engine runs is not looked at, and nothing is downloaded in a call."""
    model = save_servable_model(tmp_path / "model", "LlamaForCausalLM")
    random_subspace(tiny_models.D_MODEL, 1, seed=0).save(tmp_path / "one.safetensors")
    found = []
    monkeypatch.setattr(engine_settings, "describe_model", lambda *asked: found.append(asked) or describe_model(*asked))
    front_end = EngineConfig(str(model))
    spec = {"path": str(tmp_path / "one.safetensors")}
    engine_settings.load_another("at the start", spec, front_end)
    assert len(found) == 1
    for engine in (front_end, pickle.loads(pickle.dumps(front_end))):
        assert engine_settings.load_another("later", spec, engine).layers == tuple(range(tiny_models.N_LAYERS))
    assert len(found) == 1
    engine_settings.load_another("another engine", spec, EngineConfig(str(model)))
    assert len(found) == 2


class EngineConfig:
    """What loading reads of a vLLM config, which is pickled into the engine's processes."""

    architecture, revision, tensor_parallel_size = "LlamaForCausalLM", None, 1

    def __init__(self, model):
        self.model = model
        self.model_config = self.parallel_config = self

    def get_total_num_hidden_layers(self):
        return tiny_models.N_LAYERS

    def get_hidden_size(self):
        return tiny_models.D_MODEL


def test_workers_agree_by_the_file_and_by_what_was_read_from_it():
    assert digests_of(module("a", 1)) == digests_of(module("b", 1)) != digests_of(module("a", 2))


def test_an_ablation_cannot_have_the_name_of_the_model_or_of_an_adapter():
    def arguments(name, **given):
        given = {"served_model_name": ["base", "alias"], "lora_modules": [SimpleNamespace(name="adapter")], **given}
        return SimpleNamespace(model="org/model", additional_config={"ablation": {"modules": {name: {}}}}, **given)

    for taken in (arguments("alias"), arguments("adapter"), arguments("org/model", served_model_name=["org/model"])):
        with pytest.raises(ServerError, match="has that name"):
            _check_names(taken)
    for free in (arguments("refusal"), arguments("org/model"), arguments("b", served_model_name=["base"])):
        _check_names(free)


def test_an_adapter_loaded_later_cannot_take_an_ablations_name():
    async def checked(self, request):
        return "as vLLM says"

    models = SimpleNamespace(input_processor=SimpleNamespace(ablation=config_of(module("old"))))
    check = _keeping_names_apart(checked)
    refused = asyncio.run(check(models, SimpleNamespace(lora_name="old")))
    assert refused.error.code == 400 and "an ablation of this server" in refused.error.message
    assert asyncio.run(check(models, SimpleNamespace(lora_name="new"))) == "as vLLM says"
