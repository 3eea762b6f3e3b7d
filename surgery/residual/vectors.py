"""Refusal vectors (RVs): one per layer, the mean difference of activations on harmful and on safe prompts."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.console.errors import ArtifactError, ShapeError
from surgery.files.artifacts import load_artifact, save_artifact, shortened
from surgery.residual.layers import parse_layers

if TYPE_CHECKING:
    import torch

KIND = "refusal_vectors"
_UNMATCHED = "unmatched"
_MEANS = ("mean_harmful", "mean_safe")
_PROJECTIONS = ("projections_harmful", "projections_safe")
_CORE = ("vectors", *_MEANS, *_PROJECTIONS)
_EXTRAS = (
    "split_half_cosine",
    "scatter_harmful",
    "scatter_safe",
    "by_tag",
    "safe_by_tag",
    "tier_half_grams",
    "cosines_without",
    "components",
    "singular_values",
    "held_out_harmful",
    "held_out_safe",
)


@dataclass(frozen=True, eq=False)
class RefusalVectors:
    """Refusal vectors of all layers of one model, with what is needed to judge them.

    vectors[i] = mean_harmful[i] - mean_safe[i], the mean taken over prompts of resid_post of block i at the last prompt
    token (difference of means: Arditi et al. 2024, arXiv:2406.11717, eq. 2; their x of a layer is what enters it, here the
    resid_post of the block before), unless the header names another estimator, site or position.

    Attributes:
        vectors: [n_layers, d_model], float32, not normalized.
        mean_harmful, mean_safe: [n_layers, d_model], float32, arithmetic means whatever the estimator; None in a file of
            another program.
        projections_harmful, projections_safe: [n_harmful, n_layers] and [n_safe, n_layers], float32: each prompt's
            activation on the unit RV of its layer; None in a file of another program. As many of either, unless the
            header's contrast is "unmatched".
        header: provenance: model (ModelInfo as JSON), chat_template_sha256, template_options, date (that the template asks for), contrast, n_pairs,
            n_harmful, n_safe, prompts_sha256, prompts (their origin), held_out, engine, devices, dtype, seed, command,
            site, position, readings, tags, estimator, method.
        extras: more tensors, float32, by name:
            split_half_cosine [n_splits, n_layers]; scatter_harmful, scatter_safe [n_prompts, n_layers, 2];
            by_tag, safe_by_tag [n_tags, n_layers, d_model], in the order of header["tags"]: difference of means, and mean
            of the safe prompts;
            tier_half_grams [n_splits, n, n], n = n_tiers * 2 * n_layers: see surgery.statistics.tier_angles.half_grams;
            cosines_without [n_left_out, n_layers (n_layers - 1) / 2]: see surgery.statistics.cosines.cosines_without;
            components [n_layers, k, d_model] (orthonormal rows), singular_values [n_layers, k];
            held_out_harmful, held_out_safe [n_prompts, n_layers], projections of prompts that were not fitted on;
            `SITE@POSITION/NAME` with NAME as the fields above: the same from another site or token position.
    Raises: ShapeError, ArtifactError (not finite) on construction.
    """

    vectors: "torch.Tensor"
    mean_harmful: "torch.Tensor | None" = None
    mean_safe: "torch.Tensor | None" = None
    projections_harmful: "torch.Tensor | None" = None
    projections_safe: "torch.Tensor | None" = None
    header: Mapping[str, Any] = field(default_factory=dict)
    extras: "Mapping[str, torch.Tensor]" = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or 0 in self.vectors.shape:
            raise ShapeError(f"vectors must be [n_layers, d_model], found shape {list(self.vectors.shape)}")
        for name in _MEANS:
            self._check_shape(name, list(self.vectors.shape))
        for name, n_prompts in zip(_PROJECTIONS, (self.n_harmful, self.n_safe), strict=True):
            self._check_shape(name, [n_prompts, self.n_layers])
        for name, tensor in self._tensors().items():
            _check_values(name, tensor)

    @property
    def n_layers(self) -> int:
        """Number of decoder blocks."""
        return self.vectors.shape[0]

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.vectors.shape[1]

    @property
    def n_pairs(self) -> int:
        """Number of matched pairs behind the means; 0 when they were unmatched or the file does not say."""
        return self.n_harmful if self.matched else 0

    @property
    def matched(self) -> bool:
        """Whether row n of both groups is one pair: so unless the file says otherwise."""
        return self.header.get("contrast") != _UNMATCHED

    @property
    def n_harmful(self) -> int:
        """Number of harmful prompts behind the means; 0 when the file does not say."""
        if self.projections_harmful is not None:
            return len(self.projections_harmful)
        return int(self.header.get("n_harmful", self.header.get("n_pairs", 0)))

    @property
    def n_safe(self) -> int:
        """Number of safe prompts behind the means; 0 when the file does not say."""
        if self.matched:
            return self.n_harmful
        if self.projections_safe is not None:
            return len(self.projections_safe)
        return int(self.header.get("n_safe", 0))

    def direction(self, layer: int) -> "torch.Tensor":
        """The unit vector along the RV of one layer, [d_model] float32.

        Raises: LayerRangeError, ArtifactError when that RV is zero.
        """
        (layer,) = parse_layers(layer, self.n_layers)
        norm = self.vectors[layer].norm()
        if norm == 0:
            raise ArtifactError(f"the refusal vector of layer {layer} is zero and has no direction")
        return self.vectors[layer] / norm

    def at(self, site: str, position: int) -> "RefusalVectors":
        """The refusal vectors read at another site or token position of the same prompts.

        Raises: ArtifactError naming the readings that the file holds.
        """
        name = f"{site}@{position}"
        if name == self.header.get("reading"):
            return self
        found: dict[str, Any] = {key: self.extras[f"{name}/{key}"] for key in _CORE if f"{name}/{key}" in self.extras}
        if "vectors" not in found:
            held = self.header.get("readings") or [self.header.get("reading", "one that is not recorded")]
            raise ArtifactError(f"no refusal vectors were read at {name}; the file holds {', '.join(held)}")
        header = {
            **self.header,
            "reading": name,
            "readings": [name],
            "site": site,
            "position": f"prompt token {position}",
            "tags": [],
        }
        return RefusalVectors(**found, header=header)

    def of_tag(self, tag: str) -> "RefusalVectors":
        """The refusal vectors of the prompts of one tier or category, e.g. "tier 2": differences of means.

        Raises: ArtifactError naming the tags that the file holds.
        """
        tags = [entry["tag"] for entry in self.header.get("tags", ())]
        if tag not in tags or "by_tag" not in self.extras:
            raise ArtifactError(f"no refusal vectors of {tag!r}; the file holds {', '.join(tags) or 'no tags'}")
        numbers = {key: n for key, n in self.header["tags"][tags.index(tag)].items() if key.startswith("n_")}
        header = {**self.header, "n_harmful": numbers["n_pairs"], "n_safe": numbers["n_pairs"], **numbers}
        header |= {"tag": tag, "tags": [], "estimator": "mean"}
        if "method" in header:
            header["method"] = ", ".join(["difference of means", *header["method"].split(", ")[1:]])
        safe = self.extras.get("safe_by_tag")
        return replace(
            self,
            vectors=self.extras["by_tag"][tags.index(tag)].contiguous(),
            mean_harmful=None,
            mean_safe=None if safe is None else safe[tags.index(tag)].contiguous(),
            projections_harmful=None,
            projections_safe=None,
            header=header,
            extras={},
        )

    def save(self, path: Path | str, force: bool = False) -> Path:
        """Write as safetensors; see `save_artifact` for errors."""
        numbers = {"n_pairs": self.n_pairs, "n_harmful": self.n_harmful, "n_safe": self.n_safe}
        return save_artifact(path, KIND, self._tensors(), {**self.header, **numbers}, force)

    @classmethod
    def load(cls, path: Path | str) -> "RefusalVectors":
        """Read what `save` wrote, or any safetensors file with a tensor `vectors`. Raises: ArtifactError, ShapeError."""
        header, tensors = load_artifact(path, (KIND,))
        return cls.from_tensors(tensors, header, str(path))

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, "torch.Tensor"], header: Mapping[str, Any], what: str
    ) -> "RefusalVectors":
        """Build from a file's tensors; `what` names the file in errors."""
        if "vectors" not in tensors:
            raise ArtifactError(f"{what}: has no tensor `vectors` (found {shortened(sorted(tensors))})")
        known = {name: tensor for name, tensor in tensors.items() if name in _CORE or _is_extra(name)}
        for name, tensor in known.items():
            if not tensor.is_floating_point():
                found = str(tensor.dtype).removeprefix("torch.")
                raise ArtifactError(f"{what}: {name} must hold floating-point numbers, found {found}")
        try:
            core = {name: tensor.float() for name, tensor in known.items() if name in _CORE}
            return cls(**core, header=header, extras={n: t.float() for n, t in known.items() if n not in _CORE})
        except (ShapeError, ArtifactError) as err:
            raise type(err)(f"{what}: {err}") from err

    def _tensors(self) -> dict[str, "torch.Tensor"]:
        core = {name: getattr(self, name) for name in _CORE if getattr(self, name) is not None}
        return {**core, **self.extras}

    def _check_shape(self, name: str, expected: list[int]) -> None:
        tensor = getattr(self, name)
        if tensor is not None and list(tensor.shape) != expected:
            raise ShapeError(f"{name} must have shape {expected}, found {list(tensor.shape)}")


def _is_extra(name: str) -> bool:
    return name in _EXTRAS or ("@" in name and name.rpartition("/")[2] in _CORE)


def _check_values(name: str, tensor: "torch.Tensor") -> None:
    import torch

    if tensor.dtype != torch.float32:
        raise ShapeError(f"{name} must be float32, found {str(tensor.dtype).removeprefix('torch.')}")
    if not tensor.isfinite().all():
        row = int((~tensor.isfinite()).flatten(1).any(dim=1).nonzero()[0])
        raise ArtifactError(f"{name} holds values that are not finite, first in row {row}")
