"""An engine that does not do what its modules say does not start: each way to fail, in the real engine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import D_MODEL, TRACED, save_servable_model

from surgery.residual.subspace import random_subspace
from vllm_refusal.edit.affine import ResidualEdit
from vllm_refusal.engine.engine import Request, Sampling
from vllm_refusal.model.proof import NoEffectError

pytestmark = pytest.mark.engine

REFUSAL = Path(__file__).resolve().parents[2] / "bin" / "refusal"


@pytest.fixture
def start(tmp_path, start_engine):
    """start(architecture, site, **arguments): an engine with a module of rank 2 at layers 1 to 3."""

    def started(architecture, site="stream", **arguments):
        model = save_servable_model(tmp_path / "model", architecture)
        path = random_subspace(D_MODEL, 2, seed=0).save(tmp_path / "sub.safetensors")
        modules = {"sub": {"path": str(path), "site": site, "layers": "1-3"}}
        return start_engine(model, modules, skip_tokenizer_init=True, **arguments)

    return started


def unedited(self, hidden, *residual):
    return (hidden, *residual) if residual else hidden


def at_half_strength(self, x, bound):
    slot = self.slot[: x.shape[0]]
    alpha = self.alpha[slot].unsqueeze(-1)
    return x + 0.5 * alpha * self._change(x, self.module_of_slot[slot]), alpha != 0


@pytest.mark.parametrize(("architecture", "site"), [("LlamaForCausalLM", "stream"), ("Gemma2ForCausalLM", "writes")])
def test_an_engine_that_edits_is_proven_and_answers_no_other_way_afterwards(start, architecture, site):
    with start(architecture, site) as engine:
        asked = [Request("plain", [5, 6, 7]), Request("ablated", [5, 6, 7], {"ablation": "sub"})]
        found = {each.id: each.logprobs for each in engine.generate(asked, Sampling(max_tokens=2, logprobs=5))}
        assert found["plain"] != found["ablated"]
        assert engine._llm.collective_rpc("watched_ablations") == [[]]  # no hook is left


@pytest.mark.parametrize(
    ("architecture", "site", "target", "broken", "words"),
    [
        ("LlamaForCausalLM", "stream", "ResidualEdit.on_sum", unedited, "leaves .* at layer 1"),
        ("GraniteForCausalLM", "stream", "ResidualEdit.on_single", unedited, "leaves .* at layer 1"),
        ("LlamaForCausalLM", "writes", "ResidualEdit.on_single", unedited, "leaves .* of the writes .* at layer 1"),
        ("LlamaForCausalLM", "stream", "ResidualEdit._edited", at_half_strength, "leaves .* at layer 1"),
    ],
)
def test_an_edit_that_is_off_or_too_weak_stops_the_engine(
    start, monkeypatch, architecture, site, target, broken, words
):
    monkeypatch.setattr(ResidualEdit, target.split(".")[1], broken)
    with pytest.raises(NoEffectError, match=f"'sub' .*{words}"):
        start(architecture, site)


def test_a_gain_that_is_ignored_stops_the_engine(start, monkeypatch):
    import torch

    monkeypatch.setattr("vllm_refusal.edit.post_norms._gain", lambda norm, offset: torch.ones_like(norm.weight).cpu())
    with pytest.raises(NoEffectError, match="'sub' .* leaves .* of the writes"):
        start("Gemma2ForCausalLM", "writes")


def test_a_graph_that_was_traced_without_the_edit_stops_the_engine(start, monkeypatch):
    import torch

    edit = ResidualEdit.on_sum

    def on_sum(self, hidden, residual):
        return (hidden, residual) if torch.compiler.is_compiling() else edit(self, hidden, residual)

    monkeypatch.setattr(ResidualEdit, "on_sum", on_sum)
    with pytest.raises(NoEffectError, match="no effect on the compiled model's output"):
        start("LlamaForCausalLM", eager=False, compilation_config=TRACED)


def test_without_the_plugin_a_command_says_so_and_answers_nothing(rvs, tmp_path):
    """vLLM takes no plugin but those that this variable names."""
    model = rvs.parent / "model"
    words = ["generate", model, "--ablation", f"a={rvs},source_layer=4", "--prompts", model / "prompts.jsonl"]
    command = [sys.executable, REFUSAL, *words, "--limit", 2, "--max-tokens", 4, "-o", tmp_path / "run"]
    environment = {**os.environ, "VLLM_PLUGINS": "lora_filesystem_resolver", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)
    assert done.returncode == 1, done.stderr
    assert "vLLM runs without ablation though it was asked for" in done.stderr
    rows = tmp_path / "run" / "generations.jsonl"
    assert not rows.exists() or not [json.loads(line) for line in rows.open()]
