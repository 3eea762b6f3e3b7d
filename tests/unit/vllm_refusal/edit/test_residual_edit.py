"""The edit in the graph and the tables behind it, against the reference operator."""

from dataclasses import replace

import pytest
import torch

from surgery.residual.operator import ablate_affine
from surgery.residual.subspace import random_subspace
from vllm_refusal.edit.saturation import largest
from vllm_refusal.edit.slot_tables import SlotTables
from vllm_refusal.settings.modules import AblationConfig, AblationModule, Room
from vllm_refusal.settings.request import RESOLVED, make_intervention

D_MODEL, N_LAYERS = 48, 4
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.0}  # bfloat16: the same float32 number rounds to the same value


def module(name, rank, site="stream", offset=None):
    basis = random_subspace(D_MODEL, rank, seed=rank).basis
    return AblationModule(name, "", basis, offset, 1.0, tuple(range(N_LAYERS)), site, f"sha-{name}", "")


@pytest.fixture
def config():
    modules = [module("one", 1), module("four", 4), module("affine", 2, offset=torch.tensor([0.5, -2.0]))]
    modules.append(module("writes", 3, site="writes"))
    return AblationConfig({item.name: item for item in modules}, None, N_LAYERS, D_MODEL, 4)


@pytest.fixture
def tables(config):
    return SlotTables(config, 32, "cpu")


def asked(config, name, alpha=1.0, layers=range(N_LAYERS)):
    return {RESOLVED: make_intervention(config, name, alpha, tuple(layers)).to_wire()}


