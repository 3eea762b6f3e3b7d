"""Answering by servers, over real HTTP: local endpoints that speak the API and fail by script."""

import asyncio
import threading
from contextlib import ExitStack, contextmanager

import pytest
from aiohttp import web

from eval.cost.benchmark.served_backend import Server
from eval.endpoints.served_models import Needs, ServedModels, ServersError
from eval.endpoints.servers import Servers
from surgery.residual.subspace import random_subspace
from tests.judge_endpoint import serving as at_address
from vllm_refusal.engine.engine import Request, Sampling
from vllm_refusal.settings.modules import AblationModule

pytestmark = pytest.mark.usefixtures("few_certificates")

KEY = "sk-test-0123456789"


def module(name, seed=0, site="stream"):
    basis = random_subspace(16, 1, seed).basis
    return AblationModule(name, f"{name}.safetensors", basis, None, 1.0, (0, 1, 2), site, f"{seed:064x}", "f" * 64)


def needs(*modules):
    settings = {module.name: {"path": module.path, "source_layers": [3, 4, 5], "site": "stream"} for module in modules}
    return Needs({module.name: module for module in modules}, settings)


class Endpoint:
    """One server: what it lists, and per request what it does, "answer" when the script is at its end."""

    def __init__(self, modules=(), script=(), key=None, base="base", models_script=()):
        self.modules, self.script, self.key, self.base = list(modules), list(script), key, base
        self.models_script = list(models_script)
        self.requests, self.n_in_flight, self.most_in_flight = [], 0, 0
        self.hold, self.echo = 0.0, False

    @contextmanager
    def running(self):
        routes = web.get("/v1/models", self._models), web.post("/v1/completions", self._complete)
        with at_address(asyncio.new_event_loop(), *routes, shutdown_timeout=0) as self.url:
            yield self

    def _denied(self, request):
        return self.key and request.headers.get("Authorization") != f"Bearer {self.key}"

    async def _models(self, request):
        if self._denied(request):
            return web.json_response({"error": {"message": "no key"}}, status=401)
        if self.models_script and self.models_script.pop(0) == "down":
            request.transport.abort()
            return web.Response()
        cards = [{"id": self.base, "parent": None, "max_model_len": 99}]
        for entry in self.modules:
            ablation = {"basis_sha256": entry.sha256, "site": entry.site}
            cards.append({"id": entry.name, "parent": self.base, "ablation": ablation})
        return web.json_response({"object": "list", "data": cards})

    async def _complete(self, request):
        body = await request.json()
        self.requests.append(body)
        self.n_in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.n_in_flight)
        try:
            if self.hold:
                await asyncio.sleep(self.hold)
            return self._act(request, body, self.script.pop(0) if self.script else "answer")
        finally:
            self.n_in_flight -= 1

    def _act(self, request, body, act):
        if act == "drop":
            request.transport.abort()
            return web.Response()
        if act == "garbage":
            return web.Response(text="{not json", content_type="application/json")
        if isinstance(act, int):
            return web.json_response({"error": {"message": f"fault {act}"}}, status=act, headers={"Retry-After": "0.1"})
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": 2}
        reply = {
            "model": body["model"],
            "usage": usage,
            "choices": [{"text": body["user"] if self.echo else f"{self.base}!", "finish_reason": "stop"}],
        }
        return web.json_response(reply | act if isinstance(act, dict) else reply)


@contextmanager
def serving(*endpoints, modules=(), **options):
    """(Servers on these endpoints, the lines they were told)."""
    said = []
    options = {"grace": 0.4, "notify": said.append, **options}
    with ExitStack() as stack:
        for endpoint in endpoints:
            stack.enter_context(endpoint.running())
        urls = [endpoint.url for endpoint in endpoints]
        yield stack.enter_context(Servers(urls, needs(*modules), **options)), said


def asked(n, **keys):
    return [Request(str(number), [1, 2, number], keys) for number in range(n)]


def answers(servers, requests, sampling=None):
    return {answer.id: answer.text for answer in servers.generate(requests, sampling or Sampling())}


# ---------------------------------------------------------------- what is asked


def test_the_baseline_asks_for_no_ablation_and_conditions_for_theirs_with_strength_and_layers():
    first, second = module("a", 1), module("b", 2)
    endpoint = Endpoint([first, second])
    with serving(endpoint, modules=[first, second]) as (servers, _):
        requests = [
            Request("0", [1]),
            Request("1", [1], {"ablation": "a", "ablation_alpha": 0.5}),
            Request("2", [1], {"ablation": "b", "ablation_layers": "2"}),
        ]
        assert len(answers(servers, requests)) == 3
    found = sorted((body["model"], body["vllm_xargs"]) for body in endpoint.requests)
    assert found == [
        ("a", {"ablation_alpha": 0.5, "ablation_layers": "0-2"}),
        ("b", {"ablation_alpha": 1.0, "ablation_layers": "2"}),
        ("base", {"ablation": "none"}),
    ]


