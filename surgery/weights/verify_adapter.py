"""Proof of a LoRA adapter: its factors are those of the edit that its manifest states."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.architecture.table import entry_of
from surgery.architecture.writers import writers
from surgery.console.errors import ArtifactError
from surgery.files.artifacts import file_sha256, load_artifact
from surgery.files.shards import read_shards, tensors_by_name
from surgery.model.models import ModelInfo
from surgery.model.threads import single_threaded
from surgery.residual.layers import parse_layers
from surgery.residual.subspace import ORTHONORMAL_TOLERANCE, orthonormal_error
from surgery.weights.adapter import PREFIX, WEIGHTS
from surgery.weights.edits import plan_edits
from surgery.weights.manifest import ADAPTER_CONFIG, ADAPTER_KIND, read_manifest
from surgery.weights.matrices import Matrix, matrices
from surgery.weights.measure import coordinates_of
from surgery.weights.verify import Progress, VerificationReport, find_base

if TYPE_CHECKING:
    import torch

_ROUNDOFF = 2.0**-24  # of float32, in which the factors are stored
_SAFETY = 4.0


@dataclass
class AdapterReport(VerificationReport):
    """Of an adapter.

    Attributes:
        n_modules: modules with factors.
    """

    rank: int = 0
    n_modules: int = 0


def verify_adapter(
    folder: Path | str, base: Path | str | None = None, progress: Progress | None = None
) -> AdapterReport:
    """Check an adapter against its manifest and, when at hand, its base model.

    The file's sha256; a scaling of 1 (lora_alpha = r = rank); and per module: factors finite and of that rank,
    B = -alpha Q^T with orthonormal rows of Q, |A| as recorded, and with the base A = Q W recomputed from W, which fails for
    a factor of the wrong sign, on the wrong side of a square matrix, or of other weights. The modules must be exactly those
    that the layers and the architecture demand.

    Args:
        base, progress: as `verify`; progress counts modules.
    Raises: ArtifactError (not an adapter of ours), MismatchError (`base` is another model), ModelError (damaged files).
    """
    folder = Path(folder)
    manifest = read_manifest(folder, ADAPTER_KIND)
    try:
        check = _Check(folder, manifest, base)
    except (KeyError, TypeError) as err:
        raise ArtifactError(f"{folder}: its manifest lacks {err}; it cannot be verified") from err
    check.check_files()
    originals = check.originals()
    with single_threaded():
        for done, module in enumerate(check.modules, start=1):
            check.check_module(module, originals)
            if progress is not None:
                progress(done, len(check.modules))
    check.check_rest()
    return check.report


class _Check:
    """One verification under way."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any], base: Path | str | None):
        self.folder, self.manifest = folder, manifest
        self.alpha, self.rank = float(manifest["alpha"]), int(manifest["basis"]["rank"])
        self.modules: dict[str, float] = {one["name"]: float(one["component"]) for one in manifest["modules"]}
        self.info = ModelInfo.from_json(manifest["base_model"])
        self.report = AdapterReport(str(folder), self.alpha, rank=self.rank)
        self.fault = self.report.faults.append
        self.base, note = find_base(self.info, base)
        self.report.base = str(self.base) if self.base else None
        self.report.notes += [note] if note else []
        self.header, self.factors = load_artifact(folder / WEIGHTS, (ADAPTER_KIND,))

    def check_files(self) -> None:
        """The hash, and the configuration that PEFT and vLLM read."""
        found = file_sha256(self.folder / WEIGHTS)
        if found != self.manifest["sha256"]:
            self.fault(f"{WEIGHTS}: its bytes hash to {found[:12]}, listed as {self.manifest['sha256'][:12]}")
        if not self.modules:
            self.fault("the manifest lists no module")
        config = json.loads((self.folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        for name, expected in {"r": self.rank, "lora_alpha": self.rank, "use_rslora": False, "use_dora": False}.items():
            if config.get(name, expected) != expected:
                self.fault(f"{ADAPTER_CONFIG}: {name} is {config[name]}, expected {expected}, or the edit is scaled")
        for name in ("rank_pattern", "alpha_pattern"):
            if config.get(name):
                self.fault(f"{ADAPTER_CONFIG}: {name} is not empty, so some modules would be scaled")

    def originals(self) -> dict[str, Matrix] | None:
        """Module -> the base model's matrix, for every module that is to be edited; None without the base."""
        if self.base is None:
            return None
        entry, tensors = entry_of(self.info.architecture), tensors_by_name(read_shards(self.base))
        layers = parse_layers(self.manifest["layers"], self.info.n_layers)
        edits = plan_edits(entry, tensors, layers, self.info.d_model, embeddings=False)
        found = {
            module: matrix
            for writer in writers(entry, tensors, layers)
            for module, matrix in zip(
                writer.modules, matrices(edits[writer.name].tensor, writer.output_axis), strict=True
            )
        }
        for name in sorted(found.keys() ^ self.modules.keys()):
            self.fault(f"{name}: {'to be edited but not listed' if name in found else 'listed but not to be edited'}")
        return found

    def check_module(self, module: str, originals: Mapping[str, Matrix] | None) -> None:
        """One module's factors."""
        a, b = self._take(module, "A"), self._take(module, "B")
        if a is None or b is None:
            return self.fault(f"{module}: has no factors A and B in {WEIGHTS}")
        self.report.n_modules += 1
        if a.shape[0] != self.rank or tuple(b.shape) != (self.info.d_model, self.rank):
            expected = f"A [{self.rank}, in], B [{self.info.d_model}, {self.rank}]"
            return self.fault(f"{module}: factors of shape {list(a.shape)} and {list(b.shape)}; expected {expected}")
        if not (a.isfinite().all() and b.isfinite().all()):
            return self.fault(f"{module}: its factors hold values that are not finite")
        basis = b.float().T / -self.alpha
        error = orthonormal_error(basis)
        if not error <= ORTHONORMAL_TOLERANCE:
            return self.fault(f"{module}: B is not -alpha Q^T with orthonormal Q (off by {error:.2g})")
        norm = a.double().norm().item()
        if not math.isclose(norm, self.modules[module], rel_tol=1e-5, abs_tol=1e-30):
            self.fault(f"{module}: |A| is {norm:.6g}, listed as {self.modules[module]:.6g}")
        if originals is not None and module in originals:
            self._check_product(module, a, basis, originals[module])

    def check_rest(self) -> None:
        """Factors of nothing else, but for zeros, as vLLM wants them beside an expert's."""
        for name, tensor in self.factors.items():
            if tensor.count_nonzero():
                self.fault(f"{name}: belongs to no module of the manifest and is not zero")

    def _take(self, module: str, letter: str) -> "torch.Tensor | None":
        return self.factors.pop(f"{PREFIX}{module}.lora_{letter}.weight", None)

    def _check_product(self, module: str, a: "torch.Tensor", basis: "torch.Tensor", matrix: Matrix) -> None:
        expected, norm = coordinates_of(matrix, basis.contiguous())
        if a.shape != expected.shape:
            return self.fault(f"{module}: A is {list(a.shape)}, expected {list(expected.shape)}")
        off = (a.float() - expected).double().norm().item()
        floor = _SAFETY * _ROUNDOFF * self.info.d_model**0.5 * norm  # float32 sums in another order
        if not off <= floor:
            self.fault(f"{module}: A is not Q W of the base model (off by {off:.3g}, of {self.modules[module]:.3g})")
