#!/usr/bin/env python3
"""Forms of the run-time edit against each other, compiled: time, time to compile, and whether a row feels its batch.

    python benchmarks/arithmetic.py                               # d_model 512, ranks 4 and 64
    python benchmarks/arithmetic.py --d-model 2048 --modules 256 --ranks 4

gather: each token's own basis, two row sums that the compiler fuses with the gather (what vllm_refusal.edit.affine does).
unrolled: the same, one row sum after the other, unrolled over the rank.
dense: x' = x + (C - A * (x B^T)) B, B [R, d_model] the directions of all modules, two matrix products.
Process CPU time on one thread, median of five; compile time includes the C++ compiler only where it runs in process.
"""

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable

os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp()  # nothing is compiled before

import torch

from surgery.residual.subspace import random_subspace
from vllm_refusal.edit.affine import ResidualEdit

N_SLOTS, MAX_TOKENS = 257, 2048


class Unrolled(ResidualEdit):
    """One row sum for each direction."""

    def _change(self, x: torch.Tensor, module: torch.Tensor) -> torch.Tensor:
        change = torch.zeros_like(x)
        for k in range(self.bases.shape[1]):
            direction = self.bases[module, k]
            missing = self.offsets[module, k].unsqueeze(-1) - (x * direction).sum(-1, keepdim=True)
            change = change + missing * direction
        return change


class Dense(ResidualEdit):
    """Two matrix products with the directions of all modules; a mask keeps each token's own."""

    def __init__(self, *tables: torch.Tensor):
        super().__init__(*tables)
        n_modules, rank, _ = self.bases.shape
        own = torch.eye(n_modules).repeat_interleave(rank, dim=1)
        self.register_buffer("own", own, persistent=False)  # [n_modules, n_modules * rank]
        self.register_buffer("all_offsets", own * self.offsets.flatten(), persistent=False)

    def _change(self, x: torch.Tensor, module: torch.Tensor) -> torch.Tensor:
        bank = self.bases.flatten(0, 1)
        return (self.all_offsets[module] - self.own[module] * (x @ bank.T)) @ bank


FORMS = {"gather": ResidualEdit, "unrolled": Unrolled, "dense": Dense}


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--d-model", type=int, nargs="+", default=[512])
    parser.add_argument("--ranks", type=int, nargs="+", default=[4, 64])
    parser.add_argument("--modules", type=int, default=4)
    parser.add_argument("--tokens", type=int, nargs="+", default=[2, 64, 1024])
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for d_model, rank, form in itertools.product(arguments.d_model, arguments.ranks, arguments.forms):
        measure(form, d_model, rank, arguments)


def measure(form: str, d_model: int, rank: int, arguments: argparse.Namespace) -> None:
    """One line."""
    edit = FORMS[form](*tables(arguments.modules, rank, d_model))
    torch.compiler.reset()
    compiled = compile_for_any_batch(edit)
    streams = torch.randn(2, MAX_TOKENS, d_model, generator=torch.Generator().manual_seed(0))
    hidden, residual = streams.to(getattr(torch, arguments.dtype))
    begun = time.process_time()
    together, _ = compiled(hidden[:64], residual[:64])
    to_compile = time.process_time() - begun
    times = {n: microseconds(lambda n=n: compiled(hidden[:n], residual[:n])) for n in arguments.tokens}
    feels = [n for n in (2, 3, 5, 7, 17) if not torch.equal(compiled(hidden[:n], residual[:n])[0], together[:n])]
    print(
        f"d_model {d_model:5d} rank {rank:3d} modules {arguments.modules:3d} {form:9s} compile {to_compile:5.1f} s; "
        + ", ".join(f"{n} tokens {value:.0f} us" for n, value in times.items())
        + (f"; rows feel the batch at {feels}" if feels else "; rows do not feel the batch"),
        flush=True,
    )


def tables(n_modules: int, rank: int, d_model: int) -> tuple[torch.Tensor, ...]:
    """Tables in which every token has an intervention, modules taking turns."""
    bases = torch.zeros(n_modules + 1, rank, d_model)
    for index in range(n_modules):
        bases[index + 1] = random_subspace(d_model, rank, seed=index).basis
    slot = torch.arange(MAX_TOKENS) % (N_SLOTS - 1) + 1
    module_of_slot = torch.arange(N_SLOTS) % n_modules + 1
    return slot, module_of_slot, bases, torch.zeros(n_modules + 1, rank), torch.ones(N_SLOTS)


def compile_for_any_batch(edit: ResidualEdit) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """As in an engine: one graph for every number of tokens."""
    compiled = torch.compile(edit.on_sum, fullgraph=True, dynamic=False)

    def run(hidden: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        for tensor in (hidden, residual):
            torch._dynamo.mark_dynamic(tensor, 0)
        return compiled(hidden, residual)

    return run


def microseconds(work: Callable[[], object]) -> float:
    """Process CPU time of one call, median of five."""
    work()
    begun = time.process_time()
    work()
    n_calls = max(1, min(200, int(0.05 / max(time.process_time() - begun, 1e-6))))
    times = []
    for _ in range(5):
        begun = time.process_time()
        for _ in range(n_calls):
            work()
        times.append((time.process_time() - begun) / n_calls)
    return 1e6 * statistics.median(times)


if __name__ == "__main__":
    main()
