"""The reference operator and the hooks that apply it to transformers models."""

import pytest
import torch
from tiny_models import logits, tiny_model, token_ids

from surgery.architecture.table import ARCHITECTURES, entry_of
from surgery.console.errors import AlphaError, ArtifactError, LayerRangeError, ModelError, ShapeError
from surgery.reading.hooks import Capture, ablated, captured
from surgery.residual.operator import ablate, ablate_affine, check_alpha
from surgery.residual.subspace import random_subspace

LLAMA = "LlamaForCausalLM"
D_MODEL = 32
BASIS = random_subspace(D_MODEL, 3, seed=0).basis
# Float32 forward passes whose sums run in another order: a few units in the last place of the largest logit.
RELATIVE = 2e-5


def stream(dtype=torch.float32):
    return torch.randn(6, D_MODEL, generator=torch.Generator().manual_seed(1)).to(dtype)


def close(a, b):
    return (a - b).abs().max() <= RELATIVE * b.abs().max()


@pytest.mark.parametrize(("alpha", "left"), [(0.5, 0.5), (1.0, 0.0), (1.5, -0.5), (-1.0, 2.0)])
def test_alpha_sets_how_much_of_the_component_is_left_and_the_rest_stays(alpha, left):
    x = stream()
    changed = ablate(x, BASIS, alpha)
    assert torch.allclose(changed @ BASIS.T, left * (x @ BASIS.T), atol=1e-5)  # float32 products over 32 terms
    outside = torch.eye(D_MODEL) - BASIS.T @ BASIS
    assert torch.allclose(changed @ outside, x @ outside, atol=1e-5)


def test_alpha_zero_returns_the_input_bit_for_bit_and_nothing_is_changed_in_place():
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        x = stream(dtype)
        before = x.clone()
        assert torch.equal(ablate(x, BASIS, 0), before)
        assert not torch.equal(ablate(x, BASIS, 1), before)
        assert torch.equal(x, before)


def test_ablating_twice_at_alpha_one_is_ablating_once():
    once = ablate(stream(), BASIS)
    assert torch.allclose(ablate(once, BASIS), once, atol=1e-6)
    half = ablate(stream(), BASIS, 0.5)
    assert not torch.allclose(ablate(half, BASIS, 0.5), half, atol=1e-2)


