"""How far apart harmful and safe prompts lie along the refusal vectors, and how the vectors relate across layers."""

from typing import TYPE_CHECKING, Any

from surgery.errors import ArtifactError, ShapeError
from surgery.vectors import RefusalVectors

if TYPE_CHECKING:
    import torch

CAVEATS = (
    "Cohen's d is in-sample: each direction was fitted on the same pairs it is measured on, which inflates it.",
    "A large d does not show that a layer's direction causes refusals; ablate it to see.",
)


def cohens_d(harmful: "torch.Tensor", safe: "torch.Tensor") -> "torch.Tensor":
    """Cohen's d per layer.

    d = (mean_h - mean_s) / s,  s^2 = ((n_h - 1) s_h^2 + (n_s - 1) s_s^2) / (n_h + n_s - 2)
    (Cohen 1988, Statistical Power Analysis for the Behavioral Sciences, 2nd ed., eq. 2.5.1-2.5.2; variances with ddof 1)

    Args:
        harmful, safe: [n, n_layers], any float dtype: projections; the two n may differ.
    Returns: [n_layers], float64. Where neither group varies: inf with the sign of the difference, and 0 when the means
        are equal too.
    Raises: ShapeError when a group has fewer than two prompts or the layers differ.
    """
    if harmful.ndim != 2 or safe.ndim != 2 or harmful.shape[1] != safe.shape[1]:
        raise ShapeError(f"projections must be [n, n_layers], found {list(harmful.shape)} and {list(safe.shape)}")
    n_harmful, n_safe = len(harmful), len(safe)
    if min(n_harmful, n_safe) < 2:
        raise ShapeError(f"Cohen's d needs at least two prompts a group, found {n_harmful} harmful and {n_safe} safe")
    harmful, safe = harmful.double(), safe.double()
    squares = (n_harmful - 1) * harmful.var(0, correction=1) + (n_safe - 1) * safe.var(0, correction=1)
    difference = harmful.mean(0) - safe.mean(0)
    d = difference / (squares / (n_harmful + n_safe - 2)).sqrt()
    return d.masked_fill((squares == 0) & (difference == 0), 0.0)


def cosine_matrix(vectors: "torch.Tensor") -> "torch.Tensor":
    """Cosine of every pair of rows: [n_layers, d_model] -> [n_layers, n_layers] float64.

    Raises: ArtifactError when a vector is zero.
    """
    wide = vectors.double()
    norms = wide.norm(dim=1, keepdim=True)
    if (norms == 0).any():
        raise ArtifactError(f"the vector of layer {int((norms == 0).nonzero()[0, 0])} is zero and has no direction")
    units = wide / norms
    return (units @ units.T).clamp(-1.0, 1.0)


def decay_off_diagonal(cosine: "torch.Tensor") -> "torch.Tensor":
    """Mean cosine at each layer distance: [n, n] -> [n]; entry k averages cosine[i, i + k], entry 0 is 1."""
    import torch

    return torch.stack([cosine.diagonal(distance).mean() for distance in range(len(cosine))])


def analysis(rvs: RefusalVectors) -> dict[str, Any]:
    """Per-layer statistics of refusal vectors, in plain JSON types.

    Returns: {n_pairs, n_layers, d_model, cohens_d [n_layers], norms [n_layers], cosine [n_layers][n_layers],
        cosine_by_distance [n_layers], caveats}. A d that cannot be had (no projections in the file, fewer than two
        pairs) or is infinite is null, and a caveat says why.
    Raises: ArtifactError when a vector is zero.
    """
    cosine = cosine_matrix(rvs.vectors)
    d, why = _effect_sizes(rvs)
    return {
        "n_pairs": rvs.n_pairs,
        "n_layers": rvs.n_layers,
        "d_model": rvs.d_model,
        "cohens_d": d,
        "norms": rvs.vectors.double().norm(dim=1).tolist(),
        "cosine": cosine.tolist(),
        "cosine_by_distance": decay_off_diagonal(cosine).tolist(),
        "caveats": [*CAVEATS, *why],
    }


def _effect_sizes(rvs: RefusalVectors) -> tuple[list[float | None], list[str]]:
    if rvs.projections_harmful is None or rvs.projections_safe is None:
        return [None] * rvs.n_layers, ["The file holds no projections, so there is no Cohen's d."]
    if rvs.n_pairs < 2:
        return [None] * rvs.n_layers, [f"Cohen's d needs at least two pairs; there is {rvs.n_pairs}."]
    d = cohens_d(rvs.projections_harmful, rvs.projections_safe)
    infinite = (~d.isfinite()).nonzero().flatten().tolist()
    why = [f"Cohen's d is infinite (no variance within the groups) at layer {infinite}."] if infinite else []
    return [value if layer not in infinite else None for layer, value in enumerate(d.tolist())], why
