"""The Triton kernel against the plain form, in a process of its own: in Triton's interpreter, or on a GPU.

The interpreter must be chosen (TRITON_INTERPRET=1) before anything imports Triton, hence the process;
test_triton_edit.py starts it.
"""

import os

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"

from surgery.residual.subspace import random_subspace  # noqa: E402
from vllm_refusal.edit.affine import ResidualEdit, load_kernel  # noqa: E402

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
N_MODULES, N_SLOTS = 3, 6


def edits(rank, d_model, offsets=True):
    """(the plain edit, the edit in the kernel) over the same tables: modules of rank 1 to `rank`, zero-padded."""
    bases = torch.zeros(N_MODULES + 1, rank, d_model)
    for index in range(1, N_MODULES + 1):
        own = max(1, rank // index)
        bases[index, :own] = random_subspace(d_model, own, seed=index).basis
    generator = torch.Generator().manual_seed(rank)
    c = torch.randn(N_MODULES + 1, rank, generator=generator) * offsets
    c[0] = 0
    bases, c = bases.to(DEVICE), c.to(DEVICE)
    slot = torch.tensor([1, 0, 2, 3, 4, 5, 0] * 6, device=DEVICE)
    module_of_slot = torch.tensor([0, 1, 2, 3, 1, 2], device=DEVICE)
    alpha = torch.tensor(
        [0.0, 1.0, 0.5, 1.5, 0.0, -1.0], device=DEVICE
    )  # slot 4 has an intervention, but not at this site
    plain = ResidualEdit(slot, module_of_slot, bases, c, alpha)
    fused = ResidualEdit(slot, module_of_slot, bases, c, alpha)
    assert load_kernel()
    plain.in_kernel, fused.in_kernel = False, True
    return plain, fused


def stream(n_tokens, d_model, dtype, seed):
    return torch.randn(n_tokens, d_model, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def active_rows(edit, n_tokens):
    return edit.alpha[edit.slot[:n_tokens]] != 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rank", "d_model"), [(1, 100), (3, 384), (4, 100), (8, 384), (23, 100), (64, 384)])
def test_a_sum_equals_the_plain_form(d_model, rank, dtype):
    plain, fused = edits(rank, d_model)
    for n_tokens in (1, 9):
        hidden, residual = stream(n_tokens, d_model, dtype, 1), stream(n_tokens, d_model, dtype, 2)
        expected = plain.on_sum(hidden, residual)
        written = fused.on_sum(hidden.clone(), residual.clone())
        active = active_rows(plain, n_tokens)
        for got, before in zip(written, (hidden, residual), strict=True):
            assert got.dtype == dtype and torch.equal(got[~active], before[~active])
        assert_rounded_once(written[0][active], expected[0][active], dtype)
        assert not written[1][active].any()
        assert (written[0][active] != hidden[active]).any(-1).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rank", [1, 4, 7])
def test_a_single_tensor_equals_the_plain_form(rank, dtype):
    plain, fused = edits(rank, 100)
    resid = stream(13, 100, dtype, 3)
    written = fused.on_single(resid.clone())
    active = active_rows(plain, 13)
    assert torch.equal(written[~active], resid[~active])
    assert_rounded_once(written[active], plain.on_single(resid)[active], dtype)


def assert_rounded_once(got, expected, dtype):
    """Equal but for the last bits of float32, whose sums of up to 384 terms run in another order.

    In half precision these tip a few numbers in a thousand to the neighbour; rounding twice would tip a tenth of them.
    In bfloat16 the interpreter may give every number's neighbour: it cuts off where a GPU rounds to nearest.
    """
    if dtype == torch.float32:
        torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-5)
        return
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=torch.finfo(dtype).eps)
    if dtype == torch.float16 or not INTERPRETED:
        assert (got != expected).float().mean() < 0.02


