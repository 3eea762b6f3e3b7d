"""Damage through the real engine against Hugging Face hooks in float32, and against itself without an intervention."""

import numpy as np
import pytest
import torch

from eval.cost.damage.measures import kl_divergence
from eval.cost.damage.measuring import ConditionInEngine, Harmless, damage_options, measure, measure_baseline
from eval.cost.damage.texts import BUILT_IN, cut_windows, load_documents
from eval.plan.conditions import BASELINE, Condition
from surgery.model.chat import prompt_token_ids
from surgery.model.models import describe_model, load_model, load_tokenizer
from surgery.organisms.release import asset
from surgery.reading.hooks import ablated
from surgery.residual.subspace import random_subspace
from vllm_refusal.engine.engine import Engine, EngineOptions

pytestmark = pytest.mark.engine

TOLERANCE = 1e-4  # nats; observed below 2e-6
QUESTIONS = ("Name a colour.", "How do I bake bread?", "What is a tide?", "Tell me about bridges.")
EDITED = Condition("sub", "named", "sub", 1.5, 48, request={"ablation": "sub", "ablation_alpha": 1.5})
IDLE = Condition("idle", "named", "idle", 0.0, 48, request={"ablation": "sub", "ablation_alpha": 0.0})


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """(info, basis, inputs, baseline, damage of EDITED, damage of IDLE), from one engine."""
    info = describe_model(asset("single"))
    tokenizer = load_tokenizer(info)
    prompts = {f"p{index}": prompt_token_ids(tokenizer, text) for index, text in enumerate(QUESTIONS)}
    inputs = Harmless(prompts, cut_windows(tokenizer, load_documents(BUILT_IN), 96)[:5])
    subspace = random_subspace(info.d_model, EDITED.rank, seed=3)
    path = subspace.save(tmp_path_factory.mktemp("damage") / "sub.safetensors")
    options = damage_options(EngineOptions("float32", eager=True, vllm={"max_model_len": 256}))
    with Engine(info, {"sub": {"path": str(path)}}, options) as engine:
        baseline = measure_baseline(ConditionInEngine(engine, BASELINE), inputs)
        edited, idle = (
            measure(condition.id, ConditionInEngine(engine, condition), inputs, baseline)
            for condition in (EDITED, IDLE)
        )
    return info, subspace.basis, inputs, baseline, edited, idle


@pytest.fixture(scope="module")
def by_hooks(studied):
    """{condition id: (prompt id -> log probabilities, window id -> nats per token)} by Hugging Face forward hooks."""
    info, basis, inputs, *_ = studied
    model = load_model(info, dtype="float32")

    def read():
        with torch.no_grad():
            logprobs = {
                key: model(torch.tensor([ids])).logits[0, -1].float().log_softmax(-1).numpy()
                for key, ids in inputs.prompts.items()
            }
            nats = {}
            for window in inputs.windows:
                ids = torch.tensor([window.token_ids])
                nats[window.id] = torch.nn.functional.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:]).item()
        return logprobs, nats

    plain = read()
    with ablated(model, basis, EDITED.alpha, "all", "stream"):
        return {BASELINE.id: plain, EDITED.id: read()}


def test_the_baseline_has_the_distributions_and_the_perplexity_of_hugging_face(studied, by_hooks):
    baseline, (logprobs, nats) = studied[3], by_hooks[BASELINE.id]
    for key, expected in logprobs.items():
        np.testing.assert_allclose(baseline.logprobs[key], expected, atol=TOLERANCE)
    assert baseline.nats == pytest.approx(nats, abs=TOLERANCE)


def test_an_intervention_does_the_damage_that_hooks_do(studied, by_hooks):
    edited = studied[4]
    (plain, before), (changed, after) = by_hooks[BASELINE.id], by_hooks[EDITED.id]
    kl = [kl_divergence(plain[key], changed[key]) for key in plain]
    same = [plain[key].argmax() == changed[key].argmax() for key in plain]
    assert edited.kl.estimate == pytest.approx(np.mean(kl), abs=TOLERANCE)
    assert edited.kl.n == len(QUESTIONS)
    assert edited.same_token == np.mean(same)
    assert edited.nats.estimate == pytest.approx(np.mean([after[key] - before[key] for key in after]), abs=TOLERANCE)
    assert edited.perplexity == pytest.approx(np.exp(np.mean(list(after.values()))), rel=TOLERANCE)
    assert edited.kl.estimate > 100 * TOLERANCE  # the comparison could have failed
    assert abs(edited.nats.estimate) > 100 * TOLERANCE


def test_strength_zero_does_no_damage(studied):
    idle = studied[5]
    assert idle.kl.estimate == pytest.approx(0, abs=1e-9)
    assert idle.nats.estimate == pytest.approx(0, abs=1e-6)
    assert idle.same_token == 1
