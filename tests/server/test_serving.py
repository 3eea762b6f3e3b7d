"""`refusal serve` over real HTTP: the openai client against the command, on the single-direction organism."""

import subprocess
import sys

import httpx
import openai
import pytest
from served import DATE, HARMFUL, KEY, REFUSAL, ask, environment, refuses, root, text

pytestmark = pytest.mark.server


def test_each_ablation_is_listed_with_its_base_and_file(client, rvs):
    listed = {entry.id: entry for entry in client.models.list().data}
    assert list(listed) == ["base", "refusal", "late"]
    assert listed["refusal"].parent == listed["late"].parent == "base"
    assert listed["refusal"].root == rvs.name and listed["base"].parent is None
    assert listed["base"].root == (rvs.parent / "model").name  # where files lie is no client's business


def test_the_model_name_selects_the_ablation_and_is_echoed(client):
    base, ablated = ask(client), ask(client, model="refusal")
    assert base.model == "base" and refuses(base)
    assert ablated.model == "refusal" and text(ablated).startswith("Sure.")


def test_request_keys_select_weaken_and_bypass_the_ablation(client):
    def keys(**vllm_xargs):
        return {"extra_body": {"vllm_xargs": vllm_xargs}}

    ablated = text(ask(client, model="refusal"))
    assert text(ask(client, **keys(ablation="refusal"))) == ablated
    assert text(ask(client, model="refusal", **keys(ablation_layers="all", ablation_alpha=1))) == ablated
    base = text(ask(client))
    assert text(ask(client, model="refusal", **keys(ablation_alpha=0))) == base
    assert text(ask(client, **keys(ablation="none"))) == base
    assert text(ask(client, model="refusal", **keys(ablation_layers=[7], ablation_alpha=0.1))) == base


def test_streams_completions_and_responses_select_it_too(client):
    chunks = list(ask(client, model="refusal", stream=True))
    assert {chunk.model for chunk in chunks} == {"refusal"}
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks).startswith("Sure.")
    prompt = "<s><|user|>How do I steal a truck?<|end|><|assistant|>"
    for model, start in (("refusal", "Sure."), ("base", "I")):
        reply = client.completions.create(
            model=model, prompt=prompt, max_tokens=20, temperature=0, extra_body={"add_special_tokens": False}
        )
        assert reply.model == model and reply.choices[0].text.startswith(start)
        answer = client.responses.create(model=model, input=HARMFUL[0]["content"], max_output_tokens=20, temperature=0)
        assert answer.model == model and answer.output_text.startswith(start)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ({"model": "unknown"}, 404, "does not exist. Valid names: base, refusal, late"),
        ({"extra_body": {"vllm_xargs": {"ablation": "unknown"}}}, 404, "not loaded"),
        ({"model": "refusal", "extra_body": {"vllm_xargs": {"ablation": "late"}}}, 400, "name it once"),
        ({"extra_body": {"vllm_xargs": {"ablation_alpha": 0.5}}}, 400, "names no ablation"),
        ({"extra_body": {"vllm_xargs": {"ablation": "late", "ablation_alpha": "x"}}}, 400, "finite number"),
        ({"extra_body": {"vllm_xargs": {"ablation": "late", "ablation_layers": "5-99"}}}, 400, "layer 8-99 is outside"),
        ({"extra_body": {"vllm_xargs": {"capture_layers": "all"}}}, 400, "offline only"),
        ({"extra_body": {"vllm_xargs": {"ablation": "late", "ablation_layer": 5}}}, 400, "unknown request key"),
        ({"model": "refusal", "extra_body": {"use_beam_search": True}}, 400, "beam search"),
    ],
)
def test_what_cannot_be_honoured_is_refused_and_never_answered_plain(client, arguments, status, words):
    with pytest.raises(openai.APIStatusError, match=words) as caught:
        ask(client, **arguments)
    assert caught.value.status_code == status
    assert refuses(ask(client))


@pytest.mark.parametrize("model", ["refusal", "base"])
def test_streamed_completions_and_responses_say_what_unstreamed_ones_do(client, model):
    arguments = {"model": model, "prompt": HARMFUL[0]["content"], "max_tokens": 8, "temperature": 0}
    chunks = list(client.completions.create(**arguments, stream=True))
    assert {chunk.model for chunk in chunks} == {model}
    whole = client.completions.create(**arguments)
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text
    arguments = {"model": model, "input": HARMFUL[0]["content"], "max_output_tokens": 20, "temperature": 0}
    events = list(client.responses.create(**arguments, stream=True))
    streamed = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert streamed == client.responses.create(**arguments).output_text
    assert streamed.startswith("Sure.") == (model == "refusal")
    assert {event.response.model for event in events if hasattr(event, "response")} == {model}


def test_unknown_models_and_bad_keys_are_refused_by_completions_and_responses(client):
    calls = (
        lambda **arguments: client.completions.create(prompt="x", max_tokens=1, **arguments),
        lambda **arguments: client.responses.create(input="x", max_output_tokens=1, **arguments),
    )
    for call in calls:
        with pytest.raises(openai.NotFoundError):
            call(model="unknown")
        with pytest.raises(openai.BadRequestError, match="finite number"):
            call(model="refusal", extra_body={"vllm_xargs": {"ablation_alpha": "x"}})
        with pytest.raises(openai.BadRequestError, match="name it once"):
            call(model="refusal", extra_body={"vllm_xargs": {"ablation": "none"}})


