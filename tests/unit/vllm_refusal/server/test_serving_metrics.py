"""What a running server counts and says about its ablations."""

import asyncio
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from prometheus_client import CollectorRegistry, generate_latest

from surgery.console.errors import AlphaError, LayerRangeError
from surgery.residual.subspace import random_subspace
from vllm_refusal.edit.slot_tables import SlotTables
from vllm_refusal.model.proof import proving
from vllm_refusal.model.runner_v1 import write_step
from vllm_refusal.model.worker import ablation_counters
from vllm_refusal.server.endpoints import health_report
from vllm_refusal.server.metrics import FETCH_SECONDS, REASONS, ServerMetrics
from vllm_refusal.server.names import _fault, module_details
from vllm_refusal.settings.capture import CaptureError
from vllm_refusal.settings.modules import AblationConfig, AblationModule
from vllm_refusal.settings.request import RESOLVED, RequestError, UnknownAblationError, ablation_of, make_intervention

D_MODEL, N_LAYERS = 16, 3


@pytest.fixture
def config():
    def module(name, seed, layers):
        basis = random_subspace(D_MODEL, 2, seed=seed).basis
        return AblationModule(name, f"/data/{name}", basis, None, 0.5, layers, "stream", f"sha-{seed}", f"file-{name}")

    modules = {"one": module("one", 1, (0, 2)), "two": module("two", 2, (1,))}
    return AblationConfig(modules, None, N_LAYERS, D_MODEL, max_slots=2)


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
def metrics(config, registry):
    return ServerMetrics(config, registry)


def admitted(config, name=None, alpha=1.0, request_id="r"):
    extra_args = {} if name is None else {RESOLVED: make_intervention(config, name, alpha, (0,)).to_wire()}
    return SimpleNamespace(request_id=request_id, sampling_params=SimpleNamespace(extra_args=extra_args))


def n_series(registry):
    return sum(not line.startswith("#") for line in generate_latest(registry).decode().splitlines())


def test_every_series_exists_from_the_start_and_nothing_adds_one(config, metrics, registry):
    value = registry.get_sample_value
    assert value("vllm_refusal:requests_total", {"ablation": "two"}) == 0
    assert value("vllm_refusal:refused_requests_total", {"reason": "unknown_ablation"}) == 0
    info = {"ablation": "one", "sha256": "file-one", "site": "stream"}
    assert value("vllm_refusal:ablation_info", info) == 1 and value("vllm_refusal:slots") == 2
    before = n_series(registry)
    for name in (None, "one", "two"):
        answered(metrics, admitted(config, name), [[1], [2]])
    for fault in (*REASONS, AlphaError("x"), ValueError("not ours")):
        metrics.count_refused(fault)
    assert n_series(registry) == before


def answered(metrics, request, outputs, index=0, prompt_len=7):
    """Send one request through the wrapped front end: its state is made, then its outputs."""
    state = SimpleNamespace(request_index=index, prompt_len=prompt_len)
    made = metrics._counting_requests(lambda cls, **_: state)(None, request=request)
    for token_ids in outputs:
        metrics._counting_tokens(lambda *_: None)(made, token_ids, None, None)


def test_requests_and_tokens_are_counted_under_the_ablation_that_they_ran_under(config, metrics, registry):
    answered(metrics, admitted(config, "one"), [[5], [6, 7], []])
    answered(metrics, admitted(config, "one"), [])  # aborted before its first token
    answered(metrics, admitted(config), [[5]])

    def value(what, name):
        return registry.get_sample_value(f"vllm_refusal:{what}_total", {"ablation": name})

    assert [value(what, "one") for what in ("requests", "prompt_tokens", "generation_tokens")] == [2, 7, 3]
    assert [value(what, "none") for what in ("requests", "prompt_tokens", "generation_tokens")] == [1, 7, 1]
    assert [value(what, "two") for what in ("requests", "prompt_tokens", "generation_tokens")] == [0, 0, 0]


