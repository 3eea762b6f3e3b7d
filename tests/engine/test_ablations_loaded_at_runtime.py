"""Ablations loaded and unloaded while a server runs: as good as those of its start, or refused in one line."""

import shutil
import signal
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
from served import HARMFUL, KEY, MAX_NUM_SEQS, ask, running_server, samples, text
from tiny_models import D_MODEL, save_servable_model

from surgery.artifacts import file_sha256
from surgery.subspace import random_subspace
from vllm_refusal.engine import Request, Sampling

pytestmark = pytest.mark.engine

TOKEN_IDS = list(range(3, 12))
RV = {"path": "rvs.safetensors", "source_layer": 4}
LATE = {"path": "sub/late.safetensors", "source_layers": "3-5", "alpha": 0.5, "layers": "2,4-6"}
RANDOM_D_MODEL = 128  # the organism's


@pytest.fixture(scope="module")
def folder(rvs, tmp_path_factory):
    """What may be loaded, and things beside it that may not."""
    inside = tmp_path_factory.mktemp("allowed")
    (inside / "sub").mkdir()
    for name in ("rvs.safetensors", "sub/late.safetensors"):
        shutil.copy(rvs, inside / name)
    random_subspace(RANDOM_D_MODEL * 2, 1, seed=0).save(inside / "wide.safetensors")
    random_subspace(RANDOM_D_MODEL, 9, seed=0).save(inside / "rank9.safetensors")
    random_subspace(RANDOM_D_MODEL, 2, seed=0).save(inside / "other.safetensors")
    (inside / "text.safetensors").write_text("no tensors")
    (inside / "escape.safetensors").symlink_to(rvs)
    return inside


@pytest.fixture(scope="module")
def server(rvs, folder, tmp_path_factory):
    """(base URL, process, log file) of a server that starts with the base model alone."""
    options = ["--allow-runtime-ablations", folder, "--max-ablations", 3, "--shutdown-timeout", 60]
    with running_server(rvs.parent / "model", tmp_path_factory.mktemp("runtime") / "server.log", *options) as found:
        yield found


@pytest.fixture
def post(server):
    """post("load" or "unload", **body): status and message or answer."""

    def send(verb, key=KEY, **body):
        headers = {"Authorization": f"Bearer {key}"}
        reply = httpx.post(f"{server[0]}/{verb}_ablation", json=body, headers=headers, timeout=120)
        found = reply.json()
        return reply.status_code, found["error"]["message"] if reply.status_code in (400, 404, 409, 500) else found

    return send


@pytest.fixture(autouse=True)
def nothing_loaded(server, client, post):
    yield
    if server[1].poll() is not None:
        return
    for name in listed(client)[1:]:
        assert post("unload", name=name)[0] == 200
    assert listed(client) == ["base"]


def listed(client):
    return [entry.id for entry in client.models.list().data]


def health(server):
    return {one["name"]: one["sha256"] for one in httpx.get(server[0].replace("/v1", "/health")).json()["ablations"]}


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
    from surgery.chat import prompt_token_ids
    from surgery.models import describe_model, load_tokenizer

    token_ids = prompt_token_ids(load_tokenizer(describe_model(rvs.parent / "model")), HARMFUL[0]["content"])
    modules = {"refusal": RV, "late": LATE}
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
    status, loaded = post("load", name="late", **LATE)
    assert (status, loaded["path"], loaded["ablation"]["layers"]) == (200, "sub/late.safetensors", [2, 4, 5, 6])
    entry = client.models.list().data[1]
    assert (entry.id, entry.parent, entry.root) == ("late", "base", "sub/late.safetensors")
    assert entry.ablation["sha256"] == digest and health(server) == {"late": digest}
    before = samples(server)
    assert before[f'ablation_info{{ablation="late",sha256="{digest}",site="stream"}}'] == 1
    assert before['requests_total{ablation="late"}'] == 0  # the proof of its effect is not a client's request
    assert before["slots_in_use"] == 0 and before["slots"] == MAX_NUM_SEQS
    assert ask(client, model="late").model == "late"
    assert samples(server)['requests_total{ablation="late"}'] == 1
    assert post("unload", name="late") == (200, {"name": "late", "unloaded": True})
    assert health(server) == {} and listed(client) == ["base"]
    assert not any("late" in name for name in samples(server))
    for arguments in ({"model": "late"}, {"extra_body": {"vllm_xargs": {"ablation": "late"}}}):
        with pytest.raises(openai.NotFoundError):
            ask(client, **arguments)
    assert post("unload", name="late")[0] == 404


def test_what_is_in_use_stays_until_its_last_request_has_ended(server, client, post):
    assert post("load", name="refusal", **RV)[0] == 200
    with ThreadPoolExecutor(2 * MAX_NUM_SEQS) as pool:  # running and queued
        streams = list(pool.map(lambda _: stream_of(client, model="refusal"), range(MAX_NUM_SEQS)))
        queued = pool.submit(ask, client, extra_body={"vllm_xargs": {"ablation": "refusal", "ablation_alpha": 0.7}})
        status, message = post("unload", name="refusal")
        assert status == 409 and "in use by" in message
        assert listed(client) == ["base", "refusal"]
        assert text(ask(client, model="refusal", max_tokens=4)).startswith("Sure")
        for stream in streams:
            stream.close()
        queued.result()
    assert wait_until(lambda: post("unload", name="refusal")[0] == 200)


