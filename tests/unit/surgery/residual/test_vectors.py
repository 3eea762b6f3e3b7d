"""Refusal vectors and subspaces: files, checks, bases."""

import pytest
import torch
from safetensors.torch import save_file

from surgery.console.errors import ArtifactError, LayerRangeError, OutputExistsError, ShapeError
from surgery.residual.operator import ablate
from surgery.residual.subspace import Subspace, independent_rows, load_basis, orthonormal_basis, random_subspace
from surgery.residual.vectors import RefusalVectors

N_LAYERS, D_MODEL, N_PAIRS = 5, 16, 3


def make_rvs(**changes):
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(2, N_LAYERS, D_MODEL, generator=generator)
    projections = torch.randn(2, N_PAIRS, N_LAYERS, generator=generator)
    fields = {
        "vectors": means[0] - means[1],
        "mean_harmful": means[0],
        "mean_safe": means[1],
        "projections_harmful": projections[0],
        "projections_safe": projections[1],
        "header": {"method": "test", "prompts_sha256": "abc"},
    }
    return RefusalVectors(**{**fields, **changes})


def test_refusal_vectors_come_back_from_disk_as_they_were(tmp_path):
    rvs = make_rvs()
    rvs.save(tmp_path / "rvs.safetensors")
    loaded = RefusalVectors.load(tmp_path / "rvs.safetensors")
    for name in ("vectors", "mean_harmful", "mean_safe", "projections_harmful", "projections_safe"):
        assert torch.equal(getattr(loaded, name), getattr(rvs, name))
    assert (loaded.n_layers, loaded.d_model, loaded.n_pairs) == (N_LAYERS, D_MODEL, N_PAIRS)
    assert loaded.header["method"] == "test" and loaded.header["kind"] == "refusal_vectors"
    with pytest.raises(OutputExistsError):
        rvs.save(tmp_path / "rvs.safetensors")
    rvs.save(tmp_path / "rvs.safetensors", force=True)


def test_a_bare_file_with_only_vectors_is_accepted_in_any_float_dtype(tmp_path):
    save_file({"vectors": torch.ones(2, 4, dtype=torch.bfloat16)}, tmp_path / "bare.safetensors")
    rvs = RefusalVectors.load(tmp_path / "bare.safetensors")
    assert rvs.vectors.dtype == torch.float32 and rvs.mean_safe is None and rvs.n_pairs == 0
    save_file({"other": torch.ones(2, 4)}, tmp_path / "other.safetensors")
    with pytest.raises(ArtifactError, match="no tensor `vectors` \\(found other\\)"):
        RefusalVectors.load(tmp_path / "other.safetensors")


def test_a_subspace_file_is_not_taken_for_refusal_vectors(tmp_path):
    random_subspace(8, 2, seed=0).save(tmp_path / "sub.safetensors")
    with pytest.raises(ArtifactError, match="expected a file of kind refusal_vectors, found 'subspace'"):
        RefusalVectors.load(tmp_path / "sub.safetensors")


def test_values_that_are_not_finite_or_do_not_fit_are_refused():
    broken = torch.ones(N_LAYERS, D_MODEL)
    broken[3, 2] = torch.nan
    with pytest.raises(ArtifactError, match="not finite, first in row 3"):
        make_rvs(vectors=broken)
    with pytest.raises(ShapeError, match="mean_safe must have shape"):
        make_rvs(mean_safe=torch.ones(N_LAYERS, D_MODEL + 1))
    with pytest.raises(ShapeError, match="projections_safe must have shape"):
        make_rvs(projections_safe=torch.ones(N_PAIRS + 1, N_LAYERS))
    with pytest.raises(ShapeError, match="float32, found float64"):
        make_rvs(vectors=torch.ones(N_LAYERS, D_MODEL, dtype=torch.float64))


def test_a_direction_is_the_unit_vector_of_its_own_layer():
    rvs = make_rvs()
    for layer in (0, N_LAYERS - 1):
        direction = rvs.direction(layer)
        assert direction.norm().item() == pytest.approx(1, abs=1e-6)  # one float32 rounding
        assert torch.allclose(direction * rvs.vectors[layer].norm(), rvs.vectors[layer], atol=1e-6)
    with pytest.raises(LayerRangeError, match="0..4"):
        rvs.direction(N_LAYERS)
    with pytest.raises(ArtifactError, match="layer 1 is zero"):
        make_rvs(vectors=rvs.vectors * torch.tensor([[1.0], [0.0], [1.0], [1.0], [1.0]])).direction(1)


def test_a_basis_is_orthonormal_and_spans_the_vectors():
    vectors = torch.randn(4, D_MODEL, generator=torch.Generator().manual_seed(2)) * torch.tensor(
        [[1e-3], [1], [50], [9]]
    )
    basis = orthonormal_basis(vectors)
    assert basis.shape == (4, D_MODEL) and basis.dtype == torch.float32
    assert torch.allclose(basis @ basis.T, torch.eye(4), atol=1e-6)  # float32 rounding of the stored rows
    units = vectors / vectors.norm(dim=1, keepdim=True)
    assert ablate(units, basis).norm() < 1e-5
    for sign in (1, -1):  # the first row points along the first vector, whatever sign QR would choose
        assert torch.dot(orthonormal_basis(sign * vectors)[0], sign * units[0]) == pytest.approx(1, abs=1e-6)