def test_prompts_are_sent_as_token_ids_and_decoding_is_not_left_to_the_server():
    endpoint = Endpoint()
    with serving(endpoint) as (servers, _):
        answers(servers, [Request("0", [5, 6, 7], seed=11)], Sampling(max_tokens=9, temperature=0.5))
        answers(servers, [Request("0", [5, 6, 7], seed=11)], Sampling(max_tokens=9))
    sampled, greedy = endpoint.requests
    assert sampled["prompt"] == [5, 6, 7] and sampled["seed"] == 11 and sampled["max_tokens"] == 9
    assert (sampled["top_p"], sampled["top_k"], sampled["min_p"], sampled["repetition_penalty"]) == (1.0, -1, 0.0, 1.0)
    assert "seed" not in greedy and greedy["temperature"] == 0
    assert "vllm_xargs" not in greedy, "a server without ablations need not know the field"


def test_the_key_is_sent_and_a_wrong_one_is_one_line():
    with serving(Endpoint(key=KEY), api_key=KEY) as (servers, _):
        assert len(answers(servers, asked(2))) == 2
    with pytest.raises(ServersError, match="HTTP 401: no key; is the right key") as caught:
        with serving(Endpoint(key=KEY), api_key="sk-other"):
            pass
    assert "sk-other" not in str(caught.value)


def test_the_benchmark_gets_its_answers_in_order_and_asks_again_after_passing_faults():
    with Endpoint(script=[503, "drop", 429], key=KEY).running() as endpoint:
        server = Server(endpoint.url, KEY, concurrency=4)
        assert (server.served.base, server.served.max_model_len) == ("base", 99)
        bodies = [{"model": "base", "prompt": [number], "user": str(number)} for number in range(6)]
        endpoint.echo, endpoint.hold = True, 0.02
        assert [choice["text"] for choice in server.complete_all(bodies)] == ["0", "1", "2", "3", "4", "5"]
        assert len(endpoint.requests) == 9 and 2 <= endpoint.most_in_flight <= 4
        endpoint.script = [{"model": "other"}]
        with pytest.raises(ServersError, match="answered by model 'other' where 'base' was asked for"):
            server.complete_all(bodies[:1])
        endpoint.script = [400]
        with pytest.raises(ServersError, match="refuses a request: HTTP 400: fault 400"):
            server.complete_all(bodies[:1])
        with pytest.raises(ServersError, match="HTTP 401: no key; is the right key"):
            Server(endpoint.url, "sk-other")
    with pytest.raises(ServersError, match="connection failed"):
        Server(endpoint.url, KEY)


# ---------------------------------------------------------------- never silently unsteered


def test_a_server_whose_ablation_has_the_name_but_another_basis_is_refused():
    with pytest.raises(ServersError, match="its model of that name removes something else") as caught:
        with serving(Endpoint([module("a", 2)]), modules=[module("a", 1)]):
            pass
    assert "--ablation a=a.safetensors,source_layers=3-5" in str(caught.value)


@pytest.mark.parametrize("served", [[], [module("a", 1, site="writes")]])
def test_a_server_without_the_ablation_or_with_it_at_another_site_is_refused(served):
    with pytest.raises(ServersError, match="does not serve 1 of the 1 ablations needed: 'a'"):
        with serving(Endpoint(served), modules=[module("a", 1)]):
            pass


def test_the_same_basis_under_another_name_is_asked_for_by_that_name():
    endpoint = Endpoint([module("refusal", 1)])
    with serving(endpoint, modules=[module("L4", 1)]) as (servers, _):
        answers(servers, asked(1, ablation="L4"))
    assert endpoint.requests[0]["model"] == "refusal"


def test_one_replica_of_two_without_the_ablation_is_enough_to_refuse():
    good, bad = Endpoint([module("a", 1)]), Endpoint([])
    with pytest.raises(ServersError, match="does not serve"):
        with serving(good, bad, modules=[module("a", 1)]):
            pass


def test_a_replica_that_comes_back_without_its_ablation_ends_the_run():
    endpoint = Endpoint([module("a", 1)])
    with serving(endpoint, modules=[module("a", 1)], grace=5.0) as (servers, _):
        endpoint.script, endpoint.modules = ["drop"], []
        with pytest.raises(ServersError, match="does not serve 1 of the 1"):
            answers(servers, asked(1, ablation="a"))


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        ({"model": "other"}, "answered by model 'other' where 'base' was asked for"),
        ({"usage": {"prompt_tokens": 7, "completion_tokens": 1}}, "counts 7 tokens in a prompt of 3"),
    ],
)
def test_an_answer_of_another_model_or_to_another_prompt_is_refused(reply, fault):
    with serving(Endpoint(script=[reply])) as (servers, _), pytest.raises(ServersError, match=fault):
        answers(servers, asked(1))


def test_several_unedited_models_need_a_name():
    listing = {"data": [{"id": "one"}, {"id": "two"}, {"id": "lora", "parent": "one"}]}
    with pytest.raises(ServersError, match=r"serves 2 unedited models \(one, two\)"):
        ServedModels.from_listing("u", listing)
    assert ServedModels.from_listing("u", listing, "two").base == "two"
    with pytest.raises(ServersError, match="does not serve 'lora' unedited"):
        ServedModels.from_listing("u", listing, "lora")


