#!/usr/bin/env python3
"""Extraction batched against sequential, in alternating pairs of runs on the same model and prompts.

    python benchmarks/extraction.py                          # the organism `plain`, float32
    python benchmarks/extraction.py --shape llama-3.2-1b --pairs 12 --rounds 3
    python benchmarks/extraction.py --memory                 # peak memory against the number of pairs

Prints a line for each pair of runs and the median ratio; the largest relative difference of the vectors is beside it.
"""

import argparse
import resource
import statistics
import tempfile
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from surgery.extraction import Plan, extract
from surgery.models import ModelInfo, describe_model, load_model, load_tokenizer
from surgery.organisms.release import write_organism
from surgery.prompts import Pair, load_pairs

LLAMA_1B = {
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "tie_word_embeddings": True,
}


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=["organism", "llama-3.2-1b"], default="organism")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--pairs", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        model, tokenizer, info, pairs = prepare(arguments, write_organism("plain", Path(folder) / "organism"))
        measure = memory if arguments.memory else speed
        measure(arguments, model, tokenizer, info, pairs)


def prepare(arguments: argparse.Namespace, organism: Path):
    """(model, tokenizer, its description, pairs), on the GPU if there is one."""
    info = describe_model(organism)
    model, tokenizer = load_model(info, arguments.dtype), load_tokenizer(info)
    if arguments.shape != "organism":
        torch.manual_seed(0)
        model = LlamaForCausalLM._from_config(LlamaConfig(**LLAMA_1B), dtype=getattr(torch, arguments.dtype)).eval()
        info = ModelInfo(
            arguments.shape, None, "", "LlamaForCausalLM", 2048, 16, 128256, arguments.dtype, "random weights"
        )
    if torch.cuda.is_available():
        model = model.to("cuda")
    return model, tokenizer, info, load_pairs(organism / "pairs.jsonl")[: arguments.pairs]


def speed(arguments: argparse.Namespace, model, tokenizer, info: ModelInfo, pairs: list[Pair]) -> None:
    """Time sequential and batched runs in turn."""
    n_tokens = [len(tokenizer(pair.harmful)["input_ids"]) for pair in pairs]
    print(
        f"{info.model}, {arguments.dtype}, {model.device}, {torch.get_num_threads()} thread(s), {len(pairs)} pairs of "
        f"{min(n_tokens)}-{max(n_tokens)} tokens, batches of at most {arguments.batch_size}"
    )
    ratios = []
    extract(model, tokenizer, pairs[:2], info)  # warm up
    for number in range(arguments.rounds):
        (alone, sequential), (together, batched) = (
            timed(model, tokenizer, info, pairs, size) for size in (1, arguments.batch_size)
        )
        ratios.append(alone / together)
        apart = ((sequential - batched).abs().max() / sequential.abs().max()).item()
        print(
            f"round {number}: {alone:.2f} s, {together:.2f} s, ratio {ratios[-1]:.2f}, relative difference {apart:.1e}"
        )
    print(f"median ratio {statistics.median(ratios):.2f} (lowest {min(ratios):.2f}, highest {max(ratios):.2f})")


def timed(model, tokenizer, info: ModelInfo, pairs: list[Pair], batch_size: int) -> tuple[float, torch.Tensor]:
    """(seconds, vectors) of one extraction."""
    start = time.perf_counter()
    rvs = extract(model, tokenizer, pairs, info, plan=Plan(batch_size=batch_size))
    return time.perf_counter() - start, rvs.vectors


def memory(arguments: argparse.Namespace, model, tokenizer, info: ModelInfo, pairs: list[Pair]) -> None:
    """Peak memory of growing extractions in one process: it stays where it was when memory does not grow."""
    for copies in (1, 4, 16, 64):
        many = [Pair(f"{pair.id}-{copy}", pair.harmful, pair.safe) for copy in range(copies) for pair in pairs]
        extract(model, tokenizer, many, info, plan=Plan(batch_size=arguments.batch_size, positions="all"))
        spilled = 2 * len(many) * info.n_layers * info.d_model * 4 * 2 / 2**20
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{len(many):6d} pairs: peak {peak:.0f} MiB (activations {spilled:.0f} MiB)")


if __name__ == "__main__":
    main()