def test_removing_oblique_directions_one_by_one_leaves_some_where_the_basis_leaves_none():
    generator = torch.Generator().manual_seed(3)
    vectors = torch.nn.functional.normalize(torch.randn(3, D_MODEL, generator=generator) + 1, dim=1)
    x = torch.randn(5, D_MODEL, generator=generator)
    one_by_one = x
    for vector in vectors:
        one_by_one = ablate(one_by_one, vector[None])
    assert (one_by_one @ vectors.T).abs().max() > 0.05
    assert (ablate(x, orthonormal_basis(vectors)) @ vectors.T).abs().max() < 1e-5


@pytest.mark.parametrize("position", [1, 2, 3])
def test_dependent_vectors_are_dropped_wherever_they_stand(position):
    vectors = torch.randn(4, D_MODEL, generator=torch.Generator().manual_seed(4))
    vectors[position] = 3 * vectors[0] - (vectors[1] if position > 1 else 0)
    assert independent_rows(vectors) == [row for row in range(4) if row != position]
    assert orthonormal_basis(vectors).shape == (3, D_MODEL)


def test_more_vectors_than_dimensions_give_full_rank():
    assert orthonormal_basis(torch.randn(9, 4, generator=torch.Generator().manual_seed(5))).shape == (4, 4)


def test_nearly_equal_vectors_count_once_and_clearly_different_ones_twice():
    a, b = torch.eye(8)[0], torch.eye(8)[1]
    assert len(independent_rows(torch.stack([a, a + 1e-5 * b]))) == 1
    assert len(independent_rows(torch.stack([a, a + 1e-2 * b]))) == 2


def test_zero_and_not_finite_vectors_have_no_basis():
    vectors = torch.eye(4)[:2].clone()
    vectors[1] = 0
    with pytest.raises(ArtifactError, match="vector 1 is zero"):
        orthonormal_basis(vectors)
    vectors[1] = torch.inf
    with pytest.raises(ArtifactError, match="not finite"):
        orthonormal_basis(vectors)


def test_a_subspace_of_vectors_records_its_layers_and_drops_dependent_ones():
    rvs = make_rvs()
    vectors = rvs.vectors.clone()
    vectors[3] = vectors[2] * 2
    subspace = Subspace.from_vectors(make_rvs(vectors=vectors), "2-4")
    assert subspace.source_layers == (2, 3, 4) and subspace.rank == 2
    assert subspace.header["dropped_layers"] == [3] and subspace.header["prompts_sha256"] == "abc"
    assert ablate(vectors[2:5], subspace.basis).norm() < 1e-5
    assert ablate(vectors[1:2], subspace.basis).norm() > 1


def test_a_subspace_comes_back_from_disk_as_it_was(tmp_path):
    subspace = Subspace.from_vectors(make_rvs(), [1, 3])
    subspace.save(tmp_path / "sub.safetensors")
    loaded = Subspace.load(tmp_path / "sub.safetensors")
    assert torch.equal(loaded.basis, subspace.basis) and loaded.source_layers == (1, 3)


def test_rows_that_are_not_orthonormal_are_refused():
    with pytest.raises(ArtifactError, match="not orthonormal"):
        Subspace(torch.eye(4)[:2] * 1.01)
    with pytest.raises(ArtifactError, match="not orthonormal"):
        Subspace(torch.full((1, 4), torch.nan))
    with pytest.raises(ShapeError, match="rank 1..d_model"):
        Subspace(torch.ones(5, 4))


def test_a_file_with_an_affine_offset_is_refused_rather_than_applied_without_it(tmp_path):
    save_file({"basis": torch.eye(4)[:2].contiguous(), "offset": torch.ones(2)}, tmp_path / "affine.safetensors")
    with pytest.raises(ArtifactError, match="affine `offset`"):
        load_basis(tmp_path / "affine.safetensors")


def test_a_random_subspace_is_fixed_by_its_seed():
    assert torch.equal(random_subspace(16, 3, seed=1).basis, random_subspace(16, 3, seed=1).basis)
    assert not torch.allclose(random_subspace(16, 3, seed=1).basis, random_subspace(16, 3, seed=2).basis)
    with pytest.raises(ShapeError, match="rank of 1..16, found 17"):
        random_subspace(16, 17, seed=0)


def test_a_basis_is_read_from_a_subspace_file_or_from_vectors_with_their_layers(tmp_path):
    rvs = make_rvs()
    rvs.save(tmp_path / "rvs.safetensors")
    Subspace.from_vectors(rvs, "1,3").save(tmp_path / "sub.safetensors")
    from_file, info = load_basis(tmp_path / "sub.safetensors")
    from_vectors, vectors_info = load_basis(tmp_path / "rvs.safetensors", "1,3")
    assert torch.equal(from_file.basis, from_vectors.basis)
    assert info["source_layers"] == vectors_info["source_layers"] == [1, 3]
    assert (info["kind"], vectors_info["kind"]) == ("subspace", "refusal_vectors")
    single, _ = load_basis(tmp_path / "rvs.safetensors", 4)
    assert torch.allclose(single.basis[0], rvs.direction(4), atol=1e-6)


def test_source_layers_must_be_named_for_vectors_and_only_for_them(tmp_path):
    make_rvs().save(tmp_path / "rvs.safetensors")
    random_subspace(16, 2, seed=0).save(tmp_path / "sub.safetensors")
    with pytest.raises(ArtifactError, match="name a source layer"):
        load_basis(tmp_path / "rvs.safetensors")
    with pytest.raises(ArtifactError, match="subspace already"):
        load_basis(tmp_path / "sub.safetensors", 1)
    with pytest.raises(LayerRangeError):
        load_basis(tmp_path / "rvs.safetensors", "3-9")
