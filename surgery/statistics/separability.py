"""How far apart harmful and safe prompts lie along the refusal vectors, and how the vectors relate across layers."""

import math
from collections.abc import Mapping
from itertools import combinations
from typing import Any

import torch

from surgery.console.errors import ArtifactError, ShapeError
from surgery.residual.vectors import RefusalVectors
from surgery.statistics.cosines import cosine_statistics, decay_off_diagonal

N_RESAMPLES = 2000
CAVEATS = (
    "Cohen's d is in-sample: each direction was fitted on the prompts it is measured on, which inflates it; --held-out prompts do not.",
    "A large d does not show that a layer's direction causes refusals; ablate it to see.",
)


def cohens_d(harmful: torch.Tensor, safe: torch.Tensor) -> torch.Tensor:
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


def cohens_d_interval(
    harmful: torch.Tensor,
    safe: torch.Tensor,
    level: float = 0.95,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
    matched: bool = True,
) -> torch.Tensor:
    """Percentile bootstrap interval of Cohen's d per layer, the direction held fixed.

    Matched pairs are drawn whole with replacement; of unmatched groups each is drawn by itself   (Efron & Tibshirani
    1993, An Introduction to the Bootstrap, ch. 13 and, for two samples, section 8.3)
    Args:
        harmful, safe: [n, n_layers]; of matched pairs, row n of both from pair n.
    Returns: [2, n_layers] float64, low and high; NaN where a resample without variance leaves d undefined.
    Raises: ShapeError, as `cohens_d`, or when matched groups differ in size.
    """
    cohens_d(harmful, safe)  # its checks
    if matched and len(harmful) != len(safe):
        raise ShapeError(f"the bootstrap draws pairs, found {len(harmful)} harmful and {len(safe)} safe prompts")
    generator = torch.Generator().manual_seed(seed)
    of_harmful = _resamples(len(harmful), n_resamples, generator)
    of_safe = of_harmful if matched else _resamples(len(safe), n_resamples, generator)
    centre = (harmful.double().mean(0) + safe.double().mean(0)) / 2
    groups = [values.double() - centre for values in (harmful, safe)]  # squares of large numbers would cancel
    drawn = list(zip(groups, (of_harmful, of_safe), strict=True))
    means = [counts @ values / len(values) for values, counts in drawn]
    squares = [counts @ values**2 - len(values) * mean**2 for (values, counts), mean in zip(drawn, means, strict=True)]
    pooled = (squares[0] + squares[1]) / (len(harmful) + len(safe) - 2)
    d = (means[0] - means[1]) / pooled.clamp(min=0).sqrt()
    tail = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    return torch.quantile(d, tail, dim=0)


def _resamples(n: int, n_resamples: int, generator: torch.Generator) -> torch.Tensor:
    """How often each of n prompts is drawn in each resample, [n_resamples, n] float64."""
    drawn = torch.randint(n, (n_resamples, n), generator=generator)
    counts = torch.zeros(n_resamples, n, dtype=torch.float64)
    return counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))


def auroc(harmful: torch.Tensor, safe: torch.Tensor) -> torch.Tensor:
    """Chance that a harmful prompt projects farther than a safe one, ties counted half, per layer.

    (Mann-Whitney U over n_h n_s: Hanley & McNeil 1982, Radiology 143(1))
    Args:
        harmful, safe: [n, n_layers]; the two n may differ.
    Returns: [n_layers], float64; 0.5 is no separation, 1 is complete.
    Raises: ShapeError when a group is empty.
    """
    if 0 in (*harmful.shape, *safe.shape):
        raise ShapeError(f"AUROC needs prompts in both groups, found {list(harmful.shape)} and {list(safe.shape)}")
    ordered = safe.double().T.sort(dim=1).values.contiguous()
    values = harmful.double().T.contiguous()
    below = torch.searchsorted(ordered, values, side="left") + torch.searchsorted(ordered, values, side="right")
    return below.double().mean(1) / (2 * len(safe))


