"""The bound on the rank of an engine's modules."""

import pytest

from surgery.residual.subspace import random_subspace
from vllm_refusal.settings.engine_settings import _check_ranks
from vllm_refusal.settings.modules import MAX_RANK, AblationModule, ConfigError


def module(rank):
    return AblationModule(
        "wide", "wide.safetensors", random_subspace(96, rank, seed=rank).basis, None, 1.0, (0,), "stream", "", ""
    )


@pytest.mark.parametrize(("rank", "largest"), [(1, 1), (16, 16), (64, MAX_RANK)])
def test_a_rank_up_to_the_bound_is_accepted(rank, largest):
    _check_ranks([module(1), module(rank)], largest)


@pytest.mark.parametrize(
    ("rank", "largest", "advice"), [(5, 4, "or raise max_rank"), (65, MAX_RANK, "a smaller subspace$")]
)
def test_a_larger_rank_is_refused_with_both_numbers(rank, largest, advice):
    with pytest.raises(ConfigError, match=rf"rank {rank} but max_rank is {largest}; .*{advice}"):
        _check_ranks([module(1), module(rank)], largest)


@pytest.mark.parametrize("largest", [0, 65, True, "4", None, 2.0])
def test_a_bound_that_is_no_rank_is_refused(largest):
    with pytest.raises(ConfigError, match="max_rank must be a whole number from 1 to 64"):
        _check_ranks([], largest)