# ---------------------------------------------------------------- replicas


def test_requests_go_to_all_replicas_and_never_too_many_to_one():
    endpoints = [Endpoint(base="one"), Endpoint(base="two")]
    for endpoint in endpoints:
        endpoint.hold = 0.02
    with serving(*endpoints, concurrency=3) as (servers, said):
        found = answers(servers, asked(60))
    assert len(found) == 60 and set(found.values()) == {"one!", "two!"} and said == []
    assert all(endpoint.most_in_flight == 3 for endpoint in endpoints)
    assert all(len(endpoint.requests) >= 10 for endpoint in endpoints)


def test_a_slow_replica_gets_fewer_requests():
    slow, fast = Endpoint(base="slow"), Endpoint(base="fast")
    slow.hold, fast.hold = 0.3, 0.01
    with serving(slow, fast, concurrency=2) as (servers, _):
        answers(servers, asked(40))
    assert len(slow.requests) < len(fast.requests)


@pytest.mark.parametrize("fault", ["drop", 500, "garbage"])
def test_a_replica_that_dies_is_left_out_and_its_requests_go_to_the_others(fault):
    dying, well = Endpoint(script=[fault] * 100, models_script=["up"] + ["down"] * 100), Endpoint(base="well")
    with serving(dying, well, concurrency=4) as (servers, said):
        found = answers(servers, asked(40))
    assert found == {str(number): "well!" for number in range(40)}
    assert len(said) <= 1 and all(dying.url in line and "left out" in line for line in said)


def test_a_replica_that_stumbles_is_taken_back():
    endpoint = Endpoint(script=["drop", "answer", 500], models_script=["up", "down"])
    with serving(endpoint, concurrency=1, grace=5.0) as (servers, said):
        assert len(answers(servers, asked(5))) == 5
    assert said == [] and len(endpoint.requests) == 7


def test_a_replica_that_is_down_at_the_start_is_left_out_in_one_line():
    well = Endpoint()
    with well.running(), Endpoint().running() as gone:
        pass
    with well.running():
        said = []
        with Servers([gone.url, well.url], needs(), notify=said.append) as servers:
            assert len(answers(servers, asked(3))) == 3
        assert [line.startswith(f"{gone.url} is left out: ") for line in said] == [True]
        with pytest.raises(ServersError, match="none of the servers answers"):
            Servers([gone.url], needs(), notify=said.append).__enter__()


def test_when_no_replica_is_left_the_error_says_that_the_command_goes_on():
    endpoint = Endpoint(script=["answer", "answer"] + ["drop"] * 100, models_script=["up"] + ["down"] * 100)
    with serving(endpoint, concurrency=1) as (servers, said):
        found = []
        with pytest.raises(ServersError, match="no server is left; .* the same command goes on"):
            for answer in servers.generate(asked(5), Sampling()):
                found.append(answer.id)
        assert len(found) == 2 and len(said) == 1


def test_a_busy_replica_is_asked_again_and_not_counted_as_failing():
    endpoint = Endpoint(script=[429] * 8)
    with serving(endpoint, concurrency=1) as (servers, said):
        assert len(answers(servers, asked(2))) == 2
    assert said == [] and len(endpoint.requests) == 10


def test_a_request_that_always_fails_is_an_error_and_not_repeated_for_ever():
    endpoint = Endpoint(script=[500] * 100)
    with serving(endpoint, concurrency=1, grace=2.0) as (servers, _):
        with pytest.raises(ServersError, match="a request failed 5 times, the last at .*: HTTP 500: fault 500"):
            answers(servers, asked(1))
    assert len(endpoint.requests) == 5


def test_a_request_that_is_refused_is_named_at_once():
    endpoint = Endpoint(script=[400])
    with serving(endpoint) as (servers, _), pytest.raises(ServersError, match="refuses a request: HTTP 400: fault 400"):
        answers(servers, asked(1))
    assert len(endpoint.requests) == 1


def test_a_reader_that_stops_early_leaves_nothing_running():
    endpoint = Endpoint()
    endpoint.hold = 0.01
    with serving(endpoint, concurrency=2) as (servers, _):
        stream = servers.generate(asked(500), Sampling())
        next(stream)
        stream.close()
        assert len(answers(servers, asked(3))) == 3
    assert len(endpoint.requests) < 100


def test_room_that_others_leave_is_found():
    endpoint, found = Endpoint(), []
    endpoint.hold = 0.05
    with serving(endpoint, concurrency=2) as (servers, _):
        both = [threading.Thread(target=lambda: found.append(answers(servers, asked(9)))) for _ in range(2)]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join(timeout=30)
    assert [len(one) for one in found] == [9, 9] and endpoint.most_in_flight == 2


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host/v1", "http:///v1", "http://user:secret@host/v1"])
def test_addresses_that_are_none_or_hold_a_password_are_refused(url):
    with pytest.raises(ServersError, match="--base-url") as caught:
        Servers([url], needs())
    assert "secret" not in str(caught.value)


def test_an_address_given_twice_is_refused():
    with pytest.raises(ServersError, match="given twice"):
        Servers(["http://host/v1", "http://host/v1/"], needs())