def effective_rank(matrix: torch.Tensor) -> float:
    """How many directions a set of vectors spreads over: exp of the entropy of the normalized eigenvalues.

    (Roy & Vetterli 2007, EUSIPCO) of a cosine matrix: 1 when all vectors are parallel, n when all are orthogonal.
    Args:
        matrix: [n, n], symmetric, positive semi-definite.
    """
    shares = torch.linalg.eigvalsh(matrix.double()).clamp(min=0)
    shares = shares / shares.sum()
    return torch.special.entr(shares).sum().exp().item()


def cosine_matrix(vectors: torch.Tensor) -> torch.Tensor:
    """Cosine of every pair of rows: [n_layers, d_model] -> [n_layers, n_layers] float64.

    Raises: ArtifactError when a vector is zero.
    """
    wide = vectors.double()
    norms = wide.norm(dim=1, keepdim=True)
    if (norms == 0).any():
        raise ArtifactError(f"the vector of layer {int((norms == 0).nonzero()[0, 0])} is zero and has no direction")
    units = wide / norms
    return (units @ units.T).clamp(-1.0, 1.0)


def analysis(rvs: RefusalVectors) -> dict[str, Any]:
    """Per-layer statistics of refusal vectors, in plain JSON types.

    Returns: {contrast, n_pairs, n_harmful, n_safe, n_layers, d_model, cohens_d [n_layers], cohens_d_interval [n_layers][2], auroc [n_layers],
        norms [n_layers], split_half_cosine [n_layers], cosine [n_layers][n_layers], cosine_by_distance [n_layers],
        cosine_statistics (see there), effective_rank, held_out {contrast, n_pairs, n_harmful, n_safe, cohens_d, cohens_d_interval, auroc} or null,
        tags {tag: {n_pairs, n_harmful, n_safe, norms, cosine_to_all}}, tag_cosine {"tier 1 / tier 2": [n_layers]}, readings {"resid_mid@-2": {cohens_d, norms}},
        caveats}. What cannot be had (no projections in the file, fewer than two prompts) or is not finite is null, and a
        caveat says why.
    Raises: ArtifactError when a vector is zero.
    """
    cosine, halves = cosine_matrix(rvs.vectors), rvs.extras.get("split_half_cosine")
    missing = [None] * rvs.n_layers
    return {
        **_numbers(rvs.n_harmful, rvs.n_safe, rvs.matched),
        "n_layers": rvs.n_layers,
        "d_model": rvs.d_model,
        **_separation(rvs.projections_harmful, rvs.projections_safe, rvs.n_layers, rvs.matched),
        "norms": rvs.vectors.double().norm(dim=1).tolist(),
        "split_half_cosine": missing if halves is None else halves.double().mean(0).tolist(),
        "cosine": cosine.tolist(),
        "cosine_by_distance": decay_off_diagonal(cosine).tolist(),
        "cosine_statistics": cosine_statistics(rvs),
        "effective_rank": effective_rank(cosine),
        "held_out": _held_out(rvs),
        "tags": _tags(rvs),
        "tag_cosine": _tag_cosine(rvs),
        "readings": _readings(rvs),
        "caveats": [*CAVEATS, *_of_the_contrast(rvs), *_why_missing(rvs)],
    }


def _numbers(n_harmful: int, n_safe: int, matched: bool) -> dict[str, Any]:
    """Kind and size of a contrast set, in plain JSON types."""
    contrast, n_pairs = ("matched", n_harmful) if matched else ("unmatched", 0)
    return {"contrast": contrast, "n_pairs": n_pairs, "n_harmful": n_harmful, "n_safe": n_safe}


def _separation(
    harmful: torch.Tensor | None, safe: torch.Tensor | None, n_layers: int, matched: bool
) -> dict[str, Any]:
    """d, its interval and AUROC of every layer; null where they cannot be had."""
    missing = [None] * n_layers
    if harmful is None or safe is None:
        return {"cohens_d": missing, "cohens_d_interval": missing, "auroc": missing}
    if min(len(harmful), len(safe)) < 2:
        return {"cohens_d": missing, "cohens_d_interval": missing, "auroc": auroc(harmful, safe).tolist()}
    ends = [_finite(end) for end in cohens_d_interval(harmful, safe, matched=matched).tolist()]
    intervals = [None if None in pair else list(pair) for pair in zip(*ends, strict=True)]
    d = _finite(cohens_d(harmful, safe).tolist())
    return {"cohens_d": d, "cohens_d_interval": intervals, "auroc": auroc(harmful, safe).tolist()}


