"""Progress of a real engine: its tokens are counted from the first step on, long before a response finishes."""

import pytest
from edited_writes import TOKEN_IDS
from tiny_models import save_servable_model

from vllm_refusal.engine.engine import Request, Sampling

pytestmark = pytest.mark.engine


def test_the_tokens_of_unfinished_responses_are_counted_step_by_step(tmp_path, start_engine):
    model = save_servable_model(tmp_path / "model", "LlamaForCausalLM")
    requests = [Request(name, TOKEN_IDS) for name in "ab"]
    with start_engine(model, {}, skip_tokenizer_init=True) as engine:
        assert engine.n_pending_tokens == 0
        sampling = Sampling(max_tokens=5).arguments() | {"ignore_eos": True}
        counts = [(engine.n_pending_tokens, len(outputs)) for outputs in engine.finished(requests, sampling)]
    assert counts == [(2, 0), (4, 0), (6, 0), (8, 0), (0, 2)]
