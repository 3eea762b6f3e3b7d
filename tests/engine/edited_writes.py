"""What the equality tests of checkpoint and adapter share: one prompt, one subspace, some layers and strengths."""

import pytest

from surgery.architecture.table import ARCHITECTURES

ALPHAS = (0.5, 1.0, 1.5)
LAYERS = "0,2-3"
RANK = 4
TOKEN_IDS = list(range(3, 14))
N_TOKENS = 10
LOGPROB_TOLERANCE = 2e-4  # float32 sums in another order, and weights rounded once; observed below 3e-5
EFFECT = 1e-2
# Every strength for one architecture of each way to write: as it is, through a norm, by experts. One for the others.
EVERY_ALPHA = ("Qwen2ForCausalLM", "Gemma2ForCausalLM", "Qwen3MoeForCausalLM")
CASES = [(name, alpha) for name in sorted(ARCHITECTURES) for alpha in (ALPHAS if name in EVERY_ALPHA else (1.5,))]


def assert_equal(ours, token_ids, logprobs):
    """Two answers are those of one model: a response, and another's tokens and log probabilities at each step."""
    assert tuple(token_ids) == ours.token_ids
    for expected, found in zip(ours.logprobs, logprobs, strict=True):
        assert found == pytest.approx(dict(expected), abs=LOGPROB_TOLERANCE)


def assert_apart(plain, logprobs):
    """The negative control: the same comparison tells an edited model from the plain one."""
    assert plain.logprobs[0].keys() != logprobs[0].keys() or logprobs[0] != pytest.approx(
        dict(plain.logprobs[0]), abs=EFFECT
    )
