#!/usr/bin/env python3
"""`refusal orthogonalize` beside `cp -r` and beside load, edit, `save_pretrained`: each in turn, in a process of its own.

    python benchmarks/orthogonalize.py                                  # Llama-3.2-1B shape, 2.47 GB, 3 rounds
    python benchmarks/orthogonalize.py --shape llama-3.1-8b --rounds 1 --only cp ours verified
    python benchmarks/orthogonalize.py --threads 1                      # one thread of arithmetic

Makes a checkpoint of that shape (bf16, finite random bytes, 4 shards) in a temporary folder, needs twice its size on
disk, and deletes everything. Prints for every run CPU seconds (user + system, of the process and its children), peak
resident memory and wall time, then medians and the median ratio of CPU seconds to `ours` within the same round.
"""

import argparse
import json
import math
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from surgery.files.shards import header_bytes  # nothing heavier: a child's peak memory starts at its parent's

ROOT = Path(__file__).resolve().parents[1]
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "torch_dtype": "bfloat16",
    "vocab_size": 128256,
    "num_key_value_heads": 8,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 131072,
}
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
N_SHARDS = 4
_PATTERN = 16 << 20  # bytes of random values, repeated
_FINITE = bytes((0x3B, 0x3C, 0xBB, 0xBC)[byte % 4] for byte in range(256))  # high bytes of bf16 values near 0.01
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
    n_bytes = write_checkpoint(source, config)
    run([sys.executable, "-c", _MAKE_BASIS, str(config["hidden_size"]), str(arguments.rank), str(basis)])
    os.sync()  # or the first runs pay for writing the source
    print(f"{arguments.shape}: {n_bytes / 1e9:.2f} GB in {N_SHARDS} shards, rank {arguments.rank}", flush=True)
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


def write_checkpoint(folder: Path, config: dict) -> int:
    """Write a checkpoint of finite random bf16 values; returns its bytes of weights."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    tensors = shapes(config)
    total = sum(n_bytes(shape) for shape in tensors.values())
    weight_map: dict[str, str] = {}
    pattern = random_bytes()
    for number, names in enumerate(split(tensors, total / N_SHARDS), start=1):
        file = f"model-{number:05}-of-{N_SHARDS:05}.safetensors"
        weight_map |= dict.fromkeys(names, file)
        write_shard(folder / file, {name: tensors[name] for name in names}, pattern)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    return total


def shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of a Llama, in the order of the released files."""
    d, inner, vocab = (config[key] for key in ("hidden_size", "intermediate_size", "vocab_size"))
    queries = config["num_attention_heads"] * config["head_dim"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, d)}
    for layer in range(config["num_hidden_layers"]):
        block = {
            "input_layernorm": (d,),
            "mlp.down_proj": (d, inner),
            "mlp.gate_proj": (inner, d),
            "mlp.up_proj": (inner, d),
            "post_attention_layernorm": (d,),
            "self_attn.k_proj": (keys, d),
            "self_attn.o_proj": (d, queries),
            "self_attn.q_proj": (queries, d),
            "self_attn.v_proj": (keys, d),
        }
        found |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in block.items()}
    found["model.norm.weight"] = (d,)
    if not config["tie_word_embeddings"]:
        found["lm_head.weight"] = (vocab, d)
    return found


def split(tensors: dict[str, tuple[int, ...]], size: float) -> list[list[str]]:
    """Names in groups of about `size` bytes, `N_SHARDS` of them."""
    groups: list[list[str]] = [[] for _ in range(N_SHARDS)]
    done = 0
    for name, shape in tensors.items():
        groups[min(int(done / size), N_SHARDS - 1)].append(name)
        done += n_bytes(shape)
    return groups


def n_bytes(shape: tuple[int, ...]) -> int:
    """Bytes of a bf16 tensor."""
    return 2 * math.prod(shape)


def random_bytes() -> bytes:
    """Finite bf16 values, little-endian, of the size of trained weights."""
    generator, pattern = random.Random(0), bytearray(_PATTERN)
    pattern[0::2] = generator.randbytes(_PATTERN // 2)
    pattern[1::2] = generator.randbytes(_PATTERN // 2).translate(_FINITE)
    return bytes(pattern)


def write_shard(path: Path, tensors: dict[str, tuple[int, ...]], pattern: bytes) -> None:
    """Write one safetensors file whose tensors are the pattern over and over."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors.items():
        start, end = end, end + n_bytes(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    with open(path, "wb") as out:
        out.write(header_bytes(header))
        for start in range(0, end, _PATTERN):
            out.write(pattern[: min(_PATTERN, end - start)])


if __name__ == "__main__":
    main()
