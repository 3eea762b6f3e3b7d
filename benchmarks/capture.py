#!/usr/bin/env python3
"""Activations from vLLM against transformers, one prompt at a time and batched, in alternating runs on the same prompts.

    VLLM_CPU_OMP_THREADS_BIND=0 python benchmarks/capture.py            # the organism `plain`, float32, one thread

Each of the two engines has a process of its own: vLLM's CPU worker changes how threads run in its process. Prints the start
of each apart, a line for each round, and the median prompts per second by wall clock and by CPU time. Fitting, which is the
same for all, is left out. The prefix cache is off: rounds repeat the prompts.
"""

import argparse
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path

import torch

from surgery.model.chat import prompt_token_ids
from surgery.model.models import describe_model, load_model, load_tokenizer
from surgery.organisms.release import write_organism
from surgery.prompts import load_pairs
from surgery.residual.sites import RESID_POST

NAMES = {"hf": ("sequential", "batched"), "vllm": ("vllm",)}


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a folder with pairs.jsonl; default: the organism `plain`")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--pairs", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=64, help="of transformers")
    parser.add_argument("--threads", type=int, default=1, help="of transformers")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        arguments.model = arguments.model or str(write_organism("plain", Path(folder) / "plain"))
        compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    """Start both processes, then run the three in turn, round by round."""
    context = multiprocessing.get_context("spawn")
    pipes = {}
    for engine in NAMES:
        pipes[engine], theirs = context.Pipe()
        context.Process(target=run, args=(engine, arguments, theirs), daemon=True).start()
        print("{}: {} prompts, start {:.1f} s, {:.1f} CPU-s".format(engine, *pipes[engine].recv()), flush=True)
    rates: dict[str, list[tuple[float, float]]] = {name: [] for names in NAMES.values() for name in names}
    for number in range(-1, arguments.rounds):  # the first warms up
        read = {}
        for engine, names in NAMES.items():
            for name in names:
                pipes[engine].send(name)
                rate, read[name] = pipes[engine].recv()
                rates[name] += [rate] if number >= 0 else []
        apart = abs(read["vllm"] - read["sequential"]).max() / abs(read["sequential"]).max()
        if number >= 0:
            line = ", ".join(f"{name} {kept[-1][0]:.0f} ({kept[-1][1]:.0f})" for name, kept in rates.items())
            print(f"round {number}: prompts/s (per CPU-s) {line}; apart by {apart:.1e}", flush=True)
    for pipe in pipes.values():
        pipe.send(None)
    for name, kept in rates.items():
        wall, cpu = (statistics.median(values) for values in zip(*kept, strict=True))
        print(f"{name:10}  {wall:8.1f} prompts/s  {cpu:8.1f} prompts per CPU-second")


def run(engine: str, arguments: argparse.Namespace, pipe) -> None:
    """One process: say how long the start took, then answer each name with ((prompts/s, per CPU-s), activations)."""
    info, pairs = describe_model(arguments.model), load_pairs(f"{arguments.model}/pairs.jsonl")[: arguments.pairs]
    tokenizer = load_tokenizer(info)
    prompts = [prompt_token_ids(tokenizer, text) for pair in pairs for text in (pair.harmful, pair.safe)]
    wall, cpu = time.perf_counter(), time.process_time()
    sources = started(engine, info, arguments)
    pipe.send((len(prompts), time.perf_counter() - wall, time.process_time() - cpu))
    while (name := pipe.recv()) is not None:
        wall, cpu = time.perf_counter(), time.process_time()
        found = dict(sources[name].activations(prompts, (RESID_POST,), 1))
        spent = time.perf_counter() - wall, time.process_time() - cpu
        read = torch.stack([found[index] for index in range(len(prompts))]).numpy()
        pipe.send((tuple(len(prompts) / seconds for seconds in spent), read))


def started(engine: str, info, arguments: argparse.Namespace) -> dict:
    """The sources of one process by name."""
    if engine == "vllm":
        from vllm_refusal.engine.activation_source import VllmSource

        return {"vllm": VllmSource(info, arguments.dtype, {"enable_prefix_caching": False})}
    from surgery.architecture.table import entry_of
    from surgery.reading.transformers_source import TransformersSource

    torch.set_num_threads(arguments.threads)
    weights, entry = load_model(info, arguments.dtype), entry_of(info.architecture)
    sizes = {"sequential": 1, "batched": arguments.batch_size}
    return {name: TransformersSource(weights, entry, size) for name, size in sizes.items()}


if __name__ == "__main__":
    main()
