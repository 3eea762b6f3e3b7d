"""The ablations that an audit compares, and the files behind them."""

from dataclasses import replace
from pathlib import Path

from eval.plan.plan import Plan, PlanBuilder
from eval.studies.audit.greedy import Layers
from surgery.console.errors import MismatchError
from surgery.model.models import ModelInfo, check_same_model
from surgery.residual.layers import format_layers
from surgery.residual.subspace import Subspace, orthonormal_basis
from surgery.residual.vectors import RefusalVectors

SMALL = 2.0**-10
"""Strength of an activation addition: the operator adds alpha * c along the direction and removes alpha of it."""


class Interventions:
    """Builds the conditions of one audit.

    Args:
        rvs: the model's refusal vectors.
        folder: where subspaces of its own are written.
    Raises: MismatchError when the vectors are another model's.
    """

    def __init__(self, info: ModelInfo, rvs: Path, folder: Path):
        self.info, self.rvs, self.folder = info, rvs, folder
        self.vectors = RefusalVectors.load(rvs)
        check_same_model(self.vectors.header, info, str(rvs))
        if self.vectors.n_layers != info.n_layers:
            raise MismatchError(
                f"{rvs} has RVs of {self.vectors.n_layers} layers but {info.model} has {info.n_layers}; extract vectors "
                "from this model"
            )
        self._builder = PlanBuilder(info.n_layers, info.d_model)

    def plan(self, baseline: bool = True) -> Plan:
        """All conditions since the last plan; the next begins empty."""
        plan, self._builder = self._builder.build(), PlanBuilder(self.info.n_layers, self.info.d_model)
        return plan if baseline else replace(plan, conditions=plan.conditions[1:])

    def plain(self, layers: Layers, alpha: float, site: str = "stream") -> str:
        """The span of these layers' RVs removed at every layer; returns the condition's id."""
        if len(layers) == 1 and site == "stream":
            self._builder.single_vectors(self.rvs, layers, [alpha])
        else:
            rank = self.subspace(layers).rank
            self._builder.subspace(self.rvs, layers, rank, [alpha], site)
        return self._last()

    def controls(self, ranks: list[int], n_seeds: int, alpha: float) -> None:
        """Random subspaces of these ranks."""
        self._builder.random_controls(self.folder, ranks, n_seeds, alpha)

    def affine(self, layers: Layers, at: int) -> str:
        """The span of these layers' RVs, moved at one layer to where safe prompts have it; returns the condition's id."""
        reference = self.subspace(layers).towards(self.vectors, at)
        own = "" if layers == (at,) else f"-at-L{at}"
        return self._named(f"affine-{_stem(layers)}{own}", reference, 1.0, str(at))

    def projected(self, layers: Layers) -> str:
        """The RVs of these layers without their part along safe means, removed at every layer.

        One vector is spared the safe mean of its own layer. Of several that would not do: the span of vectors each made
        orthogonal to one mean still meets the other means, and can hold more of them than the plain span. They are
        spared the safe means of all layers ("biprojected"), so that the subspace meets none where it is removed.
        Returns: the condition's id.
        """
        projection = "projected" if len(layers) == 1 else "biprojected"
        subspace = Subspace.from_vectors(self.vectors, layers, projection)
        return self._named(f"projected-{_stem(layers)}", subspace, 1.0, "all")

    def added(self, layer: int) -> str:
        """One layer's RV added at that layer: activation addition (Arditi et al. 2024, arXiv:2406.11717, eq. 3).

        x' = x + |r| B - SMALL (x B^T) B, so a thousandth of the component is removed as well.
        Returns: the condition's id.
        """
        import torch

        norm = self.vectors.vectors[layer].norm()
        single = self.subspace((layer,))
        added = Subspace(single.basis, single.source_layers, single.header, torch.stack([norm / SMALL]))
        return self._named(f"added-L{layer}", added, SMALL, str(layer))

    def checkpoint(self, folder: Path) -> str:
        """The orthogonalized checkpoint in this folder; returns the condition's id."""
        from surgery.weights.manifest import read_manifest

        self._builder.weights("checkpoint", folder, read_manifest(folder))
        return self._last()

    def subspace(self, layers: Layers) -> Subspace:
        """The span of these layers' RVs."""
        return Subspace.from_vectors(self.vectors, layers)

    def novelty(self, chosen: Layers, layer: int) -> float:
        """Length of a layer's unit RV outside the span of those chosen, 0 to 1; 1 while none is."""
        unit = self.vectors.direction(layer).double()
        if not chosen:
            return 1.0
        basis = orthonormal_basis(self.vectors.vectors[list(chosen)]).double()
        return float((unit - (unit @ basis.T) @ basis).norm())

    def _named(self, name: str, subspace: Subspace, alpha: float, layers: str) -> str:
        path = self.folder / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        subspace.save(path, force=True)
        settings = {"path": str(path), "alpha": alpha, "layers": layers}
        self._builder.named(name, settings, subspace.rank, alpha)
        return self._last()

    def _last(self) -> str:
        return self._builder.build().conditions[-1].id


def _stem(layers: Layers) -> str:
    """L3 for one layer, QR1,3-5 for the span of several."""
    return f"L{layers[0]}" if len(layers) == 1 else f"QR{format_layers(layers)}"
