"""Activations of matched prompts: one layer at a time, in memory or spilled to a temporary file."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from surgery.artifacts import explaining_disk_errors
from surgery.errors import DiskError

if TYPE_CHECKING:
    import torch

HARMFUL, SAFE = 0, 1
CHUNK_BYTES = 2 << 20


@dataclass(frozen=True)
class LayerActivations:
    """What one layer wrote at one site and position, for every pair, read in pieces.

    Attributes:
        n_pairs: number of pairs; row n of either group belongs to pair n.
        d_model: width of the residual stream.
        read: (group, start, stop) -> [stop - start, d_model] float32.
    """

    n_pairs: int
    d_model: int
    read: "Callable[[int, int, int], torch.Tensor]"

    @classmethod
    def of(cls, harmful: "torch.Tensor", safe: "torch.Tensor") -> "LayerActivations":
        """Of tensors in memory, each [n_pairs, d_model] float32."""
        return cls(*harmful.shape, lambda group, start, stop: (harmful, safe)[group][start:stop])

    def chunks(self) -> "Iterator[tuple[int, torch.Tensor, torch.Tensor]]":
        """(first row, harmful [rows, d_model], safe [rows, d_model]) of a few megabytes each."""
        n_rows = max(1, CHUNK_BYTES // (4 * self.d_model))
        for start in range(0, self.n_pairs, n_rows):
            stop = min(start + n_rows, self.n_pairs)
            yield start, self.read(HARMFUL, start, stop), self.read(SAFE, start, stop)


class ActivationStore:
    """A temporary file of activations, so that memory does not grow with the number of prompts.

    Robust estimators, split halves and projections onto the final direction need every prompt's activations after the
    means are known. A second pass over the prompts would double the cost of extraction; what is spilled is read again one
    layer at a time. float32, [n_readings, n_layers, 2 (harmful, safe), n_pairs, d_model].

    Args:
        n_readings: combinations of site and token position.
        folder: where the file lies while the context lasts; it has no name there. None: the system's temporary folder.
    Raises: DiskError when the disk is too small or fills up.
    """

    def __init__(self, n_readings: int, n_layers: int, n_pairs: int, d_model: int, folder: Path | None = None):
        self._shape = (n_readings, n_layers, n_pairs, d_model)
        self._folder = Path(folder or tempfile.gettempdir())

    def __enter__(self) -> "ActivationStore":
        n_readings, n_layers, n_pairs, d_model = self._shape
        n_bytes, free = n_readings * n_layers * 2 * n_pairs * d_model * 4, shutil.disk_usage(self._folder).free
        if n_bytes > free:
            raise DiskError(
                f"{self._folder}: the activations of {n_pairs} pairs need {n_bytes / 1e9:.1f} GB for a while, "
                f"{free / 1e9:.1f} GB are free; use fewer pairs, sites or positions"
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

        _, _, n_pairs, d_model = self._shape

        def read(group: int, start: int, stop: int) -> torch.Tensor:
            data = bytearray(
                os.pread(self._file.fileno(), (stop - start) * d_model * 4, self._offset(reading, layer, group, start))
            )
            return torch.frombuffer(data, dtype=torch.float32).view(stop - start, d_model)

        return LayerActivations(n_pairs, d_model, read)

    def _offset(self, reading: int, layer: int, group: int, row: int) -> int:
        _, n_layers, n_pairs, d_model = self._shape
        return (((reading * n_layers + layer) * 2 + group) * n_pairs + row) * d_model * 4