def test_a_request_for_several_samples_is_one_request_with_the_tokens_of_all(config, metrics, registry):
    for index in range(3):
        answered(metrics, admitted(config, "two"), [[1], [2]], index=index)
    assert registry.get_sample_value("vllm_refusal:requests_total", {"ablation": "two"}) == 1
    assert registry.get_sample_value("vllm_refusal:generation_tokens_total", {"ablation": "two"}) == 6


def test_a_request_without_parameters_of_its_own_has_no_ablation(config):
    assert ablation_of(SimpleNamespace(sampling_params=None)) == "none"
    assert ablation_of(admitted(config, "two")) == "two"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (UnknownAblationError("x"), "unknown_ablation"),
        (RequestError("x"), "bad_keys"),
        (AlphaError("x"), "bad_alpha"),
        (LayerRangeError("x"), "bad_layers"),
        (CaptureError("x"), "capture"),
        (TypeError("x"), None),
    ],
)
def test_a_refusal_is_counted_by_the_fault_behind_vllms_error(metrics, registry, fault, reason):
    error = RuntimeError("400")
    error.__cause__ = fault
    metrics.count_refused(error)
    counts = {
        name: registry.get_sample_value("vllm_refusal:refused_requests_total", {"reason": name}) for name in REASONS
    }
    assert {name for name, count in counts.items() if count} == ({reason} if reason else set())


def test_the_first_report_of_the_workers_is_where_counting_starts(metrics, registry):
    for n_tokens, n_slots in ((100, 0), (130, 2), (130, 1)):
        metrics.take_counters([[{"n_intervened_tokens": n_tokens, "n_slots_in_use": n_slots}] * 2])
    assert registry.get_sample_value("vllm_refusal:intervened_tokens_total") == 30
    assert registry.get_sample_value("vllm_refusal:slots_in_use") == 1


class Workers:
    """An engine client that counts what it is asked."""

    def __init__(self):
        self.n_calls, self.engine_core = 0, self

    async def call_utility_all_async(self, *call):
        self.n_calls += 1
        return [[{"n_slots_in_use": self.n_calls, "n_intervened_tokens": 0}]]


def test_however_many_scrape_the_workers_are_asked_once_in_a_while_and_each_scrape_is_fresh(metrics, registry):
    workers = Workers()

    async def scrape(seconds):
        await asyncio.sleep(seconds)
        n_before = workers.n_calls
        await metrics.refresh(workers)
        assert registry.get_sample_value("vllm_refusal:slots_in_use") == workers.n_calls > n_before

    async def crowd():
        hung_up = asyncio.create_task(metrics.refresh(workers))
        await asyncio.sleep(0)
        hung_up.cancel()  # those who wait for the same figures get them
        await asyncio.gather(*(scrape(0.0005 * number) for number in range(1000)))

    began = time.monotonic()
    asyncio.run(crowd())
    assert 2 <= workers.n_calls <= 2 + (time.monotonic() - began) / FETCH_SECONDS


def test_data_parallel_engines_add_up(metrics, registry):
    for n_tokens, n_slots in ((100, 0), (130, 2)):
        workers = [{"n_intervened_tokens": n_tokens, "n_slots_in_use": n_slots}] * 2
        metrics.take_counters([workers, [{"n_intervened_tokens": 5, "n_slots_in_use": 1}]])
    assert registry.get_sample_value("vllm_refusal:intervened_tokens_total") == 30
    assert registry.get_sample_value("vllm_refusal:slots_in_use") == 3
    assert registry.get_sample_value("vllm_refusal:slots") == 4


