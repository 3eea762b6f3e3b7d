"""`refusal subspace` with its options: what each writes, and that an affine one is never written into weights."""

import json

import pytest
import torch
from click.testing import CliRunner
from tiny_models import PAIRS, write_model

from eval.cli import main
from surgery.console.errors import ArtifactError
from surgery.residual.subspace import Subspace, load_basis
from surgery.residual.vectors import RefusalVectors


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("subspace")
    write_model(folder / "m", "LlamaForCausalLM", n_layers=4)
    rows = [json.dumps({"id": p.id, "harmful": p.harmful, "safe": p.safe, "tier": n % 2}) for n, p in enumerate(PAIRS)]
    (folder / "pairs.jsonl").write_text("\n".join(rows))
    options = ("--sites", "all", "--positions", "all", "--components", 3, "-o", folder / "rvs")
    assert run("extract", folder / "m", "--pairs", folder / "pairs.jsonl", *options).exit_code == 0
    return folder


def run(name, *arguments):
    return CliRunner().invoke(main.get_command(None, name), [str(argument) for argument in arguments])


def make(folder, out, *options):
    result = run("subspace", folder / "rvs", "-o", out, *options)
    assert result.exit_code == 0, result.exception
    return Subspace.load(out)


def test_the_vectors_of_another_reading_tag_or_singular_direction_span_another_subspace(folder, tmp_path):
    rvs = RefusalVectors.load(folder / "rvs")
    plain = make(folder, tmp_path / "plain", "--layers", 2)
    reading = make(folder, tmp_path / "reading", "--layers", 2, "--reading", "resid_mid@-2")
    tag = make(folder, tmp_path / "tag", "--layers", 2, "--tag", "tier 1")
    singular = make(folder, tmp_path / "singular", "--layers", "2-3", "--components", 2)
    for other in (reading, tag):
        assert abs(torch.dot(plain.basis[0], other.basis[0])) < 0.999
    assert torch.allclose(reading.basis[0], rvs.at("resid_mid", -2).direction(2), atol=1e-6)
    assert torch.allclose(tag.basis[0], rvs.of_tag("tier 1").direction(2), atol=1e-6)
    assert singular.rank == 4 and singular.header["n_components"] == 2 and singular.header["dropped_layers"] == []
    expected = rvs.extras["components"][2:4, :2].flatten(0, 1)
    assert torch.allclose(expected @ singular.basis.T @ singular.basis, expected, atol=1e-5)


def test_singular_values_of_the_stacked_vectors_tell_how_they_spread(folder, tmp_path):
    subspace = make(folder, tmp_path / "sub", "--layers", "1-3")
    values = torch.tensor(subspace.header["singular_values"])
    assert (values**2).sum() == pytest.approx(3) and len(values) == 3  # three unit vectors
    text = run("show", tmp_path / "sub").stdout
    assert "explained" in text and "1.000 (by" in text and "projection" not in text and "affine" not in text


def test_projection_and_affine_reference_are_stored_and_shown(folder, tmp_path):
    projected = make(folder, tmp_path / "projected", "--layers", 2, "--projected")
    affine = make(folder, tmp_path / "affine", "--layers", "1-2", "--affine", "--reference-layer", 1)
    mean = RefusalVectors.load(folder / "rvs").mean_safe
    assert abs(projected.basis[0] @ mean[2]) < 1e-4 * mean[2].norm() and projected.offset is None
    assert torch.allclose(affine.offset, affine.basis @ mean[1], atol=1e-5)
    assert "projected away" in run("show", tmp_path / "projected").stdout
    assert "safe mean of layer 1" in run("show", tmp_path / "affine").stdout
    assert json.loads(run("show", tmp_path / "affine", "--json").stdout)["offset"] == affine.offset.tolist()
    alone = make(folder, tmp_path / "alone", "--layers", 3, "--affine")
    assert alone.header["reference_layer"] == 3


def test_an_affine_subspace_is_applied_at_run_time_and_never_written_without_its_offset(folder, tmp_path):
    make(folder, tmp_path / "affine", "--layers", 2, "--affine")
    for command in ("orthogonalize", "adapter"):
        result = run(command, folder / "m", tmp_path / "affine", "-o", tmp_path / "out")
        assert isinstance(result.exception, ArtifactError) and "no linear edit of the weights" in str(result.exception)
    assert not (tmp_path / "out").exists()
    _, info = load_basis(tmp_path / "affine", affine=True)
    assert len(info["offset"]) == 1
    make(folder, tmp_path / "linear", "--layers", 2)
    assert load_basis(tmp_path / "linear")[1]["offset"] is None
    assert run("orthogonalize", folder / "m", tmp_path / "linear", "-o", tmp_path / "out").exit_code == 0


def test_faults_of_the_options_are_one_line(folder, tmp_path):
    out = tmp_path / "out"
    faults = [
        ("holds resid_post@-1", ("--reading", "resid_mid@-9")),
        ("holds tier 0, tier 1", ("--tag", "tier 7")),
        ("3 singular directions", ("--components", 4)),
    ]
    for message, options in faults:
        result = run("subspace", folder / "rvs", "--layers", 1, "-o", out, *options)
        assert isinstance(result.exception, ArtifactError) and message in str(result.exception), options
    for options in (("--reference-layer", 1), ("--reading", "mid@-1"), ("--reading", "resid_mid")):
        assert run("subspace", folder / "rvs", "--layers", 1, "-o", out, *options).exit_code == 2
    assert run("subspace", folder / "rvs", "--layers", "1-2", "--affine", "-o", out).exit_code == 2
    assert not out.exists()
