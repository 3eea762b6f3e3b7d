"""Activations of harmful and of safe prompts: one layer at a time, in memory or spilled to a temporary file."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from surgery.console.errors import DiskError
from surgery.files.artifacts import explaining_disk_errors

if TYPE_CHECKING:
    import torch

HARMFUL, SAFE = 0, 1
CHUNK_BYTES = 2 << 20


@dataclass(frozen=True)
class LayerActivations:
    """What one layer wrote at one site and position, for every prompt, read in pieces.

    Attributes:
        sizes: number of harmful and of safe prompts.
        d_model: width of the residual stream.
        read: (group, start, stop) -> [stop - start, d_model] float32; group is HARMFUL or SAFE.
        matched: whether row n of either group belongs to pair n.
    """

    sizes: tuple[int, int]
    d_model: int
    read: "Callable[[int, int, int], torch.Tensor]"
    matched: bool = True

    def __post_init__(self) -> None:
        assert not self.matched or self.sizes[HARMFUL] == self.sizes[SAFE], "matched groups of different size"

    @classmethod
    def of(cls, harmful: "torch.Tensor", safe: "torch.Tensor", matched: bool = True) -> "LayerActivations":
        """Of tensors in memory, [n_harmful, d_model] and [n_safe, d_model] float32."""
        sizes = (len(harmful), len(safe))
        return cls(sizes, harmful.shape[1], lambda group, start, stop: (harmful, safe)[group][start:stop], matched)

    def rows(self, group: int) -> "Iterator[tuple[int, torch.Tensor]]":
        """(first row, activations [rows, d_model]) of one group, a few megabytes each."""
        n_rows = max(1, CHUNK_BYTES // (4 * self.d_model))
        for start in range(0, self.sizes[group], n_rows):
            yield start, self.read(group, start, min(start + n_rows, self.sizes[group]))

    def pairs(self) -> "Iterator[tuple[int, torch.Tensor, torch.Tensor]]":
        """(first row, harmful [rows, d_model], safe [rows, d_model]) of matched pairs, a few megabytes each."""
        assert self.matched, "unmatched prompts have no pairs"
        for (start, harmful), (_, safe) in zip(self.rows(HARMFUL), self.rows(SAFE), strict=True):
            yield start, harmful, safe


class ActivationStore:
    """A temporary file of activations, so that memory does not grow with the number of prompts.

    Robust estimators, split halves and projections onto the final direction need every prompt's activations after the
    means are known. A second pass over the prompts would double the cost of extraction; what is spilled is read again one
    layer at a time. float32, [n_readings, n_layers, n_harmful + n_safe, d_model].

    Args:
        n_readings: combinations of site and token position.
        sizes, matched: as in `LayerActivations`.
        folder: where the file lies while the context lasts; it has no name there. None: the system's temporary folder.
    Raises: DiskError when the disk is too small or fills up.
    """

    def __init__(
        self,
        n_readings: int,
        n_layers: int,
        sizes: tuple[int, int],
        d_model: int,
        folder: Path | None = None,
        matched: bool = True,
    ):
        self._n_readings, self._n_layers, self._sizes, self._d_model = n_readings, n_layers, sizes, d_model
        self._folder, self._matched = Path(folder or tempfile.gettempdir()), matched

    def __enter__(self) -> "ActivationStore":
        n_bytes, free = self._offset(self._n_readings, 0, HARMFUL, 0), shutil.disk_usage(self._folder).free
        if n_bytes > free:
            raise DiskError(
                f"{self._folder}: the activations of {sum(self._sizes)} prompts need {n_bytes / 1e9:.1f} GB for a while, "
                f"{free / 1e9:.1f} GB are free; use fewer prompts, sites or positions"
            )
        with explaining_disk_errors(self._folder):
            self._file = tempfile.TemporaryFile(dir=self._folder)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, group: int, row: int, resid: "torch.Tensor") -> None:
        """Keep one prompt's activations, [n_readings, n_layers, d_model] float32; `group` is HARMFUL or SAFE."""
        with explaining_disk_errors(self._folder):
            for reading, layers in enumerate(resid.numpy()):
                for layer, values in enumerate(layers):
                    os.pwrite(self._file.fileno(), values.tobytes(), self._offset(reading, layer, group, row))

    def layer(self, reading: int, layer: int) -> LayerActivations:
        """One layer of one reading."""
        import torch

        def read(group: int, start: int, stop: int) -> torch.Tensor:
            n_bytes = (stop - start) * self._d_model * 4
            data = bytearray(os.pread(self._file.fileno(), n_bytes, self._offset(reading, layer, group, start)))
            return torch.frombuffer(data, dtype=torch.float32).view(stop - start, self._d_model)

        return LayerActivations(self._sizes, self._d_model, read, self._matched)

    def _offset(self, reading: int, layer: int, group: int, row: int) -> int:
        before = self._sizes[HARMFUL] if group == SAFE else 0
        return ((reading * self._n_layers + layer) * sum(self._sizes) + before + row) * self._d_model * 4
