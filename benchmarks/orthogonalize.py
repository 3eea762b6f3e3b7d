#!/usr/bin/env python3
"""`refusal orthogonalize` beside `cp -r` and beside load, edit, `save_pretrained`: each in turn, in a process of its own.

    python benchmarks/orthogonalize.py                                  # Llama-3.2-1B shape, 2.47 GB, 3 rounds
    python benchmarks/orthogonalize.py --shape llama-3.1-8b --rounds 1 --only cp ours verified
    python benchmarks/orthogonalize.py --threads 1                      # one thread of arithmetic

Makes a checkpoint of that shape (random weights, bf16, shards of at most 700 MB) in a temporary folder, needs its size in
memory and twice that on disk, and deletes everything. Prints for every run CPU seconds (user + system, of the process and its children), peak
resident memory and wall time, then medians and the median ratio of CPU seconds to `ours` within the same round.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path  # nothing heavier is imported here: a child's peak memory starts at its parent's

ROOT = Path(__file__).resolve().parents[1]
LLAMA = {"vocab_size": 128256, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "max_position_embeddings": 131072}
SHAPES = {
    "llama-3.2-1b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "head_dim": 64,
        "tie_word_embeddings": True,
    },
    "llama-3.1-8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "head_dim": 128,
        "tie_word_embeddings": False,
    },
}
_MAKE_MODEL = """
import json, sys, torch
from transformers import LlamaConfig, LlamaForCausalLM
torch.manual_seed(0)
model = LlamaForCausalLM._from_config(LlamaConfig(**json.loads(sys.argv[1])), dtype=torch.bfloat16)
model.save_pretrained(sys.argv[2], max_shard_size="700MB")
"""
_MAKE_BASIS = """
import sys
from surgery.residual.subspace import random_subspace
random_subspace(int(sys.argv[1]), int(sys.argv[2]), seed=0).save(sys.argv[3])
"""
_LOAD_AND_SAVE = """
import sys, torch
from transformers import AutoModelForCausalLM
from surgery.residual.subspace import Subspace
source, basis, out = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
q = Subspace.load(basis).basis
with torch.no_grad():
    for block in model.model.layers:
        for weight in (block.self_attn.o_proj.weight, block.mlp.down_proj.weight):
            wide = weight.float()
            weight.copy_(wide - q.T @ (q @ wide))
model.save_pretrained(out, max_shard_size="700MB")
"""


@dataclass(frozen=True)
class Run:
    """What one process took: seconds of CPU and of wall time, MiB of peak resident memory."""

    cpu: float
    peak: float
    wall: float


def main() -> None:
    """Parse, make the checkpoint, measure in turn, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=sorted(SHAPES), default="llama-3.2-1b")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--threads", type=int, help="of arithmetic (OMP_NUM_THREADS); the default is the system's")
    parser.add_argument("--only", nargs="+", choices=[*commands(Path(), Path(), Path())], help="the runs to make")
    parser.add_argument("--folder", type=Path, help="where to make the temporary folder")
    arguments = parser.parse_args()
    if arguments.threads:
        os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        measure(arguments, Path(scratch))


def commands(source: Path, basis: Path, out: Path) -> dict[str, list[str]]:
    """Name -> command line of every way measured."""
    ours = [sys.executable, str(ROOT / "bin" / "refusal"), "orthogonalize", str(source), str(basis), "-o", str(out)]
    return {
        "cp": ["cp", "-r", str(source), str(out)],
        "ours": [*ours, "--no-verify"],
        "verified": ours,
        "save_pretrained": [sys.executable, "-c", _LOAD_AND_SAVE, str(source), str(basis), str(out)],
    }


def measure(arguments: argparse.Namespace, scratch: Path) -> None:
    """Run every command in every round, in turn."""
    source, basis = scratch / "source", scratch / "basis.safetensors"
    config = LLAMA | SHAPES[arguments.shape]
    run([sys.executable, "-c", _MAKE_MODEL, json.dumps(config), str(source)])
    run([sys.executable, "-c", _MAKE_BASIS, str(config["hidden_size"]), str(arguments.rank), str(basis)])
    os.sync()  # or the first runs pay for writing the source
    shards = [path.stat().st_size for path in source.glob("*.safetensors")]
    print(f"{arguments.shape}: {sum(shards) / 1e9:.2f} GB in {len(shards)} shards, rank {arguments.rank}", flush=True)
    names = arguments.only or list(commands(source, basis, source))
    runs: dict[str, list[Run]] = {name: [] for name in names}
    for number in range(arguments.rounds):
        for name in names:
            out = scratch / "out"
            runs[name].append(run(commands(source, basis, out)[name]))
            shutil.rmtree(out)  # its unwritten pages go with it
            one = runs[name][-1]
            print(f"round {number} {name:16} {one.cpu:6.2f} CPU-s {one.peak:6.0f} MiB {one.wall:6.2f} s", flush=True)
    print_medians(runs)


def print_medians(runs: dict[str, list[Run]]) -> None:
    """Medians of each way, and of its CPU seconds over those of `ours` in the same round."""
    for name, found in runs.items():
        cpu, peak, wall = (statistics.median(getattr(run, field) for run in found) for field in ("cpu", "peak", "wall"))
        line = f"median  {name:16} {cpu:6.2f} CPU-s {peak:6.0f} MiB {wall:6.2f} s"
        if "ours" in runs:
            ratio = statistics.median(one.cpu / ours.cpu for one, ours in zip(found, runs["ours"], strict=True))
            line += f"  {ratio:5.2f} x the CPU of ours"
        print(line)


def run(command: list[str]) -> Run:
    """Run a command to its end. Raises: SystemExit when it fails."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)})
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if status != 0:
        raise SystemExit(f"{' '.join(command)}: failed with status {process.returncode}")
    return Run(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, time.perf_counter() - start)


if __name__ == "__main__":
    main()