def test_only_the_span_of_the_basis_matters():
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(2))).Q
    assert torch.allclose(ablate(stream(), rotation @ BASIS, 1.5), ablate(stream(), BASIS, 1.5), atol=1e-5)
    other = random_subspace(D_MODEL, 3, seed=9).basis
    assert not torch.allclose(ablate(stream(), other, 1.5), ablate(stream(), BASIS, 1.5), atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32_and_rounded_once(dtype):
    x = stream(dtype)
    assert ablate(x, BASIS, 1.0).dtype == dtype
    assert torch.equal(ablate(x, BASIS, 1.0), ablate(x.float(), BASIS, 1.0).to(dtype))
    narrow = x - (x @ BASIS.to(dtype).T) @ BASIS.to(dtype)  # the control: the same in half precision is not the same
    assert not torch.equal(ablate(x, BASIS, 1.0), narrow)


def test_an_offset_moves_the_component_to_the_reference_point():
    reference = torch.tensor([2.0, -1.0, 0.5])
    changed = ablate_affine(stream(), BASIS, reference)
    assert torch.allclose(changed @ BASIS.T, reference.expand(6, 3), atol=1e-5)
    assert torch.equal(ablate_affine(stream(), BASIS, torch.zeros(3)), ablate(stream(), BASIS))


def test_shapes_that_do_not_fit_name_both_numbers():
    with pytest.raises(ShapeError, match=r"d_model 32 but .* \[2, 16\]"):
        ablate(torch.ones(2, 16), BASIS)
    with pytest.raises(ShapeError, match=r"\[rank, d_model\]"):
        ablate(stream(), BASIS[0])
    with pytest.raises(ShapeError, match=r"offset must be \[3\]"):
        ablate_affine(stream(), BASIS, torch.ones(2))


@pytest.mark.parametrize("alpha", [float("nan"), float("inf"), "1", True, None])
def test_an_alpha_that_is_not_a_finite_number_is_refused(alpha):
    with pytest.raises(AlphaError, match="finite"):
        ablate(stream(), BASIS, alpha)
    assert check_alpha(1) == 1.0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_captured_layers_are_the_blocks_outputs_and_the_last_is_taken_before_the_final_norm(architecture):
    model, entry = tiny_model(architecture, n_layers=3), entry_of(architecture)
    with captured(model, entry) as capture, torch.inference_mode():
        states = model(input_ids=token_ids(), output_hidden_states=True).hidden_states
        resid = capture.take()[-1, :, :, -1]
        assert resid.shape == (3, 2, D_MODEL)
        for layer in (0, 1):
            assert torch.equal(resid[layer], states[layer + 1][:, -1])
        assert not torch.allclose(resid[2], states[3][:, -1])
        final_norm = getattr(model.base_model, "norm", None) or model.base_model.final_layer_norm
        assert torch.allclose(final_norm(resid[2]), states[3][:, -1])


def test_a_capture_without_a_forward_pass_is_an_error_and_hooks_are_gone_afterwards():
    model = tiny_model(LLAMA)
    with captured(model, entry_of(LLAMA)) as capture:
        logits(model)
        capture.take()[-1, :, :, -1]
        with pytest.raises(ModelError, match="block 0 did not run"):
            capture.take()[-1, :, :, -1]
    logits(model)
    with pytest.raises(ModelError):
        capture.take()[-1, :, :, -1]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_after_ablation_the_stream_of_every_chosen_layer_has_no_component(architecture):
    model, entry = tiny_model(architecture, n_layers=3), entry_of(architecture)
    with ablated(model, BASIS, 1.0, layers="0,2") as n_hooked, captured(model, entry) as capture:
        logits(model)
        left = (capture.take()[-1, :, :, -1] @ BASIS.T).abs().amax(dim=(1, 2))
    assert n_hooked == 2
    assert left[0] < 1e-4 and left[2] < 1e-4 and left[1] > 0.1


@pytest.mark.parametrize("site", ["stream", "writes"])
def test_hooks_act_only_within_the_context_and_not_at_alpha_zero(site):
    model = tiny_model(LLAMA)
    plain = logits(model)
    with ablated(model, BASIS, 1.0, site=site):
        assert not close(logits(model), plain)
    assert torch.equal(logits(model), plain)
    with ablated(model, BASIS, 0.0, site=site):
        assert torch.equal(logits(model), plain)
    with pytest.raises(RuntimeError, match="inside"), ablated(model, BASIS, site=site):
        raise RuntimeError("inside")
    assert torch.equal(logits(model), plain)


def test_a_block_that_returns_a_tuple_keeps_its_other_parts():
    class Tuple(torch.nn.Module):
        def __init__(self, block):
            super().__init__()
            self.block = block

        def forward(self, *args, **kwargs):
            return self.block(*args, **kwargs), "cache"

    class Unwrap(torch.nn.Module):
        def __init__(self, block):
            super().__init__()
            self.block = block

        def forward(self, *args, **kwargs):
            resid, cache = self.block(*args, **kwargs)
            assert cache == "cache"
            return resid

    model, entry = tiny_model(LLAMA), entry_of(LLAMA)
    with ablated(model, BASIS), captured(model, entry) as capture:
        expected, resid = logits(model), capture.take()[-1, :, :, -1]
    inner = [Tuple(block) for block in model.model.layers]
    model.model.layers = torch.nn.ModuleList(inner)
    with ablated(model, BASIS), captured(model, entry) as capture:
        model.model.layers = torch.nn.ModuleList([Unwrap(block) for block in inner])
        assert torch.equal(logits(model), expected) and torch.equal(capture.take()[-1, :, :, -1], resid)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_writes_are_the_outputs_of_attention_and_mlp_of_each_block(architecture):
    model, entry = tiny_model(architecture), entry_of(architecture)
    seen = {}
    with ablated(model, BASIS, site="writes") as n_hooked:
        for name, norm in entry.post_norms(range(2)).items():  # what is added: after the post-norm, if there is one
            model.get_submodule(norm or name).register_forward_hook(
                lambda _module, _args, output, name=name: seen.__setitem__(name, (output @ BASIS.T).abs().max())
            )
        logits(model)
    assert n_hooked == 4 and len(seen) == 4
    assert all(left < 1e-4 for left in seen.values())
    logits(model)  # the control: without the ablation the same outputs have a component
    assert all(left > 0.1 for left in seen.values())


def test_stream_and_writes_are_different_interventions_and_the_offset_reaches_the_model():
    model = tiny_model(LLAMA)
    results = {}
    for site in ("stream", "writes"):
        with ablated(model, BASIS, 1.0, site=site):
            results[site] = logits(model)
    with ablated(model, BASIS, 1.0, offset=torch.ones(3)):
        results["affine"] = logits(model)
    assert not close(results["stream"], results["writes"]) and not close(results["stream"], results["affine"])


def test_what_cannot_be_hooked_is_an_error_and_leaves_no_hook():
    model = tiny_model(LLAMA)
    plain = logits(model)
    with pytest.raises(LayerRangeError), ablated(model, BASIS, layers="0-2"):
        pass
    with pytest.raises(LayerRangeError), ablated(model, BASIS, layers=[]):
        pass
    with pytest.raises(ShapeError, match="d_model 8 but LlamaForCausalLM has 32"), ablated(model, torch.eye(8)[:1]):
        pass
    with pytest.raises(ArtifactError, match="not orthonormal"), ablated(model, 2 * BASIS):
        pass
    with pytest.raises(ModelError, match="site must be one of"), ablated(model, BASIS, site="mid"):
        pass
    with pytest.raises(AlphaError), ablated(model, BASIS, float("nan")):
        pass
    with pytest.raises(ModelError, match="architecture Linear is not supported"), ablated(torch.nn.Linear(2, 2), BASIS):
        pass
    assert torch.equal(logits(model), plain)
    del model.model.layers[1].mlp.down_proj
    with pytest.raises(ModelError, match=r"no module model\.layers\.1\.mlp\.down_proj"):
        with ablated(model, BASIS, site="writes"):
            pass
    assert not model.model.layers[0].mlp.down_proj._forward_hooks


def test_a_capture_takes_the_last_token():
    capture, resid = Capture(1), torch.arange(12.0).view(1, 3, 4)
    capture.record("resid_post", 0, resid)
    assert torch.equal(capture.take()[-1, :, :, -1][0], resid[:, 2])