def resid(n_tokens, dtype=torch.float32):
    return torch.randn(n_tokens, D_MODEL, generator=torch.Generator().manual_seed(n_tokens)).to(dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_each_row_is_edited_by_its_own_request(config, tables, dtype):
    slots = [
        tables.add_request("plain", None),
        tables.add_request("one", asked(config, "one", 1.5)),
        tables.add_request("four", asked(config, "four", 0.5, [2])),
        tables.add_request("affine", asked(config, "affine")),
    ]
    tables.write_tokens(slots, [2, 3, 1, 2])
    x = resid(8, dtype)
    edited = tables.edit_of("stream", 2).on_single(x)
    assert torch.equal(edited[:2], x[:2])
    for rows, name, alpha in ((slice(2, 5), "one", 1.5), (slice(5, 6), "four", 0.5), (slice(6, 8), "affine", 1.0)):
        chosen = config.modules[name]
        expected = ablate_affine(x[rows], chosen.basis, chosen.offset, alpha)
        torch.testing.assert_close(edited[rows], expected, atol=TOLERANCE[dtype], rtol=0)
        assert not torch.equal(edited[rows], x[rows])


def test_a_layer_outside_the_request_is_left_bit_for_bit(config, tables):
    tables.write_tokens([tables.add_request("r", asked(config, "four", 1.0, [2]))], [3])
    x = resid(3)
    assert torch.equal(tables.edit_of("stream", 1).on_single(x), x)
    assert torch.equal(tables.edit_of("writes", 2).on_single(x), x)
    assert not torch.equal(tables.edit_of("stream", 2).on_single(x), x)


def test_a_sum_is_edited_as_a_whole_and_other_rows_keep_both_addends(config, tables):
    tables.write_tokens([0, tables.add_request("r", asked(config, "four"))], [1, 2])
    hidden, residual = resid(3, torch.bfloat16), resid(4, torch.bfloat16)[:3]
    new_hidden, new_residual = tables.edit_of("stream", 0).on_sum(hidden, residual)
    assert torch.equal(new_hidden[0], hidden[0]) and torch.equal(new_residual[0], residual[0])
    assert torch.equal(new_residual[1:], torch.zeros_like(residual[1:]))
    stream = (hidden.float() + residual.float())[1:]
    expected = ablate_affine(stream, config.modules["four"].basis, None, 1.0).to(torch.bfloat16)  # rounded once
    assert torch.equal(new_hidden[1:], expected)


def test_a_stream_with_a_batch_axis_is_edited_as_without(config, tables):
    """vLLM runs models of transformers with one, of length 1."""
    tables.write_tokens([0, tables.add_request("r", asked(config, "four"))], [1, 2])
    x = resid(3)
    edit = tables.edit_of("stream", 0)
    batched = edit.on_single(x[None])
    assert batched.shape == (1, 3, D_MODEL) and torch.equal(batched[0], edit.on_single(x))
    assert torch.equal(batched[0, 0], x[0]) and not torch.equal(batched[0, 1:], x[1:])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("rank", [1, 8, 48])
def test_rows_do_not_depend_on_the_batch_at_any_rank(rank, dtype):
    tables, slot = tables_of_rank(rank)
    assert_rows_do_not_depend_on_the_batch(tables, slot, tables.edit_of("stream", 0).on_sum, dtype)


@pytest.mark.engine
def test_rows_do_not_depend_on_the_batch_once_compiled():
    tables, slot = tables_of_rank(16)
    edit = torch.compile(tables.edit_of("stream", 0).on_sum, fullgraph=True, dynamic=True)
    assert_rows_do_not_depend_on_the_batch(tables, slot, edit, torch.float32)


@pytest.mark.engine
def test_a_compiled_edit_follows_the_tables_and_equals_the_eager_one():
    tables, slot = tables_of_rank(16)
    eager = tables.edit_of("stream", 0).on_single
    edit = torch.compile(eager, fullgraph=True, dynamic=True)
    x = resid(4)
    assert torch.equal(edit(x), x)  # traced while no token had an intervention
    tables.write_tokens([0, slot], [1, 3])
    edited = edit(x)
    assert torch.equal(edited[0], x[0]) and not torch.equal(edited[1:], x[1:])
    torch.testing.assert_close(edited, eager(x), atol=1e-5, rtol=0)


def tables_of_rank(rank):
    """Tables with one module and the slot of a request that uses it."""
    config = AblationConfig({"wide": module("wide", rank)}, None, N_LAYERS, D_MODEL, 4)
    tables = SlotTables(config, 32, "cpu")
    return tables, tables.add_request("r", asked(config, "wide", 1.5))


def assert_rows_do_not_depend_on_the_batch(tables, slot, on_sum, dtype):
    hidden, residual = resid(24, dtype), resid(23, dtype).repeat(2, 1)[:24]
    tables.write_tokens([0, slot], [5, 19])
    together, _ = on_sum(hidden, residual)
    for start, end in ((5, 7), (6, 11), (7, 24), (23, 24)):
        tables.write_tokens([slot], [end - start])
        alone, _ = on_sum(hidden[start:end], residual[start:end])
        assert torch.equal(alone, together[start:end]), (start, end)
    assert torch.equal(together[:5], hidden[:5]) and not torch.equal(together[5:], hidden[5:])


def test_many_rows_are_edited_chunk_by_chunk_as_they_are_at_once(monkeypatch):
    tables, slot = tables_of_rank(8)
    edit = tables.edit_of("stream", 0)
    x = resid(24)
    tables.write_tokens([slot, 0, slot], [9, 2, 13])
    at_once = edit.on_single(x)
    monkeypatch.setattr(
        "vllm_refusal.edit.affine.EAGER_CHUNK", 5 * 2 * 8 * D_MODEL
    )  # five rows of the two bases' table
    assert torch.equal(edit.on_single(x), at_once)


def test_an_idle_batch_is_handed_through_untouched():
    tables, slot = tables_of_rank(8)
    hidden, residual = resid(3), resid(3)
    edit = tables.edit_of("stream", 0)
    assert edit.on_sum(hidden, residual) == (hidden, residual) and edit.on_single(hidden) is hidden
    tables.write_tokens([0, slot], [2, 1])
    assert edit.on_sum(hidden, residual)[0] is not hidden


def test_padding_rows_behind_a_shorter_batch_have_no_intervention(config, tables):
    slot = tables.add_request("r", asked(config, "one"))
    tables.write_tokens([slot], [20])
    tables.write_tokens([slot], [4])
    assert tables.slot[:4].tolist() == [slot] * 4
    assert tables.slot[4:].count_nonzero() == 0


def test_the_shapes_of_which_a_compiled_graph_is_made_tell_engines_apart(config):
    """They are in the key of vLLM's compile cache: files of another rank under the same names are another graph."""
    shapes = SlotTables(config, 32, "cpu").shapes()
    assert SlotTables(config, 32, "cpu").shapes() == shapes
    stream_only = {name: item for name, item in config.modules.items() if item.site == "stream"}
    others = [
        replace(config, modules={**config.modules, "four": module("four", 5)}),
        replace(config, modules=stream_only, room=Room(0, 0, ())),
        replace(config, max_slots=5),
    ]
    assert all(SlotTables(other, 32, "cpu").shapes() != shapes for other in others)


def test_equal_interventions_share_a_slot_and_idle_slots_are_reused(config, tables):
    first = tables.add_request("a", asked(config, "one", 0.5))
    assert tables.add_request("b", asked(config, "one", 0.5)) == first
    others = {tables.add_request(f"c{i}", asked(config, "one", 1.0 + i)) for i in range(3)}
    assert len(others | {first}) == 4
    with pytest.raises(RuntimeError, match="all 4 ablation slots"):
        tables.add_request("too many", asked(config, "one", 9.0))
    tables.remove_request("a")
    with pytest.raises(RuntimeError):
        tables.add_request("still used by b", asked(config, "one", 9.0))
    tables.remove_request("b")
    assert tables.add_request("reuses", asked(config, "four", 9.0)) == first
    tables.write_tokens([first], [1])
    x = resid(1)
    expected = ablate_affine(x, config.modules["four"].basis, None, 9.0)
    torch.testing.assert_close(tables.edit_of("stream", 0).on_single(x), expected, atol=1e-4, rtol=0)


def test_a_request_that_skipped_admission_is_never_run_plain(config, tables):
    with pytest.raises(RuntimeError, match="did not pass admission"):
        tables.add_request("r", {"ablation": "one"})
    assert tables.add_request("none", {"ablation": "none"}) == 0
    assert tables.add_request("zero", {"ablation": "one", "ablation_alpha": 0}) == 0


def test_a_module_that_differs_between_processes_is_never_run(config, tables):
    wire = asked(config, "one")[RESOLVED]
    with pytest.raises(RuntimeError, match="differs between the front end and this worker"):
        tables.add_request("r", {RESOLVED: {**wire, "digest": "0" * 32}})


class StockState:
    """The calls of vLLM's Model Runner V2 that the state class answers."""

    def __init__(self, vllm_config, model, encoder_cache, device):
        self.max_num_reqs = 8
        self.calls = []

    def add_request(self, req_index, new_req_data):
        self.calls.append("add")

    def remove_request(self, req_id):
        self.calls.append("remove")

    def prepare_inputs(self, input_batch, req_states):
        return {"stock": True}

    def prepare_dummy_inputs(self, num_reqs, num_tokens):
        return {"dummy": True}


def test_the_v2_state_marks_the_tokens_of_each_request(config, tables):
    from types import SimpleNamespace

    import numpy as np

    from vllm_refusal.model.runner_v2 import model_state_class

    model = SimpleNamespace(ablation=tables)
    state = model_state_class(model, StockState)(None, model, None, "cpu")
    for index, (name, extra_args) in enumerate(
        {"a": asked(config, "one"), "b": None, "c": asked(config, "four")}.items()
    ):
        params = SimpleNamespace(extra_args=extra_args)
        state.add_request(index, SimpleNamespace(req_id=name, sampling_params=params))
    batch = SimpleNamespace(
        num_reqs=3, idx_mapping_np=np.array([2, 0, 1, 7]), num_scheduled_tokens=np.array([1, 3, 2, 9])
    )
    assert state.prepare_inputs(batch, None) == {"stock": True}
    one, four = state.slot_of_index[0], state.slot_of_index[2]
    assert one and four and one != four
    assert tables.slot[:7].tolist() == [four, one, one, one, 0, 0, 0]
    assert state.prepare_dummy_inputs(2, 8) == {"dummy": True} and tables.slot.count_nonzero() == 0
    state.remove_request("a")
    assert tables.slot_of("a") is None and state.calls == ["add", "add", "add", "remove"]
    before = tables.n_intervened_tokens
    dummy = SimpleNamespace(num_reqs=1, idx_mapping_np=np.array([0]), num_scheduled_tokens=np.array([5]))
    state.prepare_inputs(dummy, None)  # as vLLM makes one, of the first indices
    assert tables.slot.count_nonzero() == 0 and tables.n_intervened_tokens == before
    assert model_state_class(SimpleNamespace(ablation=None), StockState) is StockState


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_an_edited_row_saturates_and_is_never_anything_but_a_number(dtype):
    tables, slot = tables_of_rank(8)
    edit = tables.edit_of("stream", 0)
    edit.alpha[slot] = -4.0  # makes the component five times as long, block after block
    tables.write_tokens([slot, 0], [3, 1])
    hidden, residual = resid(4, dtype), torch.zeros(4, D_MODEL, dtype=dtype)
    for _ in range(80):
        hidden, residual = edit.on_sum(hidden, residual + 1)
        assert hidden.isfinite().all()
    assert float(hidden[:3].abs().max()) == pytest.approx(largest(dtype), rel=0.01)
    assert hidden[3].abs().max() < 10  # a row without an intervention is not touched
    assert hidden[:3].float().square().sum(-1).isfinite().all()
    assert edit.on_single(hidden).isfinite().all()


def test_an_id_that_comes_again_with_another_intervention_gets_another_slot(config):
    tables = SlotTables(config, 8, "cpu")
    first = tables.slot_now("same", asked(config, "one"))
    assert tables.slot_now("same", asked(config, "one")) == first != 0
    other = tables.slot_now("same", asked(config, "four"))
    assert other not in (0, first) and tables.slot_now("same", None) == 0
    assert tables.n_slots_in_use == 0
