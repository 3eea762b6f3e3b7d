"""Every command and every Python block that a document shows, run in its order in an empty folder; shown output compared.

What cannot run here is in NOT_RUN with its reason; `tests/unit/test_documentation.py` checks its options all the same.
"""

import contextlib
import io
import os
import re
import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest
from click.testing import CliRunner
from documents import NOT_RUN, ROOT, RUN, is_refusal, shows, steps, words
from judge_endpoint import Endpoint, completion, verdict_by_rules

from eval.cli import main

pytestmark = [pytest.mark.engine, pytest.mark.slow]

PORT = "127.0.0.1:8000"  # of the server in the documents
SMALL = ["--enforce-eager", "--max-model-len", "256"]  # a server compiles for minutes on a CPU otherwise
GUARD = "Harmful request: yes\nResponse refusal: no\nHarmful response: no\n"
LABELS = "prompt,response,label\nHow?,I cannot help with that.,refusal\nHow?,Sure. First read the basics.,compliance\n"
START_SECONDS = 600  # an upper bound for a loaded machine; nothing waits longer than it must


def judge_reply(body, n):
    """What a judge behind an endpoint says: as a guard where the model is one, else a rubric's answer by the rules."""
    return completion(GUARD) if "guard" in body["model"] else verdict_by_rules(body, n)


def probe_reply(body):
    return completion(GUARD) if "guard" in body["model"] else completion()


class Reader:
    """Does what a document says, in a folder of its own; hosts and ports of the document stand for what runs here."""

    def __init__(self, folder, addresses):
        self.folder, self.addresses, self.names = folder, addresses, {}
        self.server = None

    def do(self, step):
        """Run a step; returns what it printed."""
        text = self.here(step.text)
        if step.language == "python":
            return self.python(text)
        if is_refusal(text):
            return self.serve(text) if words(text)[1] == "serve" else self.refusal(text)
        if words(text)[0] == "export":
            name, _, value = words(text)[1].partition("=")
            os.environ[name] = value
            return ""
        done = subprocess.run(["bash", "-o", "pipefail", "-ec", text], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{step}\n{done.stdout}{done.stderr}"
        return done.stdout

    def here(self, text):
        """The text with this machine's addresses for the document's."""
        for name, address in self.addresses.items():
            text = text.replace(name, address)
        return text

    def python(self, text):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(text, "document", "exec"), self.names)
        return printed.getvalue()

    def refusal(self, text):
        found = CliRunner().invoke(main, words(text)[1:], prog_name="refusal")
        assert found.exit_code == 0, f"{text}\n{found.output}"
        return found.output

    def serve(self, text):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        self.addresses[PORT] = f"127.0.0.1:{port}"
        asked = re.sub(r"--port \d+", f"--port {port}", text)
        log = open(self.folder / "server.log", "w")
        kept = {name: value for name, value in os.environ.items() if name != "VLLM_ENABLE_V1_MULTIPROCESSING"}
        command = [sys.executable, ROOT / "bin" / "refusal", *words(asked)[1:], *SMALL]
        self.server = subprocess.Popen(command, stdout=log, stderr=log, env=kept)
        for _ in range(START_SECONDS):
            assert self.server.poll() is None, (self.folder / "server.log").read_text()[-3000:]
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"http://{self.addresses[PORT]}/health", timeout=60).status_code == 200:
                    return ""
            time.sleep(1)
        raise AssertionError("the server did not answer")

    def close(self):
        if self.server is not None:
            self.server.send_signal(signal.SIGINT)
            self.server.wait(60)


@pytest.fixture
def reader(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in ("OPENAI_API_KEY", "SERVER_KEY"):  # what a document exports goes with the test
        monkeypatch.setenv(name, "")
    (tmp_path / "labels.csv").write_text(LABELS)
    endpoints = [Endpoint(judge_reply, probe_reply) for _ in range(2)]
    with endpoints[0].serving() as first, endpoints[1].serving() as second:
        monkeypatch.setenv("OPENAI_BASE_URL", first)
        found = Reader(tmp_path, {"http://judge-1:8000/v1": first, "http://judge-2:8000/v1": second})
        try:
            yield found
        finally:
            found.close()


@pytest.mark.parametrize("page", RUN)
def test_everything_that_a_page_shows_runs_and_says_what_is_shown(page, reader):
    for step in steps(page):
        if not any(text in step.text for text in NOT_RUN):
            said = reader.do(step)
            assert shows(said, step.shown), f"{step}\nshown:\n{os.linesep.join(step.shown)}\nsaid:\n{said}"
