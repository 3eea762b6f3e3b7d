"""The files of a study."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Workplace:
    """Where the artifacts of a study of one model lie.

    Attributes:
        model: its folder, or its Hugging Face id.
    """

    folder: Path
    model: str

    @property
    def rvs(self) -> Path:
        """The refusal vectors."""
        return self.folder / "rvs.safetensors"

    @property
    def subspace(self) -> Path:
        """The headline subspace."""
        return self.folder / "subspace.safetensors"

    @property
    def run(self) -> Path:
        """The run of all conditions."""
        return self.folder / "run"

    @property
    def benchmark(self) -> Path:
        """The capability benchmarks."""
        return self.folder / "benchmark"

    @property
    def report(self) -> Path:
        """The report."""
        return self.folder / "report"

    def checkpoint(self, alpha: float) -> Path:
        """The weights orthogonalized against the headline subspace."""
        return self.folder / f"checkpoint-a{alpha:g}"