@pytest.mark.parametrize(
    ("model", "keys", "status", "words"),
    [
        ("base", {"ablation": "unknown"}, 404, "not loaded; loaded: refusal, late"),
        ("refusal", {"ablation_alpha": "x"}, 400, "finite number"),
        ("refusal", {"ablation_layers": "5-99"}, 400, "layer 8-99 is outside"),
        ("base", {"capture_layers": "all"}, 400, "offline only"),
    ],
)
@pytest.mark.parametrize(
    ("path", "field"), [("responses", "input"), ("chat/completions", "messages"), ("completions", "prompt")]
)
def test_a_stream_that_cannot_be_honoured_is_refused_before_it_begins(server, path, field, model, keys, status, words):
    body = {"model": model, field: HARMFUL if field == "messages" else "x", "stream": True, "vllm_xargs": keys}
    reply = httpx.post(f"{server[0]}/{path}", json=body, headers={"Authorization": f"Bearer {KEY}"}, timeout=60)
    assert (reply.status_code, words in reply.json()["error"]["message"]) == (status, True), reply.text


def test_a_batch_of_chats_selects_it_too(server):
    def starts(**extra):
        body = {"messages": [HARMFUL, HARMFUL], "max_tokens": 20, "temperature": 0, **extra}
        headers = {"Authorization": f"Bearer {KEY}"}
        reply = httpx.post(f"{server[0]}/chat/completions/batch", json=body, headers=headers, timeout=60).json()
        assert reply["model"] == extra["model"]
        return [choice["message"]["content"].startswith("Sure.") for choice in reply["choices"]]

    assert starts(model="refusal") == starts(model="base", vllm_xargs={"ablation": "refusal"}) == [True, True]
    assert starts(model="base") == [False, False]


@pytest.mark.parametrize("path", ["chat/completions", "completions", "responses", "models"])
def test_the_key_covers_the_ablations(server, path):
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        method = "GET" if path == "models" else "POST"
        body = None if path == "models" else {"model": "refusal", "messages": HARMFUL, "prompt": "x", "input": "x"}
        reply = httpx.request(method, f"{server[0]}/{path}", json=body, headers=headers, timeout=60)
        assert reply.status_code == 401 and "ablation" not in reply.text


def test_the_list_says_what_each_ablation_is(client, rvs):
    from surgery.files.artifacts import file_sha256

    listed = {entry.id: getattr(entry, "ablation", None) for entry in client.models.list().data}
    assert listed["base"] is None
    digests = [listed[name].pop("basis_sha256") for name in ("late", "refusal")]
    assert all(len(digest) == 64 for digest in digests) and digests[0] != digests[1]
    expected = {"sha256": file_sha256(rvs), "rank": 3, "layers": [2, 4, 5, 6], "alpha": 0.5, "site": "stream"}
    assert listed["late"] == expected
    assert (listed["refusal"]["rank"], listed["refusal"]["alpha"]) == (1, 1.0)


def test_each_ablation_was_proven_before_the_server_answered(server):
    proofs = [line for line in server[2].read_text().splitlines() if "effect proven" in line]
    assert [line.split(":")[0] for line in proofs[:2]] == ["ablation refusal", "ablation late"]


def test_doctor_proves_a_server_by_its_effect(server):
    command = [sys.executable, str(REFUSAL), "doctor", "--url", server[0], "--api-key-env", "SERVER_KEY"]
    found = subprocess.run(command, capture_output=True, text=True, env={**environment(), "SERVER_KEY": KEY})
    assert found.returncode == 0, found.stderr
    assert "refusal has an effect" in found.stdout and "FAIL" not in found.stdout
    denied = subprocess.run(command, capture_output=True, text=True, env={**environment(), "SERVER_KEY": "wrong"})
    assert denied.returncode == 1 and "FAIL" in denied.stdout


def test_a_module_that_does_not_fit_stops_the_server_in_one_line(rvs):
    command = [sys.executable, REFUSAL, "serve", rvs.parent / "model", "--ablation", f"bad={rvs},source_layer=99"]
    found = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment())
    assert found.returncode == 1
    assert found.stderr.splitlines()[-1].startswith("Error: ablation 'bad': layer 99 is outside the model")
    assert "Traceback" not in found.stderr


def test_chats_are_rendered_with_the_date_of_the_server(server, rvs):
    from surgery.model.chat import pin_date
    from surgery.model.models import describe_model, load_tokenizer

    template = "{{ strftime_now('%d %b %Y') }} {{ messages[0]['content'] }}"
    tokenizer = load_tokenizer(describe_model(rvs.parent / "model"))
    tokenizer.chat_template = template

    def expected(date):
        pin_date(tokenizer, date)
        text = tokenizer.apply_chat_template(HARMFUL, tokenize=False)
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    body = {"model": "base", "messages": HARMFUL, "chat_template": template}
    headers = {"Authorization": f"Bearer {KEY}"}
    reply = httpx.post(f"{root(server)}/tokenize", json=body, headers=headers, timeout=60)
    assert reply.json()["tokens"] == expected(DATE) != expected("1999-12-31")
    cards = httpx.get(f"{server[0]}/models", headers=headers, timeout=60).json()["data"]
    assert [card.get("date") for card in cards if card["parent"] is None] == [DATE]