def _held_out(rvs: RefusalVectors) -> dict[str, Any] | None:
    harmful, safe = rvs.extras.get("held_out_harmful"), rvs.extras.get("held_out_safe")
    if harmful is None or safe is None:
        return None
    matched = (rvs.header.get("held_out") or {}).get("contrast") != "unmatched"
    return _numbers(len(harmful), len(safe), matched) | _separation(harmful, safe, rvs.n_layers, matched)


def _tags(rvs: RefusalVectors) -> dict[str, Any]:
    found = {}
    for entry, vectors in _tagged(rvs):
        cosines = _rowwise_cosine(vectors, rvs.vectors)
        norms = vectors.double().norm(dim=1).tolist()
        numbers = {key: n for key, n in entry.items() if key.startswith("n_")}
        found[entry["tag"]] = {**numbers, "norms": norms, "cosine_to_all": cosines}
    return found


def _tag_cosine(rvs: RefusalVectors) -> dict[str, Any]:
    """Cosine per layer between the vectors of any two tiers and of any two categories."""
    return {
        f"{a['tag']} / {b['tag']}": _rowwise_cosine(first, second)
        for (a, first), (b, second) in combinations(_tagged(rvs), 2)
        if a["tag"].split()[0] == b["tag"].split()[0]
    }


def _tagged(rvs: RefusalVectors) -> list[tuple[Mapping[str, Any], torch.Tensor]]:
    tags = rvs.header.get("tags") or ()
    return list(zip(tags, rvs.extras["by_tag"], strict=True)) if "by_tag" in rvs.extras else []


def _readings(rvs: RefusalVectors) -> dict[str, Any]:
    found = {}
    for name in list(rvs.header.get("readings") or ())[1:]:
        site, position = name.split("@")
        other = rvs.at(site, int(position))
        separation = _separation(other.projections_harmful, other.projections_safe, rvs.n_layers, rvs.matched)
        found[name] = {"cohens_d": separation["cohens_d"], "norms": other.vectors.double().norm(dim=1).tolist()}
    return found


def _rowwise_cosine(a: torch.Tensor, b: torch.Tensor) -> list[float | None]:
    dots, norms = (a.double() * b.double()).sum(1), a.double().norm(dim=1) * b.double().norm(dim=1)
    return _finite((dots / norms).clamp(-1, 1).tolist())


def _finite(values: list[float]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values]


def _of_the_contrast(rvs: RefusalVectors) -> list[str]:
    """What the kind of prompts and their likeness leave open."""
    found = []
    if not rvs.matched:
        found.append(
            "The prompts are unmatched: the groups may differ in topic, length and style as well, and so may the vectors."
        )
    n_near = (rvs.header.get("held_out") or {}).get("n_near_duplicates", 0)
    if n_near:
        likeness = "prompt is a near-duplicate" if n_near == 1 else "prompts are near-duplicates"
        found.append(f"{n_near} held-out {likeness} of fitted ones, which flatters the held-out d.")
    return found


def _why_missing(rvs: RefusalVectors) -> list[str]:
    if rvs.projections_harmful is None or rvs.projections_safe is None:
        return ["The file holds no projections, so there is no Cohen's d."]
    if min(rvs.n_harmful, rvs.n_safe) < 2:
        found = rvs.n_pairs if rvs.matched else f"{rvs.n_harmful} harmful and {rvs.n_safe} safe"
        return [f"Cohen's d needs at least two pairs, or two prompts a group; there is {found}."]
    d = cohens_d(rvs.projections_harmful, rvs.projections_safe)
    infinite = (~d.isfinite()).nonzero().flatten().tolist()
    return [f"Cohen's d is infinite (no variance within the groups) at layer {infinite}."] if infinite else []
