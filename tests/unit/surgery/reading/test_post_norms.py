"""Families whose attention and MLP outputs pass a norm with a gain: what counts is what reaches the residual stream."""

import json
import re
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import tiny_model, token_ids, write_model

from surgery.architecture.entry import Output
from surgery.architecture.table import ARCHITECTURES, entry_of
from surgery.console.errors import ModelError
from surgery.model.models import describe_model, load_model
from surgery.reading.hooks import ablated, captured
from surgery.residual.gains import removal
from surgery.residual.sites import RESID_POST, RESID_PRE
from surgery.residual.subspace import random_subspace
from surgery.weights.checkpoint import orthogonalize
from surgery.weights.manifest import FILE
from surgery.weights.verify import verify

POST_NORM = sorted(name for name, entry in ARCHITECTURES.items() if entry.attention.norm)
BASIS = random_subspace(32, 3, seed=0).basis


@pytest.fixture(scope="module", params=POST_NORM)
def folder(request, tmp_path_factory):
    """A model whose gains are as uneven as those of trained models, from about 0 to 2 (Gemma: 0 to 4)."""
    return write_model(tmp_path_factory.mktemp("m") / request.param, request.param, norm_std=0.5)


def written(folder):
    """Norm of what attention and MLP of every block add to the stream within the subspace, over some tokens."""
    model, squares = load_model(describe_model(folder)), []
    for norm in entry_of(describe_model(folder).architecture).post_norms(range(2)).values():
        model.get_submodule(norm).register_forward_hook(
            lambda _module, _args, output: squares.append((output @ BASIS.T).square().sum().item())
        )
    with torch.inference_mode():
        model(input_ids=token_ids())
    assert len(squares) == 4
    return sum(squares) ** 0.5


def added(model, entry):
    """What every block adds to the stream within the subspace, at the last token: [n_layers, batch, rank]."""
    with captured(model, entry, (RESID_PRE, RESID_POST)) as capture, torch.inference_mode():
        model(input_ids=token_ids())
        before, after = capture.take()
    return (after - before)[:, :, 0] @ BASIS.T


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_block_adds_to_the_subspace_whatever_stands_between_its_parts_and_the_stream(architecture):
    # Asks the stream and not the table's entry, so it fails where the entry forgets a norm.
    model, entry = tiny_model(architecture, norm_std=0.5), entry_of(architecture)
    plain = added(model, entry)
    with ablated(model, BASIS, site="writes"):
        assert added(model, entry).norm() < 1e-5 * plain.norm()  # float32: products over 32 terms
    assert (plain.norm(dim=(1, 2)) > 0.1).all()


def edit_without_the_gain(folder, out, monkeypatch):
    """The usual edit: the subspace itself is taken out of the matrices, whatever norm follows."""
    architecture = describe_model(folder).architecture
    with monkeypatch.context() as patch:
        entry = ARCHITECTURES[architecture]
        parts = {"attention": Output(entry.attention.module), "mlp": Output(entry.mlp.module)}
        patch.setitem(ARCHITECTURES, architecture, replace(entry, **parts))
        orthogonalize(describe_model(folder), BASIS, 1.0, out)


def test_nothing_reaches_the_subspace_after_the_norm_where_the_usual_edit_leaves_much(folder, tmp_path, monkeypatch):
    orthogonalize(describe_model(folder), BASIS, 1.0, tmp_path / "mapped")
    edit_without_the_gain(folder, tmp_path / "usual", monkeypatch)
    before = written(folder)
    assert written(tmp_path / "mapped") < 1e-5 * before  # float32 rounding of weights and sums
    assert 0.2 * before < written(tmp_path / "usual") < 0.9 * before  # the control


