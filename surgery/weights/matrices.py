"""Stored tensors as matrices, read in blocks of rows small enough for the processor's cache."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

from surgery.files.shards import FLOAT_DTYPES, StoredTensor, aligned_buffer, read_into

if TYPE_CHECKING:
    import torch

Parts = Callable[[], "Iterator[tuple[slice, memoryview, torch.Tensor]]"]
"""Of some output vectors: (which of their d_model values, the bytes, a view of those that edits them [n_values, n_vectors])."""
_BLOCK_VALUES = 1 << 19  # values in a block; in float32 they take 2 MiB


@dataclass(frozen=True)
class Matrix:
    """A bias, a weight, or one expert's part of a tensor that holds them all.

    Attributes:
        start: absolute byte offset of its first value in `tensor.path`.
        vectors_are_rows: whether each row is one output vector, [n, d_model] (a bias, an embedding, Conv1D); otherwise each
            column is one, [d_model, n] (torch.nn.Linear).
    """

    tensor: StoredTensor
    start: int
    n_rows: int
    n_columns: int
    vectors_are_rows: bool


def matrices(tensor: StoredTensor, output_axis: int) -> Iterator[Matrix]:
    """The matrices of one tensor, in the order of their bytes.

    Args:
        output_axis: the tensor's axis that runs along the residual stream.
    """
    *stack, n_rows, n_columns = (1, *tensor.shape) if len(tensor.shape) == 1 else tensor.shape
    along_last = output_axis == len(tensor.shape) - 1
    n_matrices = math.prod(stack)
    for number in range(n_matrices):
        start = tensor.start + number * (tensor.n_bytes // n_matrices)
        yield Matrix(tensor, start, n_rows, n_columns, along_last)


def row_blocks(handle: BinaryIO, matrix: Matrix) -> "Iterator[tuple[slice, memoryview, torch.Tensor]]":
    """Blocks of rows: (their indices, their bytes, a view of those bytes [n, n_columns] that edits them).

    All blocks are read into the same memory: use one before asking for the next.
    Args:
        handle: the matrix's file, open.
    """
    import torch

    dtype = getattr(torch, FLOAT_DTYPES[matrix.tensor.dtype])
    row_bytes = matrix.n_columns * dtype.itemsize
    step = min(max(_BLOCK_VALUES // max(matrix.n_columns, 1), 1), matrix.n_rows)
    buffer = aligned_buffer(max(step * row_bytes, 1))
    for first in range(0, matrix.n_rows, max(step, 1)):
        rows = slice(first, min(first + step, matrix.n_rows))
        data = buffer[: (rows.stop - first) * row_bytes]
        if len(data):
            read_into(handle, matrix.start + first * row_bytes, data)
            yield rows, data, torch.frombuffer(data, dtype=dtype).view(-1, matrix.n_columns)


def vector_groups(handle: BinaryIO, tensor: StoredTensor, output_axis: int) -> Iterator[Parts]:
    """The output vectors of a tensor in groups, each of which can be gone through part by part, and again.

    Vectors that are rows come a block at a time, in one part; vectors that are columns all at once, in blocks of rows.
    """
    for matrix in matrices(tensor, output_axis):
        if not matrix.vectors_are_rows:
            yield partial(row_blocks, handle, matrix)
            continue
        for _, data, block in row_blocks(handle, matrix):
            yield partial(iter, [(slice(0, matrix.n_columns), data, block.T)])
