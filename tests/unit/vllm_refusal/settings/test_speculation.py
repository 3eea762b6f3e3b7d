"""Which of an engine's models drafts tokens for the other: that one, and no other, runs unedited."""

from types import SimpleNamespace

import pytest

from vllm_refusal.model.runner_v1 import _with_tables
from vllm_refusal.settings.engine_parts import is_draft

TARGET, DRAFT = object(), object()


def building(model, **speculative):
    return SimpleNamespace(
        model_config=model, speculative_config=SimpleNamespace(**speculative) if speculative else None
    )


def test_only_the_model_that_drafts_is_a_draft():
    two = {"target_model_config": TARGET, "draft_model_config": DRAFT}
    assert is_draft(building(DRAFT, **two))
    assert not is_draft(building(TARGET, **two))
    assert not is_draft(building(TARGET))


def test_where_no_model_drafts_the_served_one_is_no_draft():
    assert not is_draft(building(TARGET, target_model_config=TARGET, draft_model_config=TARGET))  # ngram


def runner(ablation):
    model = SimpleNamespace(ablation=None, capture=None)
    config = SimpleNamespace(additional_config={"ablation": {}} if ablation else {})
    return SimpleNamespace(get_model=lambda: model, vllm_config=config)


def test_a_served_model_without_tables_in_an_engine_with_ablation_runs_no_step():
    step = _with_tables(lambda self: "plain")
    with pytest.raises(RuntimeError, match="started with ablation, but the model"):
        step(runner(ablation=True))
    assert step(runner(ablation=False)) == "plain"
