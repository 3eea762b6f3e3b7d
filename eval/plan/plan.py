"""Which conditions a run compares, and which engine modules they need."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.plan.conditions import BASELINE, Condition, from_tag
from surgery.console.errors import RefusalError
from surgery.files.artifacts import file_sha256, json_sha256
from surgery.residual.layers import LayerSpec, format_layers, parse_layers
from surgery.residual.subspace import Subspace, random_subspace
from surgery.residual.vectors import RefusalVectors


class PlanError(RefusalError):
    """The conditions asked for cannot be compared in one run."""


@dataclass(frozen=True)
class Plan:
    """The conditions of a run.

    Attributes:
        conditions: baseline first.
        modules: name -> module settings for the engine's additional_config["ablation"].
        made: file -> what a module reads from it, a random subspace or the refusal vectors of one tag; written by
            `save_made`.
    """

    conditions: tuple[Condition, ...]
    modules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    made: Mapping[Path, Subspace | RefusalVectors] = field(default_factory=dict)

    @property
    def folders(self) -> dict[str, Path]:
        """Condition id -> folder of its edited weights."""
        return {condition.id: condition.folder for condition in self.conditions if condition.folder is not None}

    def save_made(self) -> None:
        """Write what was made for this plan where the modules expect it."""
        for path, content in self.made.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            content.save(path, force=True)


class PlanBuilder:
    """Collects conditions for one model; each method adds some and returns the builder."""

    def __init__(self, n_layers: int, d_model: int):
        self.n_layers = n_layers
        self.d_model = d_model
        self._conditions = [BASELINE]
        self._modules: dict[str, Mapping[str, Any]] = {}
        self._made: dict[Path, Subspace | RefusalVectors] = {}
        self._sources: dict[Path, str] = {}

    def vectors_of_tag(self, rvs: Path, vectors: RefusalVectors, tag: str, folder: Path) -> Path:
        """Keep the refusal vectors of one tier or category in `folder`, for conditions of their own.

        Args:
            rvs: the file that `vectors` were read from.
        Returns: the file they will be in, as `single_vectors` and `subspace` take it together with the tag.
        """
        path = folder / f"rvs{_suffix(tag, '-')}.safetensors"
        self._made[path] = vectors.of_tag(tag)
        self._sources[path] = json_sha256(["refusal vectors", file_sha256(rvs), tag])
        return path

    def single_vectors(
        self,
        rvs: Path,
        source_layers: LayerSpec,
        alphas: Sequence[float],
        allow_other_model: bool = False,
        at: Sequence[str] = ("all",),
        tag: str = "",
    ) -> "PlanBuilder":
        """Each source layer's RV ablated at each strength.

        Args:
            at: decoder blocks it is ablated at; each entry is a set of conditions of its own.
            tag: the tier or category that the file is from: see `vectors_of_tag`.
        """
        allowed = {"allow_other_model": True} if allow_other_model else {}
        for layer in parse_layers(source_layers, self.n_layers):
            stem, label = f"L{layer}{_suffix(tag)}", f"RV of layer {layer}{from_tag(tag)}"
            module = self._module(stem, {"path": str(rvs), "source_layer": layer, **allowed})
            source = self._source(rvs)
            self._add_each(alphas, at, f"rv:{stem}", "rv", label, module, 1, (layer,), "stream", source, tag)
        return self

    def subspace(
        self,
        rvs: Path,
        spec: LayerSpec,
        rank: int,
        alphas: Sequence[float],
        site: str,
        allow_other_model: bool = False,
        at: Sequence[str] = ("all",),
        tag: str = "",
    ) -> "PlanBuilder":
        """The QR subspace of several layers' RVs ablated at each strength.

        Args:
            rank: of the basis: fewer than the layers named when their RVs depend on each other.
            site: "stream" or "writes".
            at, tag: as in `single_vectors`.
        """
        layers = parse_layers(spec, self.n_layers)
        name = format_layers(layers)
        suffix = _suffix(tag) + ("" if site == "stream" else f":{site}")
        allowed = {"allow_other_model": True} if allow_other_model else {}
        settings = {"path": str(rvs), "source_layers": list(layers), "site": site, **allowed}
        module = self._module(f"QR{name}{suffix}", settings)
        label = f"QR of layers {name}{from_tag(tag)}" + ("" if site == "stream" else f" ({site})")
        stem, source = f"subspace:{name}{suffix}", self._source(rvs)
        self._add_each(alphas, at, stem, "subspace", label, module, rank, layers, site, source, tag)
        return self

    def random_controls(
        self, folder: Path, ranks: Sequence[int], n_seeds: int, alpha: float, at: Sequence[str] = ("all",)
    ) -> "PlanBuilder":
        """Random subspaces of the given ranks, kept in `folder`: what ablating any direction does.

        Args:
            at: as in `single_vectors`.
        """
        for rank in sorted(set(ranks)):
            for seed in range(n_seeds):
                path = folder / f"random-k{rank}-s{seed}.safetensors"
                self._made[path] = random_subspace(self.d_model, rank, seed)
                module = self._module(f"random-k{rank}-s{seed}", {"path": str(path)})
                label = f"random, rank {rank}, seed {seed}"
                source = json_sha256(["random subspace", self.d_model, rank, seed])
                stem = f"random:k{rank}:s{seed}"
                self._add_each([alpha], at, stem, "random", label, module, rank, (), "stream", source)
        return self

    def named(self, name: str, settings: Mapping[str, Any], rank: int, alpha: float) -> "PlanBuilder":
        """A module given by the user, at its own strength and layers."""
        path = Path(settings["path"])
        module = self._module(name, settings)
        condition = Condition(
            id=f"named:{name}",
            kind="named",
            label=name,
            alpha=alpha,
            rank=rank,
            layers=str(settings.get("layers", "all")),
            site=settings.get("site", "stream"),
            request={"ablation": module},
            source=file_sha256(path),
        )
        self._append(condition)
        return self

    def weights(self, kind: str, folder: Path, manifest: Mapping[str, Any]) -> "PlanBuilder":
        """Weights edited offline, answered without ablation.

        An adapter is not answered beside the other conditions: vLLM's LoRA on the CPU applies it to requests of the same
        batch that name none, and passes over the linear maps that ablation of the writes has replaced.

        Args:
            kind: "checkpoint" or "adapter".
            manifest: the folder's own record of what was edited (surgery.weights.manifest).
        """
        self._append(_of_weights(kind, folder, manifest))
        return self

    def build(self) -> Plan:
        """The plan."""
        return Plan(tuple(self._conditions), dict(self._modules), dict(self._made))

    def _module(self, name: str, settings: Mapping[str, Any]) -> str:
        if self._modules.setdefault(name, settings) != settings:
            raise PlanError(f"two different ablations are named {name!r}; give each its own name")
        return name

    def _add_each(
        self,
        alphas: Sequence[float],
        at: Sequence[str],
        stem: str,
        kind: str,
        label: str,
        module: str,
        rank: int,
        source_layers: tuple[int, ...],
        site: str,
        source: str,
        tag: str = "",
    ) -> None:
        for layers in [self._named_layers(spec) for spec in at]:
            everywhere = layers == "all"
            for alpha in alphas:
                condition = Condition(
                    id=f"{stem}:a{alpha:g}" + ("" if everywhere else f":at{layers}"),
                    kind=kind,
                    label=label + ("" if everywhere else f", at layers {layers}"),
                    alpha=alpha,
                    rank=rank,
                    source_layers=source_layers,
                    layers=layers,
                    site=site,
                    request={"ablation": module, "ablation_alpha": alpha}
                    | ({} if everywhere else {"ablation_layers": layers}),
                    source=source,
                    tag=tag,
                )
                self._append(condition)

    def _source(self, rvs: Path) -> str:
        """What identifies the vectors in a file, one made for this plan or one that is there."""
        return self._sources.get(rvs) or file_sha256(rvs)

    def _named_layers(self, spec: str) -> str:
        """Layers as they are named in ids: "all" for all of them however they were given."""
        return format_layers(parse_layers(spec, self.n_layers), self.n_layers)

    def _append(self, condition: Condition) -> None:
        if condition.alpha == 0:
            raise PlanError(f"condition {condition.id}: alpha 0 is no intervention; every run has the baseline anyway")
        if any(condition.id == other.id for other in self._conditions):
            raise PlanError(f"condition {condition.id} is asked for twice; name each layer set and alpha once")
        self._conditions.append(condition)


def _suffix(tag: str, mark: str = ":") -> str:
    """A tag as a part of ids and file names, nothing without one."""
    return mark + re.sub(r"[^\w.]+", "-", tag) if tag else ""


def _of_weights(kind: str, folder: Path, manifest: Mapping[str, Any]) -> Condition:
    """The condition of edited weights, by the record that they carry."""
    basis, alpha, layers = manifest["basis"], manifest["alpha"], str(manifest["layers"])
    source_layers = tuple(basis["source_layers"])
    name = format_layers(source_layers) if source_layers else folder.name
    embedded = kind == "checkpoint" and manifest["embeddings"]
    everywhere = layers == "all"
    return Condition(
        id=f"{kind}:{name}:a{alpha:g}" + ("+emb" if embedded else "") + ("" if everywhere else f":at{layers}"),
        kind=kind,
        label=f"{kind}, QR of layers {name}"
        + (" and embeddings" if embedded else "")
        + ("" if everywhere else f", at layers {layers}"),
        alpha=alpha,
        rank=basis["rank"],
        source_layers=source_layers,
        layers=layers,
        site="weights",
        source=json_sha256(manifest),
        folder=folder,
    )
