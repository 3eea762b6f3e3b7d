"""Runtime ablation of writes that pass a norm: bases mapped once the weights are loaded, never applied before."""

import pytest
import torch
from torch import nn

from surgery.console.errors import ModelError
from surgery.residual.subspace import random_subspace
from vllm_refusal.edit.slot_tables import SlotTables
from vllm_refusal.settings.modules import AblationConfig, AblationModule
from vllm_refusal.settings.request import RESOLVED, make_intervention

D_MODEL = 48
GEMMA = 1.0  # its gain is one plus the stored weight


class Norm(nn.Module):
    """A norm with uneven gains; only its weight matters here."""

    def __init__(self, seed):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(D_MODEL, generator=torch.Generator().manual_seed(seed)))


@pytest.fixture
def config():
    def module(name, rank, site):
        basis = random_subspace(D_MODEL, rank, seed=rank).basis
        return AblationModule(name, "", basis, None, 1.0, (0, 1), site, f"sha-{name}", "")

    modules = [module("stream", 2, "stream"), module("writes", 3, "writes")]
    return AblationConfig({item.name: item for item in modules}, None, 2, D_MODEL, 4)


@pytest.fixture
def tables(config):
    return SlotTables(config, 16, "cpu")


def wire(config, name):
    return {RESOLVED: make_intervention(config, name, 1.0, (0, 1)).to_wire()}


def reaching_stream(tables, config, edit, norm):
    """Largest coordinate in the subspace of what the norm passes on, edited and not (its division is left out)."""
    tables.write_tokens([tables.add_request("r", wire(config, "writes"))], [5])
    raw = torch.randn(5, D_MODEL, generator=torch.Generator().manual_seed(9))
    basis, gain = config.modules["writes"].basis, norm.weight.detach() + GEMMA
    return [((out * gain) @ basis.T).abs().max().item() for out in (edit.on_single(raw), raw)]


def test_what_the_norm_passes_on_has_no_component_in_the_subspace(config, tables):
    norms = [Norm(0), Norm(1)]
    edits = [tables.edit_of("writes", 0, tables.before_norms.add(norm, GEMMA)) for norm in norms]
    assert tables.before_norms.fill() == 2
    for edit, norm in zip(edits, norms, strict=True):
        edited, raw = reaching_stream(tables, config, edit, norm)
        assert edited < 1e-5 < 1 < raw  # float32 rounding
    plain, raw = reaching_stream(tables, config, tables.edit_of("writes", 0), norms[0])
    assert plain > 0.1  # the control: the basis of the stream itself leaves much


def test_the_stream_site_keeps_its_bases(config, tables):
    before = tables.bases.clone()
    tables.before_norms.add(Norm(0), GEMMA)
    tables.before_norms.fill()
    assert torch.equal(tables.bases, before)


def test_new_weights_give_new_bases_in_the_same_memory(config, tables):
    norm = Norm(0)
    edit = tables.edit_of("writes", 0, tables.before_norms.add(norm, GEMMA))
    tables.before_norms.fill()
    address = edit.bases.data_ptr()
    with torch.no_grad():
        norm.weight.copy_(Norm(5).weight)
    stale, _ = reaching_stream(tables, config, edit, norm)
    tables.before_norms.fill()
    fresh, _ = reaching_stream(tables, config, edit, norm)
    assert fresh < 1e-5 < 0.1 < stale and edit.bases.data_ptr() == address


def test_other_weights_under_a_model_in_use_are_refused_only_where_bases_depend_on_them(config, tables):
    tables.before_norms.fill()
    tables.before_norms.check_not_filled()  # no post-norms here
    dependent = SlotTables(config, 16, "cpu")
    dependent.before_norms.add(Norm(0), GEMMA)
    dependent.before_norms.check_not_filled()  # the first loading
    dependent.before_norms.fill()
    with pytest.raises(RuntimeError, match="weights cannot be replaced"):
        dependent.before_norms.check_not_filled()


def test_an_edit_whose_gains_were_never_read_is_never_applied(config, tables):
    tables.before_norms.add(Norm(0), GEMMA)
    with pytest.raises(RuntimeError, match="gains .* were never read"):
        tables.add_request("writes", wire(config, "writes"))
    assert tables.slot_of("writes") is None
    assert tables.add_request("stream", wire(config, "stream")) != 0
    assert tables.add_request("plain", None) == 0


def test_a_gain_that_hides_the_subspace_stops_the_loading(tables):
    norm = Norm(0)
    nn.init.constant_(norm.weight, -GEMMA)
    tables.before_norms.add(norm, GEMMA)
    with pytest.raises(ModelError, match="gain is not finite or zero"):
        tables.before_norms.fill()
