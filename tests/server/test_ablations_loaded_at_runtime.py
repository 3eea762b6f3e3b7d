"""Ablations loaded and unloaded while a server runs: as good as those of its start, or refused in one line."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
from served import HARMFUL, KEY, MAX_NUM_SEQS, ask, samples, text

from surgery.files.artifacts import file_sha256
from vllm_refusal.engine.engine import Request, Sampling

pytestmark = pytest.mark.server

TOKEN_IDS = list(range(3, 12))
RV = {"path": "rvs.safetensors", "source_layer": 4}
LATE = {"path": "sub/late.safetensors", "source_layers": "3-5", "alpha": 0.5, "layers": "2,4-6"}
OF_THE_START = ["base", "refusal", "late"]


@pytest.fixture
def post(change_ablations):
    return change_ablations


@pytest.fixture(autouse=True)
def nothing_loaded(client, post):
    yield
    for name in listed(client)[len(OF_THE_START) :]:
        assert post("unload", name=name)[0] == 200
    assert listed(client) == OF_THE_START


def listed(client):
    return [entry.id for entry in client.models.list().data]


def health(server):
    """Digests of the loaded ablations by name."""
    reply = httpx.get(server[0].replace("/v1", "/health")).json()
    return {one["name"]: one["sha256"] for one in reply["ablations"] if one["name"] not in OF_THE_START}


def stream_of(client, **arguments):
    """A stream that has begun and goes on until it is read or closed."""
    stream = ask(client, stream=True, max_tokens=200, extra_body={"ignore_eos": True}, **arguments)
    next(iter(stream))
    return stream


def answers_when_configured_at_start(start_engine, model, modules, token_ids):
    with start_engine(model, modules, max_model_len=256) as engine:
        requests = [Request(name, token_ids, {"ablation": name}) for name in (*modules, "none")]
        return {answer.id: answer for answer in engine.generate(requests, Sampling(max_tokens=24, logprobs=3))}


def completion(client, token_ids, model):
    return client.completions.create(model=model, prompt=token_ids, max_tokens=24, temperature=0, logprobs=3).choices[0]


def test_what_is_loaded_answers_as_if_it_had_been_configured_at_the_start(client, post, start_engine, rvs, folder):
    from surgery.model.chat import prompt_token_ids
    from surgery.model.models import describe_model, load_tokenizer

    token_ids = prompt_token_ids(load_tokenizer(describe_model(rvs.parent / "model")), HARMFUL[0]["content"])
    modules = {"loaded": RV, "weak": LATE}
    at_start = {name: {**spec, "path": str(folder / spec["path"])} for name, spec in modules.items()}
    expected = answers_when_configured_at_start(start_engine, rvs.parent / "model", at_start, token_ids)
    untouched = completion(client, token_ids, "base")
    for name, spec in modules.items():
        assert post("load", name=name, **spec)[0] == 200
    assert len({answer.text for answer in expected.values()}) >= 2
    for name in modules:
        found = completion(client, token_ids, name)
        assert found.text == expected[name].text
        best = [max(step.values()) for step in expected[name].logprobs]
        assert [max(step.values()) for step in found.logprobs.top_logprobs] == pytest.approx(best, abs=1e-5)
    assert completion(client, token_ids, "base").logprobs == untouched.logprobs  # bit for bit
    assert untouched.text == expected["none"].text


def test_a_loading_shows_everywhere_and_an_unloading_too(server, client, post, folder):
    digest = file_sha256(folder / "rvs.safetensors")
    status, loaded = post("load", name="weak", **LATE)
    assert (status, loaded["path"], loaded["ablation"]["layers"]) == (200, "sub/late.safetensors", [2, 4, 5, 6])
    entry = client.models.list().data[-1]
    assert (entry.id, entry.parent, entry.root) == ("weak", "base", "sub/late.safetensors")
    assert entry.ablation["sha256"] == digest and health(server) == {"weak": digest}
    before = samples(server)
    assert before[f'ablation_info{{ablation="weak",sha256="{digest}",site="stream"}}'] == 1
    assert before['requests_total{ablation="weak"}'] == 0  # the proof of its effect is not a client's request
    assert before["slots_in_use"] == 0 and before["slots"] == MAX_NUM_SEQS
    assert ask(client, model="weak").model == "weak"
    assert samples(server)['requests_total{ablation="weak"}'] == 1
    assert post("unload", name="weak") == (200, {"name": "weak", "unloaded": True})
    assert health(server) == {} and listed(client) == OF_THE_START
    assert not any("weak" in name for name in samples(server))
    for arguments in ({"model": "weak"}, {"extra_body": {"vllm_xargs": {"ablation": "weak"}}}):
        with pytest.raises(openai.NotFoundError):
            ask(client, **arguments)
    assert post("unload", name="weak")[0] == 404


def test_what_is_in_use_stays_until_its_last_request_has_ended(server, client, post):
    assert post("load", name="loaded", **RV)[0] == 200
    with ThreadPoolExecutor(2 * MAX_NUM_SEQS) as pool:  # running and queued
        streams = list(pool.map(lambda _: stream_of(client, model="loaded"), range(MAX_NUM_SEQS)))
        queued = pool.submit(ask, client, extra_body={"vllm_xargs": {"ablation": "loaded", "ablation_alpha": 0.7}})
        status, message = post("unload", name="loaded")
        assert status == 409 and "in use by" in message
        assert listed(client) == [*OF_THE_START, "loaded"]
        assert text(ask(client, model="loaded", max_tokens=4)).startswith("Sure")
        for stream in streams:
            stream.close()
        queued.result()
    assert wait_until(lambda: post("unload", name="loaded")[0] == 200)


def wait_until(done, n_attempts=100):
    for _ in range(n_attempts):
        if done():
            return True
        time.sleep(0.1)  # vLLM notices a closed connection a moment later
    return False


def test_another_file_under_an_old_name_shares_no_cached_block_with_it(client, post):
    def load_and_ask(**spec):
        assert post("load", name="again", **spec)[0] == 200
        answers = [completion(client, TOKEN_IDS * 8, "again").logprobs for _ in range(2)]
        assert answers[0].tokens == answers[1].tokens
        assert post("unload", name="again")[0] == 200
        return answers[0].top_logprobs

    first, other = load_and_ask(**RV), load_and_ask(path="other.safetensors")
    assert first != other
    assert load_and_ask(**RV) == first and load_and_ask(path="other.safetensors") == other


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"name": "x", "path": "missing.safetensors"}, 400, "no such file"),
        ({"name": "x", "path": "text.safetensors"}, 400, "not a readable safetensors file"),
        ({"name": "x", "path": "wide.safetensors"}, 400, "d_model 256"),
        ({"name": "x", "path": "rank9.safetensors"}, 400, "rank 9 but the engine has room for rank 8"),
        ({"name": "x", "path": "other.safetensors", "site": "writes"}, 400, "site writes was not set up"),
        ({"name": "x", "path": "other.safetensors", "alpha": "strong"}, 400, "alpha"),
        ({"name": "x", "path": "other.safetensors", "layers": "7-99"}, 400, "layer 8-99 is outside the model"),
        ({"name": "x", "path": "other.safetensors", "strength": 1}, 400, "unknown setting strength"),
        ({"name": "x", **RV, "allow_other_model": True}, 400, "the operator's to say"),
        ({"name": "x", "path": "escape.safetensors"}, 400, "outside the folder"),
        ({"name": "x", "path": "../rvs.safetensors"}, 400, "outside the folder"),
        ({"name": "x", "path": "/etc/passwd"}, 400, "outside the folder"),
        ({"name": "none", "path": "other.safetensors"}, 400, "name 'none'"),
        ({"name": "base", "path": "other.safetensors"}, 409, "a model of this server has that name"),
        ({"name": "there", "path": "other.safetensors"}, 409, "is loaded with another file"),
        ({"name": "there", **RV, "alpha": 0.5}, 409, "is loaded with another file or other settings"),
    ],
)
def test_what_may_not_be_loaded_is_refused_and_changes_nothing(server, client, post, folder, body, status, words):
    assert post("load", name="there", **RV)[0] == 200
    before = [(entry.id, getattr(entry, "ablation", None)) for entry in client.models.list().data], health(server)
    found, message = post("load", **body)
    assert (found, "\n" in message, str(folder) in message) == (status, False, False) and words in message
    after = [(entry.id, getattr(entry, "ablation", None)) for entry in client.models.list().data], health(server)
    assert after == before
    assert post("load", name="there", **RV)[0] == 200  # the same again is no fault


def test_a_full_server_says_so_and_has_room_again_after_an_unloading(client, post):
    for number in range(3):
        assert post("load", name=f"one-{number}", **RV)[0] == 200
    status, message = post("load", name="one-more", **LATE)
    assert status == 409 and "all 5 ablations" in message
    assert post("unload", name="one-1")[0] == post("load", name="one-more", **LATE)[0] == 200
    assert listed(client) == [*OF_THE_START, "one-0", "one-2", "one-more"]
    assert len({text(ask(client, model=name)) for name in ("one-0", "one-2")}) == 1


def test_the_key_covers_loading_and_unloading(server, post):
    assert post("load", name="there", **RV)[0] == 200
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        for verb, body in (("load", {"name": "x", **RV}), ("unload", {"name": "there"})):
            reply = httpx.post(f"{server[0]}/{verb}_ablation", json=body, headers=headers, timeout=60)
            assert reply.status_code == 401
    assert list(health(server)) == ["there"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", None, "text/json"])
def test_a_body_that_is_not_said_to_be_json_is_refused(server, client, kind):
    """A page in a browser may send those anywhere; for JSON the browser asks the server first."""
    for verb, body in (("load", {"name": "x", **RV}), ("unload", {"name": "late"})):
        headers = {"Authorization": f"Bearer {KEY}", **({} if kind is None else {"Content-Type": kind})}
        reply = httpx.post(f"{server[0]}/{verb}_ablation", content=json.dumps(body), headers=headers, timeout=60)
        assert (reply.status_code, "application/json" in reply.json()["error"]["message"]) == (415, True)
    assert listed(client) == OF_THE_START


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'"x"', b"[" * 100_000])
def test_a_body_that_is_no_object_is_refused(server, body):
    for verb in ("load", "unload"):
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        reply = httpx.post(f"{server[0]}/{verb}_ablation", content=body, headers=headers, timeout=60)
        assert reply.status_code == 400 and "JSON object" in reply.json()["error"]["message"]
