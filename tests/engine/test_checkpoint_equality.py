"""The product's gate: an orthogonalized checkpoint in stock vLLM is the same model as runtime ablation of the writes."""

import pytest
from edited_writes import CASES, LAYERS, N_TOKENS, TOKEN_IDS, assert_apart, assert_equal

from surgery.model.models import describe_model
from surgery.weights.checkpoint import orthogonalize
from vllm_refusal.engine.engine import Request, Sampling

pytestmark = pytest.mark.engine


@pytest.mark.parametrize(("architecture", "alpha"), CASES)
def test_the_checkpoint_equals_ablation_of_the_writes(architecture, alpha, writes_at_run_time, start_engine, tmp_path):
    model, subspace, at_run_time = writes_at_run_time(architecture)
    orthogonalize(describe_model(model), subspace.basis, alpha, tmp_path / "edited", layers=LAYERS)
    with start_engine(tmp_path / "edited", skip_tokenizer_init=True) as stock:
        requests = [Request("edited", TOKEN_IDS)]
        (edited,) = stock.generate(requests, Sampling(max_tokens=N_TOKENS, logprobs=5))
    assert_equal(at_run_time[alpha], edited.token_ids, edited.logprobs)
    assert_apart(at_run_time[0.0], edited.logprobs)