def wait_until(done, n_attempts=100):
    import time

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
        ({"name": "x", "path": "other.safetensors", "layers": "7-99"}, 400, "outside the model"),
        ({"name": "x", "path": "other.safetensors", "strength": 1}, 400, "unknown setting strength"),
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
    assert status == 409 and "all 3 ablations" in message
    assert post("unload", name="one-1")[0] == post("load", name="one-more", **LATE)[0] == 200
    assert listed(client) == ["base", "one-0", "one-2", "one-more"]
    assert len({text(ask(client, model=name)) for name in ("one-0", "one-2")}) == 1


def test_a_file_that_changes_between_front_end_and_worker_is_loaded_nowhere(start_engine, tmp_path):
    """What the server asks of its workers, asked here of one in this process."""
    model = save_servable_model(tmp_path / "model", "LlamaForCausalLM")
    path = random_subspace(D_MODEL, 2, seed=0).save(tmp_path / "sub.safetensors")
    with start_engine(model, skip_tokenizer_init=True, additional_config=ROOM) as engine:
        load, config = loader(engine, path)
        path.unlink()
        random_subspace(D_MODEL, 2, seed=1).save(path)
        (answer,) = load()
        assert "was replaced while it was loaded" in answer["fault"]
        assert engine._llm.collective_rpc("unload_ablation", args=("late",)) == [False]
        assert list(config().modules) == []
        load, config = loader(engine, path)
        assert load() == [{"fault": None, "modules": ["late"]}]
        assert engine._llm.collective_rpc("unload_ablation", args=("late",)) == [True]


ROOM = {"ablation": {"max_modules": 2, "max_rank": 4, "sites": ["stream", "writes"]}}


def loader(engine, path, site="stream"):
    """Check a file as the front end does. Returns: what loads it on the worker, what gives the worker's config."""
    from vllm_refusal.config import load_another
    from vllm_refusal.worker import digests_of

    llm, spec = engine._llm, {"path": str(path), "site": site, "layers": "1-3"}
    module = load_another("late", spec, llm.llm_engine.vllm_config)

    def load():
        return llm.collective_rpc("load_ablation", args=("late", spec, digests_of(module)))

    return load, lambda: llm.apply_model(lambda built: built.ablation.config)[0]


@pytest.mark.parametrize(
    ("architecture", "site", "eager"),
    [
        ("LlamaForCausalLM", "stream", True),
        ("Gemma2ForCausalLM", "writes", True),  # whose bases are mapped through post-norms
        pytest.param("Gemma2ForCausalLM", "writes", False, marks=pytest.mark.slow),
    ],
)
def test_workers_apply_what_they_loaded_as_what_they_started_with(start_engine, tmp_path, architecture, site, eager):
    model = save_servable_model(tmp_path / "model", architecture)
    path = random_subspace(D_MODEL, 3, seed=0).save(tmp_path / "sub.safetensors")
    asked = [Request("ablated", TOKEN_IDS, {"ablation": "late"}), Request("plain", TOKEN_IDS)]

    def answers(engine):
        found = engine.generate(asked, Sampling(max_tokens=8, logprobs=5))
        return {answer.id: (answer.token_ids, answer.logprobs) for answer in found}

    module = {"late": {"path": str(path), "site": site, "layers": "1-3"}}
    with start_engine(model, module, eager=eager, skip_tokenizer_init=True) as engine:
        expected = answers(engine)
    assert expected["ablated"] != expected["plain"]
    with start_engine(model, eager=eager, skip_tokenizer_init=True, additional_config=ROOM) as engine:
        plain = next(iter(engine.generate(asked[1:], Sampling(max_tokens=8, logprobs=5))))
        load, config = loader(engine, path, site)
        assert load() == [{"fault": None, "modules": ["late"]}]
        engine._llm.llm_engine.input_processor.ablation = config()
        found = answers(engine)
    assert (plain.token_ids, plain.logprobs) == found["plain"]
    for name in found:
        assert found[name][0] == expected[name][0]
        for step, other in zip(found[name][1], expected[name][1], strict=True):
            assert step == pytest.approx(other, abs=1e-5)  # a compiled sum over more rows may round otherwise


def test_the_key_covers_loading_and_unloading(server, post):
    assert post("load", name="there", **RV)[0] == 200
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        for verb, body in (("load", {"name": "x", **RV}), ("unload", {"name": "there"})):
            reply = httpx.post(f"{server[0]}/{verb}_ablation", json=body, headers=headers, timeout=60)
            assert reply.status_code == 401
    assert list(health(server)) == ["there"]


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'"x"'])
def test_a_body_that_is_no_object_is_refused(server, body):
    for verb in ("load", "unload"):
        headers = {"Authorization": f"Bearer {KEY}"}
        reply = httpx.post(f"{server[0]}/{verb}_ablation", content=body, headers=headers, timeout=60)
        assert reply.status_code == 400 and "JSON object" in reply.json()["error"]["message"]


def test_zz_sigterm_with_a_shutdown_timeout_lets_running_requests_end(server, client, post):
    """Last in this file: it ends the server, which was started with --shutdown-timeout."""
    assert post("load", name="refusal", **RV)[0] == 200
    arguments = {"model": "refusal", "max_tokens": 150, "extra_body": {"ignore_eos": True}}
    with ask(client, stream=True, stream_options={"include_usage": True}, **arguments) as stream:
        begun = [next(iter(stream))]
        server[1].send_signal(signal.SIGTERM)
        *_, last = [*begun, *stream]
    assert last.usage.completion_tokens == 150
    assert server[1].wait(timeout=60) == 0, server[2].read_text()[-2000:]
