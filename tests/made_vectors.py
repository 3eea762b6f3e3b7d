"""Refusal vectors of random numbers, in the shape of the organisms, for tests without a model run."""

import torch

from surgery.residual.vectors import RefusalVectors

D_MODEL = 128


def save_vectors(folder, n_layers=8, dependent=False):
    """The path of made refusal vectors; when `dependent`, that of layer 3 lies in the span of those of 1 and 2."""
    rows = torch.randn(n_layers, D_MODEL, generator=torch.Generator().manual_seed(0)) * 5
    if dependent:
        rows[3] = 2 * rows[1] - rows[2]
    safe = torch.randn(n_layers, D_MODEL, generator=torch.Generator().manual_seed(1))
    return RefusalVectors(rows, safe + rows, safe).save(folder / "rvs.safetensors", force=True)