def test_wide_models_are_edited_block_by_block(monkeypatch):
    monkeypatch.setattr("vllm_refusal.edit.triton.TILE", 256)  # blocks of 32 and 64 columns over 300
    for rank in (4, 5, 16):
        plain, fused = edits(rank, 300)
        hidden, residual = stream(5, 300, torch.float32, 1), stream(5, 300, torch.float32, 2)
        expected = plain.on_sum(hidden, residual)[0]
        torch.testing.assert_close(fused.on_sum(hidden, residual)[0], expected, atol=2e-5, rtol=1e-5)


def test_rows_of_a_wider_tensor_are_edited_and_its_other_columns_are_not():
    plain, fused = edits(4, 64)
    wide = stream(6, 160, torch.float32, 1)
    residual = stream(64, 6, torch.float32, 2).t()  # columns, not rows, lie one behind the other
    before = wide.clone()
    expected = plain.on_sum(before[:, 32:96], residual)[0]
    fused.on_sum(wide[:, 32:96], residual)
    torch.testing.assert_close(wide[:, 32:96], expected, atol=2e-5, rtol=1e-5)
    assert torch.equal(wide[:, :32], before[:, :32]) and torch.equal(wide[:, 96:], before[:, 96:])


def test_rows_without_an_intervention_keep_even_what_is_no_number():
    _, fused = edits(4, 64)
    hidden, residual = stream(7, 64, torch.bfloat16, 1), stream(7, 64, torch.bfloat16, 2)
    hidden[1], residual[4], hidden[6] = float("inf"), float("nan"), float("nan")  # slots 0, 4 and 0
    before = hidden.clone(), residual.clone()
    fused.on_sum(hidden, residual)
    for row in (1, 4, 6):
        for now, then in zip((hidden, residual), before, strict=True):
            assert torch.equal(now[row].view(torch.int16), then[row].view(torch.int16))


def test_no_tokens_are_no_error():
    _, fused = edits(4, 64)
    assert fused.on_single(torch.zeros(0, 64, device=DEVICE)).shape == (0, 64)


def test_a_row_does_not_depend_on_its_batch():
    _, fused = edits(8, 100)
    hidden, residual = stream(12, 100, torch.float32, 1), stream(12, 100, torch.float32, 2)
    together, _ = fused.on_sum(hidden.clone(), residual.clone())
    alone, _ = fused.on_sum(hidden[:4].clone(), residual[:4].clone())
    assert torch.equal(together[:4], alone)


def test_a_compiled_graph_holds_the_operator_and_follows_the_tables():
    """In the graph of a model the addends are fresh; the arguments of the graph itself stay as they were."""
    plain, fused = edits(4, 64)

    def block(edit, x, y):
        hidden, residual = edit.on_sum(x * 2, y + 1)
        return hidden + residual, edit.on_single(hidden - 1)

    compiled = torch.compile(lambda x, y: block(fused, x, y), fullgraph=True, dynamic=True)
    for n_tokens in (7, 12):
        x, y = stream(n_tokens, 64, torch.float32, 1), stream(n_tokens, 64, torch.float32, 2)
        before = x.clone(), y.clone()
        for got, expected in zip(compiled(x, y), block(plain, x, y), strict=True):
            torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-5)
        assert torch.equal(x, before[0]) and torch.equal(y, before[1])
    fused.slot.zero_()
    assert torch.equal(compiled(x, y)[0], x * 2 + (y + 1))


def test_the_operators_say_truthfully_what_they_write():
    _, fused = edits(4, 64)
    tables = fused._tables()
    checks = ("test_schema", "test_faketensor")
    operators = torch.ops.vllm_refusal
    torch.library.opcheck(
        operators.edit_sum_.default,
        (stream(7, 64, torch.float32, 1), stream(7, 64, torch.float32, 2), *tables),
        test_utils=checks,
    )
    torch.library.opcheck(operators.edit_single_.default, (stream(7, 64, torch.float32, 1), *tables), test_utils=checks)