def test_the_series_of_an_ablation_end_with_it_and_the_proof_of_a_loading_is_not_counted(config, metrics, registry):
    before = n_series(registry)
    three = replace(config.modules["one"], name="three")
    metrics.add(three)
    token = proving.set(config)
    answered(metrics, admitted(config, "one"), [[1], [2]])
    proving.reset(token)
    assert registry.get_sample_value("vllm_refusal:requests_total", {"ablation": "one"}) == 0
    answered(metrics, admitted(config, "one"), [[1], [2]])
    assert registry.get_sample_value("vllm_refusal:generation_tokens_total", {"ablation": "one"}) == 2
    assert n_series(registry) > before
    metrics.remove(three)
    assert n_series(registry) == before


class Starts:
    def __init__(self, n_tokens):
        self.np = torch.tensor([0, *n_tokens]).cumsum(0).numpy()


def runner_of(requests, batch, n_tokens):
    """What a V1 model runner shows: all requests that it knows, and those in its batch."""
    return SimpleNamespace(
        requests={request.request_id: request for request in requests},
        input_batch=SimpleNamespace(req_ids=[request.request_id for request in batch], num_reqs=len(batch)),
        query_start_loc=Starts(n_tokens),
    )


def test_a_preempted_request_gives_its_slot_to_the_batch_and_takes_one_again(config):
    tables = SlotTables(config, 32, "cpu")
    requests = [admitted(config, "one", alpha=0.1 * step, request_id=f"r{step}") for step in range(1, 6)]
    write_step(tables, runner_of(requests, requests[:2], [3, 4]))
    write_step(tables, runner_of(requests, requests[2:4], [1, 1]))  # two others, the first two are only preempted
    write_step(tables, runner_of(requests, [requests[0], requests[4]], [5, 1]))
    slots = tables.slot[:6].tolist()
    assert len(set(slots[:5])) == 1 and slots[0] != slots[5] and 0 not in slots
    alphas = tables.alpha["stream"][0]
    torch.testing.assert_close(alphas[[slots[0], slots[5]]], torch.tensor([0.1, 0.5]))
    assert tables.n_slots_in_use == 2


def test_workers_report_slots_in_flight_and_tokens_under_an_ablation(config):
    tables = SlotTables(config, 32, "cpu")
    requests = [admitted(config, "one", request_id="a"), admitted(config, "one", request_id="b")]
    requests += [admitted(config, request_id="plain")]
    runner = runner_of(requests, requests, [3, 1, 6])
    runner.get_model = lambda: SimpleNamespace(ablation=tables)
    worker = SimpleNamespace(model_runner=runner)
    assert ablation_counters(worker) == {"n_slots_in_use": 0, "n_intervened_tokens": 0}
    write_step(tables, runner)
    assert ablation_counters(worker) == {"n_slots_in_use": 1, "n_intervened_tokens": 4}  # equal ones share a slot
    runner.requests = {}
    assert ablation_counters(worker) == {"n_slots_in_use": 0, "n_intervened_tokens": 4}


def test_the_list_of_models_and_health_say_what_is_on(config):
    details = {
        "sha256": "file-one",
        "basis_sha256": "sha-1",
        "rank": 2,
        "layers": [0, 2],
        "alpha": 0.5,
        "site": "stream",
    }
    assert module_details(config.modules["one"]) == details
    report = health_report(config)
    assert report["ablations"] == [{"name": name, "sha256": f"file-{name}"} for name in ("one", "two")]
    assert report["default"] == "none" and "/data" not in str(report)


class KeyedRequest:
    model_fields = {"model": None, "vllm_xargs": None}
    model = "base"
    vllm_xargs = {"ablation": "one"}


class OtherRequest(KeyedRequest):
    model_fields = {"model": None}  # vLLM keeps vllm_xargs as an extra field and answers without it


def test_a_route_that_does_not_declare_the_keys_refuses_them_though_it_carries_them():
    assert _fault(KeyedRequest(), "one") is None
    reason, message = _fault(OtherRequest(), "one")
    assert reason == "route" and "cannot apply ablation 'one'" in message
    assert _fault(OtherRequest(), None) is None
