"""Stock `vllm serve` and `vllm.LLM` with the plugin: what does not edit never gets as far as answering."""

import json
import os
import signal
import subprocess
import sys

import pytest
from edited_requests import LOGPROB_TOLERANCE, Reference, raw_request, run, sampling, start_llm
from tiny_models import D_MODEL, save_servable_model

from surgery.residual.subspace import random_subspace
from vllm_refusal.model.proof import NoEffectError
from vllm_refusal.settings.request import UnknownAblationError

pytestmark = pytest.mark.engine

SABOTAGE = """
def register():
    from vllm_refusal.edit.affine import ResidualEdit

    ResidualEdit.on_sum = lambda self, hidden, residual: (hidden, residual)
"""


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return Reference(tmp_path_factory.mktemp("stock"))


def broken(self, hidden, residual):
    return hidden, residual


def test_an_engine_of_vllms_own_is_proven_as_it_starts(reference, monkeypatch):
    from vllm_refusal.edit.affine import ResidualEdit

    monkeypatch.setattr(ResidualEdit, "on_sum", broken)
    with pytest.raises(NoEffectError, match="leaves .* at layer 0"):
        start_llm(reference, skip_tokenizer_init=True, max_num_seqs=4)


@pytest.fixture(scope="module")
def llm(reference):
    """In this process, with a bound of strength below the proof's."""
    settings = {"modules": {"four": {**reference.modules["four"], "alpha": 0.25}}, "max_alpha": 0.5}
    arguments = {"additional_config": {"ablation": settings}, "disable_log_stats": False}
    llm = start_llm(reference, skip_tokenizer_init=True, max_num_seqs=4, **arguments)
    yield llm
    llm.llm_engine.engine_core.shutdown()


def assert_answers(reference, llm):
    intervention = ("four", 0.5, "all")
    (answer,) = run(llm, [[5, 6, 7]], sampling(intervention, max_tokens=1, detokenize=False))
    assert reference.distance(answer, answer.outputs[0], intervention) < LOGPROB_TOLERANCE


def test_the_proof_is_in_no_count_and_holds_whatever_strength_is_admitted(reference, llm):
    """The engine answers nobody while it proves, and its own bound of strength does not stop it."""
    (counted,) = [metric.value for metric in llm.get_metrics() if metric.name == "vllm:prompt_tokens"]
    assert counted == 0
    assert_answers(reference, llm)
    assert llm.collective_rpc("prove_ablations") == [{"proven": ["four"], "fault": None}]


@pytest.mark.parametrize("n", [1, 3])
def test_a_request_that_the_core_refuses_raises_and_nobody_waits_for_it(reference, llm, n):
    """An engine core of this process has nobody who would end the request instead."""
    request = raw_request("unknown", [5, 6, 7], {"ablation": "x"})
    request.sampling_params.n = n
    signal.signal(signal.SIGALRM, hung)
    signal.alarm(60)
    try:
        with pytest.raises(UnknownAblationError, match="'x' is not loaded"):
            llm.llm_engine.add_request("unknown", request, request.sampling_params)
        assert not llm.llm_engine.has_unfinished_requests()
        assert_answers(reference, llm)
    finally:
        signal.alarm(0)


def hung(*_):
    raise TimeoutError("nobody ends the request that was refused")


@pytest.fixture
def sabotage(tmp_path):
    """Environment in which every process of vLLM loads a plugin that takes the edit of the stream away."""
    package = tmp_path / "path"
    described = package / "sabotage-1.dist-info"
    described.mkdir(parents=True)
    (package / "sabotage.py").write_text(SABOTAGE)
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: sabotage\nVersion: 1\n")
    (described / "entry_points.txt").write_text("[vllm.general_plugins]\nsabotage = sabotage:register\n")
    kept = {name: value for name, value in os.environ.items() if name != "VLLM_ENABLE_V1_MULTIPROCESSING"}
    path = os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH", "")]))
    return {**kept, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "INFO"}


@pytest.mark.server
def test_a_stock_server_whose_processes_are_spawned_does_not_start_on_an_edit_that_is_off(tmp_path, sabotage):
    """A spawned core loads plugins when its start has begun."""
    model = save_servable_model(tmp_path / "model", "LlamaForCausalLM")
    path = random_subspace(D_MODEL, 2, seed=0).save(tmp_path / "sub.safetensors")
    settings = json.dumps({"ablation": {"modules": {"sub": {"path": str(path)}}}})
    command = [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        model,
        "--port",
        0,
        "--enforce-eager",
    ]
    command += ["--dtype", "float32", "--max-model-len", 64, "--skip-tokenizer-init", "--additional-config", settings]
    environment = sabotage | {"VLLM_WORKER_MULTIPROCESSING_METHOD": "spawn"}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, timeout=300)
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "NoEffectError: ablation 'sub'" in said and "Application startup complete" not in said, said[-4000:]