def test_verify_measures_what_reaches_the_stream(folder, tmp_path, monkeypatch):
    orthogonalize(describe_model(folder), BASIS, 0.5, tmp_path / "half")
    report = verify(tmp_path / "half")
    assert report.ok and (report.ratio_low, report.ratio_high) == (pytest.approx(0.5, abs=1e-4),) * 2
    edit_without_the_gain(folder, tmp_path / "usual", monkeypatch)
    report = verify(tmp_path / "usual")
    assert len([fault for fault in report.faults if "keeps a component" in fault]) == report.n_edited
    (tmp_path / "usual" / FILE).write_text(  # a base model that is not at hand does not hide it
        (tmp_path / "usual" / FILE).read_text().replace(json.dumps(str(folder)), json.dumps("/nowhere"))
    )
    report = verify(tmp_path / "usual")
    assert report.base is None and any("keeps a component" in fault for fault in report.faults)


def test_bfloat16_checkpoints_are_written_and_verified(tmp_path):
    folder = write_model(tmp_path / "m", POST_NORM[0], torch.bfloat16, norm_std=0.5)
    orthogonalize(describe_model(folder), BASIS, 1.0, tmp_path / "out")
    report = verify(tmp_path / "out")
    assert report.ok and 1e-6 < report.ratio_high < 0.01  # the rounding floor of bf16, not zero


def test_the_gain_is_one_plus_the_weight_only_where_the_family_says_so(folder):
    entry = entry_of(describe_model(folder).architecture)
    offset = entry.gain_offset
    model = load_model(describe_model(folder))
    norm = model.model.layers[0].get_submodule(entry.attention.norm)
    unit = torch.ones(32)
    assert torch.allclose(norm(unit), norm.weight + offset, atol=1e-5)
    assert not torch.allclose(norm(unit), norm.weight + (1 - offset), atol=0.5)


def test_an_even_gain_changes_nothing_and_one_that_hides_the_subspace_is_refused():
    assert removal(BASIS).basis is BASIS
    even = removal(BASIS, torch.full((32,), 2.5)).basis
    assert torch.allclose(even.T @ even, BASIS.T @ BASIS, atol=1e-6)
    uneven = removal(BASIS, torch.linspace(0.1, 3, 32)).basis
    assert not torch.allclose(uneven.T @ uneven, BASIS.T @ BASIS, atol=1e-2)
    with pytest.raises(ModelError, match="gain is not finite or zero"):
        removal(BASIS, torch.zeros(32))
    with pytest.raises(ModelError, match="1 of 3 dimensions"):
        removal(BASIS, torch.eye(32)[0])


def test_a_missing_gain_and_an_offset_before_a_norm_are_refused(folder, tmp_path):
    damaged = write_model(tmp_path / "m", describe_model(folder).architecture)
    gain = f"model.layers.1.{entry_of(describe_model(folder).architecture).attention.norm}.weight"
    tensors = load_file(damaged / "model.safetensors")
    del tensors[gain]
    save_file(tensors, damaged / "model.safetensors")
    with pytest.raises(ModelError, match=rf"1 of .* e\.g\. {re.escape(gain)}"):
        orthogonalize(describe_model(damaged), BASIS, 1.0, tmp_path / "out", embeddings=False)
    model = load_model(describe_model(folder))
    with pytest.raises(ModelError, match="an offset is not defined"):
        with ablated(model, BASIS, site="writes", offset=torch.ones(3)):
            pass
    with ablated(model, BASIS, site="stream", offset=torch.ones(3)) as n_hooked:
        assert n_hooked == 2


@pytest.mark.parametrize(("architecture", "refused"), [("GraniteForCausalLM", True), ("LlamaForCausalLM", False)])
def test_an_offset_of_writes_is_refused_where_they_are_scaled(architecture, refused):
    model = tiny_model(architecture)
    offset = torch.ones(len(BASIS))
    with pytest.raises(ModelError, match="multiplied by a number") if refused else nullcontext():
        with ablated(model, BASIS, site="writes", offset=offset):
            pass
    with ablated(model, BASIS, site="writes"):  # without one the scale does not matter
        pass
