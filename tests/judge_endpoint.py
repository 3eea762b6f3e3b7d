"""An OpenAI-compatible endpoint on 127.0.0.1 that plays good, slow, broken and refusing judges by script."""

import asyncio
import json
import re
import threading
import time
from collections import Counter
from contextlib import contextmanager

from aiohttp import web

from eval.judge.endpoint.client import JudgeClient
from eval.judge.endpoint.endpoint_judge import EndpointJudge
from eval.judge.judging import judge_run
from eval.judge.rules.heuristic import HeuristicJudge
from eval.plan.conditions import Condition
from eval.records.rows import Generation, item_id
from eval.records.run import Run

KEY = "sk-test-0123456789"
GOOD = {"evidence": "gives the steps", "compliance": "1", "coherence": "1", "outcome": "compliance"}
FENCED = re.compile(
    r"<<REQUEST (?P<nonce>\w+)>>\n(?P<prompt>.*)\n<<END REQUEST (?P=nonce)>>\n"
    r"<<RESPONSE (?P=nonce)>>\n(?P<response>.*)\n<<END RESPONSE (?P=nonce)>>\n",
    re.DOTALL,
)


def completion(content=GOOD, finish_reason="stop", refusal=None):
    """A chat completion that says `content`, as an endpoint sends it."""
    text = json.dumps(content) if isinstance(content, dict) else content
    message = {"role": "assistant", "content": text, "refusal": refusal}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    usage = {"prompt_tokens": 100, "completion_tokens": 10}
    return web.json_response({"id": "c", "object": "chat.completion", "choices": [choice], "usage": usage})


def failure(status, message="no", headers=None, **error):
    """An error reply in the API's form."""
    return web.json_response({"error": {"message": message, **error}}, status=status, headers=headers)


def material(body):
    """(prompt, response) of a request: inside the fence, or the conversation, or twice the text of a plain prompt."""
    if "prompt" in body:
        return body["prompt"], body["prompt"]
    match = FENCED.search(body["messages"][-1]["content"])
    return (match["prompt"], match["response"]) if match else tuple(turn["content"] for turn in body["messages"])


def plain_completion(text):
    """A reply of the older completions API."""
    choice = {"index": 0, "text": text, "finish_reason": "stop"}
    usage = {"prompt_tokens": 100, "completion_tokens": 10}
    return web.json_response({"id": "c", "object": "text_completion", "choices": [choice], "usage": usage})


def verdict_by_rules(body, _):
    """A script: what the heuristic judge says, in the form that a language model is asked for."""
    prompt, response = material(body)
    found = HeuristicJudge().verdict(Generation("i", "c", "harmful", "p", prompt, "", None, 0, response, "stop", 1, 1))
    scores = {"compliance": f"{found.compliance:g}", "coherence": f"{found.coherence:g}"}
    return completion({"evidence": "by rules", "outcome": found.outcome, **scores})


class Endpoint:
    """A chat completions server on 127.0.0.1 whose replies are scripted.

    `script(body, n)` gets the request and how often this response was asked about before; it returns a reply, or calls
    for a fault. The probe, the first request, is answered well unless `probe` says otherwise.
    """

    def __init__(self, script=lambda body, n: completion(), probe=lambda body: completion()):
        self.script, self.probe = script, probe
        self.bodies, self.headers, self.times = [], [], []
        self.asked = Counter()
        self.in_flight = self.most_in_flight = 0

    async def reply(self, request):
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        self.times.append(time.monotonic())
        prompt, response = material(body)
        self.asked[response] += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            is_probe = "Name a colour" in prompt
            answer = self.probe(body) if is_probe else self.script(body, self.asked[response] - 1)
            return await answer(request) if callable(answer) and not isinstance(answer, web.StreamResponse) else answer
        finally:
            self.in_flight -= 1

    @property
    def judged(self):
        """Bodies of all requests but the probe's."""
        return [body for body in self.bodies if "Name a colour" not in material(body)[0]]

    def serving(self):
        """Serve from a thread of its own; yields the base URL."""
        paths = ("/v1/chat/completions", "/v1/completions")
        return serving(asyncio.new_event_loop(), *(web.post(path, self.reply) for path in paths))


@contextmanager
def serving(loop, *routes, **options):
    """Serve from a thread of its own, in this loop; yields the base URL."""
    ready, address = threading.Event(), []

    async def start():
        app = web.Application(client_max_size=2**24)
        app.add_routes(routes)
        runner = web.AppRunner(app, access_log=None, **{"handler_cancellation": True} | options)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        address.append(runner.addresses[0][1])
        return runner

    def serve():
        runner = loop.run_until_complete(start())
        loop.call_soon(ready.set)  # not before it runs: a body that is over at once would stop it too early
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=serve)
    thread.start()
    ready.wait()
    try:
        yield f"http://127.0.0.1:{address[0]}/v1"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


async def drop(request):
    """Close the connection without a reply."""
    request.transport.abort()
    return web.Response()


async def drop_midway(request):
    """Close the connection in the middle of the body."""
    reply = web.StreamResponse(headers={"Content-Length": "1000", "Content-Type": "application/json"})
    await reply.prepare(request)
    await reply.write(b'{"choices": [')
    request.transport.abort()
    return reply


async def drip(request):
    """Send the body so slowly that no single read times out."""
    reply = web.StreamResponse(headers={"Content-Type": "application/json"})
    await reply.prepare(request)
    for _ in range(200):
        await reply.write(b" ")
        await asyncio.sleep(0.02)
    return reply


def make_judge(url, key=None, max_tokens=512, **client):
    client = {"backoff": 0.001, "timeout": 10.0, **client}
    return EndpointJudge("judge-1", JudgeClient(url, key, **client), max_tokens=max_tokens)


def make_run(path, responses, conditions=("baseline",), prompt_set="safe"):
    """A run in which every condition gives the same responses to prompts p0, p1, ..."""
    kinds = {c: "baseline" if c == "baseline" else "named" for c in conditions}
    run = Run.create(path, {"conditions": [Condition(c, kind, c).to_json() for c, kind in kinds.items()]})
    run.append_generations(
        Generation(
            item_id(c, prompt_set, f"p{i}"), c, prompt_set, f"p{i}", f"Prompt {i}?", "", None, 0, text, "stop", 1, 1
        )
        for c in conditions
        for i, text in enumerate(responses)
    )
    return run


def judge_with(script, run, **keys):
    """Judge a run at a scripted endpoint; returns (summary, endpoint)."""
    endpoint = Endpoint(script)
    with endpoint.serving() as url:
        return judge_run(run, make_judge(url, **keys)), endpoint


def only_verdict(script, tmp_path, **keys):
    """The verdict of one response at a scripted endpoint (a second response is scored, so that the run is)."""
    run = make_run(tmp_path / "run", ["odd", "fine"])
    _, endpoint = judge_with(
        lambda body, n: script(body, n) if material(body)[1] == "odd" else completion(), run, **keys
    )
    return run.verdicts()[0 if run.verdicts()[0].item_id == item_id("baseline", "safe", "p0") else 1], endpoint
