"""Generation that is interrupted or killed at any moment, as a process of its own: nothing is lost, nothing twice."""

import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import pytest
from click.testing import CliRunner

from eval.cli import main
from eval.generation.interruption import ending_resumably
from eval.records.replacement import aside_of
from eval.records.run import Run
from surgery.organisms.release import write_organism

REFUSAL = Path(__file__).resolve().parents[2] / "bin" / "refusal"
N_PROMPTS = 40

pytestmark = pytest.mark.server


class Handler(BaseHTTPRequestHandler):
    """A server that answers each prompt with its own token ids, slowly enough to be interrupted."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self._reply({"object": "list", "data": [{"id": "base", "max_model_len": 512}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(0.02)
        self.server.answering.wait(60)
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": 1}
        choice = {"text": " ".join(map(str, body["prompt"])), "finish_reason": "stop"}
        self._reply({"model": body["model"], "usage": usage, "choices": [choice]})

    def _reply(self, value):
        text = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.answering = Event()
    server.answering.set()
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def command(server, tmp_path_factory):
    """The words of a command whose responses come from a local server, all but -o."""
    model = write_organism("single", tmp_path_factory.mktemp("organism") / "model")
    words = ["generate", model, "--prompts", model / "prompts.jsonl", "--limit", N_PROMPTS, "--samples", 2]
    words += ["--temperature", 1, "--base-url", f"http://127.0.0.1:{server.server_port}/v1", "--concurrency", 1]
    return list(map(str, words))


@pytest.fixture(autouse=True)
def answering(server):
    yield
    server.answering.set()


def start_replacing(server, command, out):
    """The command with --force and another seed, when the old run is out of its way and nothing is answered yet."""
    server.answering.clear()
    process = start(command, out, "--force", "--seed", "7")
    while not (aside_of(out).exists() and out.exists()) and process.poll() is None:
        time.sleep(0.01)
    return process


def start(command, out, *more):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    words = [sys.executable, str(REFUSAL), *command, "-o", str(out), *more]
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(command, out):
    """Run the command to its end, in this process, which has imported all that it needs; returns what it printed."""
    done = CliRunner().invoke(main, [*command, "-o", str(out)])
    assert done.exit_code == 0, done.output
    return done.stdout


def n_lines(out):
    path = out / "generations.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for_responses(process, out, n):
    while n_lines(out) < n and process.poll() is None:
        time.sleep(0.02)


@pytest.fixture(scope="module")
def undisturbed(command, tmp_path_factory):
    """item id -> response of a run that nothing happened to."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(command, out)
    found = {row.item_id: row.response for row in Run.open(out).generations()}
    assert len(found) == 2 * N_PROMPTS
    return found


def assert_whole(out, undisturbed):
    rows = [json.loads(line) for line in (out / "generations.jsonl").read_text().splitlines()]
    assert len(rows) == len({row["item_id"] for row in rows}), "a response was generated twice"
    assert {row["item_id"]: row["response"] for row in rows} == undisturbed


def test_an_interrupt_is_one_line_that_says_how_to_go_on_and_exit_code_130(command, undisturbed, tmp_path):
    out, before = tmp_path / "run", 0
    for number in (signal.SIGINT, signal.SIGTERM):
        process = start(command, out)
        wait_for_responses(process, out, before + 1)
        process.send_signal(number)
        _, stderr = process.communicate()
        assert process.returncode == 130, stderr
        last = stderr.splitlines()[-1]
        assert last.startswith(
            f"interrupted: {n_lines(out)} responses are kept in {out}; the same command goes on: refusal"
        )
        assert "Traceback" not in stderr and before < n_lines(out) < len(undisturbed)
        before = n_lines(out)
    assert f"{len(undisturbed) - before} new responses" in finish(command, out)
    assert_whole(out, undisturbed)


def killed_until_it_ends(command, out, n_kills, seed):
    """Kill the command at random moments; returns how many of these it outlived with more responses than before."""
    chance, n_useful = random.Random(seed), 0
    for _ in range(n_kills):
        before, process = n_lines(out), start(command, out)
        wait_for_responses(process, out, before + chance.randrange(1, 4))
        time.sleep(chance.random() * 0.3)
        process.kill()
        process.communicate()
        n_useful += n_lines(out) > before
    finish(command, out)
    return n_useful


def test_a_command_killed_at_random_moments_goes_on_where_it_was(command, undisturbed, tmp_path):
    assert killed_until_it_ends(command, tmp_path / "run", 2, seed=1) > 0
    assert_whole(tmp_path / "run", undisturbed)


@pytest.mark.slow
@pytest.mark.long
def test_twenty_kills_lose_nothing(command, undisturbed, tmp_path):
    killed_until_it_ends(command, tmp_path / "run", 20, seed=2)
    assert_whole(tmp_path / "run", undisturbed)


def test_a_killed_replacement_leaves_the_old_run_to_the_next_command(server, command, undisturbed, tmp_path):
    out = tmp_path / "run"
    finish(command, out)
    process = start_replacing(server, command, out)
    process.kill()
    process.communicate()
    server.answering.set()
    assert "0 new responses" in finish(command, out)
    assert_whole(out, undisturbed)


def test_an_interrupted_replacement_prints_the_command_that_replaces_and_then_the_one_that_goes_on(
    server, command, tmp_path
):
    out, command = tmp_path / "run", [*command, "--limit", "3"]
    finish(command, out)
    process = start_replacing(server, command, out)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    server.answering.set()
    assert process.returncode == 130, stderr
    said, words = stderr.splitlines()[-1].split(": refusal ")
    assert said.startswith("interrupted before the first response, what was there is kept")
    done = CliRunner().invoke(main, shlex.split(words))
    assert done.exit_code == 0 and "6 new responses" in done.stdout, done.output
    assert Run.open(out).manifest.sampling["seed"] == 7


@pytest.mark.parametrize("begun", [False, True])
def test_force_is_printed_again_until_what_is_there_is_the_replacement(command, tmp_path, begun, capsys):
    out = tmp_path / "run"
    finish([*command, "--limit", "1"], out)
    with pytest.raises(SystemExit), ending_resumably(out, ["generate", "-o", str(out), "--force"]):
        if begun:
            shutil.copytree(out, tmp_path / "new")
            shutil.move(out, tmp_path / "old")
            shutil.move(tmp_path / "new", out)
        raise KeyboardInterrupt
    said = capsys.readouterr().err
    assert ("--force" in said) is not begun
    assert said.startswith("interrupted: 2 responses" if begun else "interrupted before the first response, what was")


@pytest.mark.parametrize("left", [(), (".lock", ".run.json.1.part")])
def test_a_replacement_killed_before_its_record_gives_the_place_back(command, tmp_path, left):
    out, command = tmp_path / "run", [*command, "--limit", "1"]
    finish(command, out)
    out.rename(aside_of(out))
    out.mkdir()
    for name in left:
        (out / name).touch()
    assert "0 new responses" in finish(command, out)
    assert [path.name for path in tmp_path.iterdir()] == ["run"] and n_lines(out) == 2
