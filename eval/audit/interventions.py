"""The ablations that an audit compares, and the files behind them."""

from dataclasses import replace
from pathlib import Path

from eval.audit.greedy import Layers
from eval.plan import Plan, PlanBuilder
from surgery.errors import MismatchError
from surgery.models import ModelInfo, check_same_model
from surgery.subspace import Subspace, orthonormal_basis
from surgery.vectors import RefusalVectors

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

    def affine(self, layer: int) -> str:
        """One layer's RV, moved at that layer to where safe prompts have it; returns the condition's id."""
        reference = self.subspace((layer,)).towards(self.vectors, layer)
        return self._named(f"affine-L{layer}", reference, 1.0, str(layer))

    def projected(self, layer: int) -> str:
        """One layer's RV without its part along the safe mean, removed at every layer; returns the condition's id."""
        subspace = Subspace.from_vectors(self.vectors, layer, "projected")
        return self._named(f"projected-L{layer}", subspace, 1.0, "all")

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
        from surgery.manifest import read_manifest

        self._builder.checkpoint(folder, read_manifest(folder))
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
