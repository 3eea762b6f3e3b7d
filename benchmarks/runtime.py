#!/usr/bin/env python3
"""Run-time ablation against stock vLLM on the same requests, in alternating runs, and against Hugging Face with hooks.

    python benchmarks/runtime.py                                  # tiny model, eager
    python benchmarks/runtime.py --size 100m --compiled --ranks 1 4 16 64
    python benchmarks/runtime.py --size 100m --hf --workloads decode-1 decode-64
    python benchmarks/runtime.py --sweep --compiled               # 32 interventions x 64 prompts as one batch

Weights are random. Times are process CPU time on a CPU (one thread, so that waiting threads count for nothing) and wall
time on a GPU. Each ratio is the median over rounds of (this run / the stock run of the same round), with the lowest and
the highest; the order of the runs rotates. Rank 0 is the control, a second stock engine.
"unused": modules loaded, no request uses one. "same": every request intervened at all layers by one module. "distinct":
every request by an intervention of its own (64 modules x 4 strengths).
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from surgery.artifacts import save_artifact
from surgery.hooks import ablated
from surgery.models import describe_model
from surgery.subspace import random_subspace
from vllm_refusal.engine import Engine, EngineOptions, Request, Sampling

SIZES = {
    "tiny": {"hidden_size": 128, "intermediate_size": 320, "num_hidden_layers": 8, "vocab_size": 1024},
    "100m": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "vocab_size": 16000},
}
ALPHAS = (1.0, 0.5, 1.5, 1.25)
N_MODULES = 64


@dataclass(frozen=True)
class Workload:
    """Requests of equal length."""

    n_requests: int
    n_prompt: int
    n_new: int


WORKLOADS = {
    "decode-1": Workload(1, 2, 16),
    "decode-64": Workload(64, 1, 5),
    "decode-256": Workload(256, 1, 3),
    "prefill-32x64": Workload(32, 64, 1),
}


def main() -> None:
    """Parse, measure, print."""
    arguments = parse()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    with tempfile.TemporaryDirectory() as folder:
        model = write_model(Path(folder) / "model", arguments.size)
        describe(model, arguments)
        (sweep if arguments.sweep else overhead)(arguments, model, Path(folder))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--compiled", action="store_true", help="compile; otherwise eager")
    parser.add_argument("--ranks", type=int, nargs="+", default=[0, 1, 4, 16])
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--cases", nargs="+", choices=["unused", "same", "distinct"], default=["unused", "same"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hf", action="store_true", help="also time Hugging Face generate with hooks, once a round")
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--conditions", type=int, default=32, help="interventions of the sweep")
    parser.add_argument("--new-tokens", type=int, default=16, help="tokens of each answer of the sweep")
    return parser.parse_args()


def write_model(folder: Path, size: str) -> Path:
    """A random Llama that never ends an answer early."""
    torch.manual_seed(0)
    heads = SIZES[size]["hidden_size"] // 64 if size != "tiny" else 4
    config = LlamaConfig(
        **SIZES[size],
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=512,
        eos_token_id=None,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def write_modules(folder: Path, d_model: int, rank: int) -> dict[str, dict[str, Any]]:
    """Settings of N_MODULES random modules of a rank."""
    modules = {}
    for index in range(N_MODULES):
        path = folder / f"rank{rank}-{index}.safetensors"
        save_artifact(path, "subspace", {"basis": random_subspace(d_model, rank, seed=index).basis}, {})
        modules[f"m{index}"] = {"path": str(path)}
    return modules


def start(model: Path, modules: dict[str, dict[str, Any]], arguments: argparse.Namespace) -> Engine:
    """An engine; no modules starts one on which the plugin is without effect."""
    settings = {"max_model_len": 256, "skip_tokenizer_init": True, "enable_prefix_caching": False}
    settings |= {"max_num_batched_tokens": 4096}
    options = EngineOptions(dtype=arguments.dtype, eager=not arguments.compiled, max_num_seqs=256, vllm=settings)
    begun = time.perf_counter()
    engine = Engine(describe_model(model), modules, options)
    print(f"  {len(modules)} modules: started in {time.perf_counter() - begun:.0f} s", flush=True)
    return engine


def requests(workload: Workload, case: str) -> Iterator[Request]:
    """The requests of a workload under a case."""
    for index in range(workload.n_requests):
        token_ids = [3 + (17 * index + 5 * step) % 900 for step in range(workload.n_prompt)]
        yield Request(f"{index}", token_ids, keys(index, case))


def keys(index: int, case: str) -> dict[str, Any]:
    """What one request asks for."""
    if case == "same":
        return {"ablation": "m0"}
    if case == "distinct":
        return {"ablation": f"m{index % N_MODULES}", "ablation_alpha": ALPHAS[index // N_MODULES % len(ALPHAS)]}
    return {}


def answer(engine: Engine, workload: Workload, case: str) -> None:
    """Generate, and see that all was generated."""
    sampling = Sampling(max_tokens=workload.n_new)
    n_tokens = sum(response.n_tokens for response in engine.generate(requests(workload, case), sampling))
    assert n_tokens == workload.n_requests * workload.n_new, n_tokens


def seconds(work: Callable[[], None]) -> float:
    """CPU seconds of this process, or wall seconds where the work is on a GPU."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    begun = clock()
    work()
    return clock() - begun


def overhead(arguments: argparse.Namespace, model: Path, folder: Path) -> None:
    """A line for each rank, workload and case: the ratio to stock."""
    reference = load_reference(model, arguments) if arguments.hf else None
    with start(model, {}, arguments) as stock:
        for rank in arguments.ranks:
            modules = write_modules(folder, SIZES[arguments.size]["hidden_size"], rank) if rank else {}
            with start(model, modules, arguments) as ablating:
                for name in arguments.workloads:
                    compare(rank, name, stock, ablating, arguments, reference)


def compare(
    rank: int, name: str, stock: Engine, ablating: Engine, arguments: argparse.Namespace, reference: Any
) -> None:
    """Alternating rounds of one workload, each run warmed up on few tokens."""
    workload = WORKLOADS[name]
    runs: dict[str, Callable[[], None]] = {"stock": lambda: answer(stock, workload, "unused")}
    cases = arguments.cases if rank else ["unused"]
    runs |= {case: lambda case=case: answer(ablating, workload, case) for case in cases}
    if reference is not None:
        runs["hf"] = lambda: hf_generate(reference, workload, rank)
    for engine in (stock, ablating):
        answer(engine, Workload(min(workload.n_requests, 8), 2, 2), "unused")
    names = list(runs)
    orders = (names[number % len(names) :] + names[: number % len(names)] for number in range(arguments.rounds))
    rounds = [{run: seconds(runs[run]) for run in order} for order in orders]
    stock_ms = 1000 * statistics.median(times["stock"] for times in rounds)
    for run in [run for run in runs if run != "stock"]:
        ratios = [times[run] / times["stock"] for times in rounds]
        print(
            f"  k={rank:<3d}{name:14s}{run:9s} {statistics.median(ratios):.3f} "
            f"({min(ratios):.3f}, {max(ratios):.3f}), stock {stock_ms:.0f} ms",
            flush=True,
        )


def load_reference(model: Path, arguments: argparse.Namespace) -> LlamaForCausalLM:
    """The model in Hugging Face, on the GPU if there is one."""
    loaded = LlamaForCausalLM.from_pretrained(model, dtype=getattr(torch, arguments.dtype)).eval()
    return loaded.to("cuda") if torch.cuda.is_available() else loaded


def hf_generate(
    model: LlamaForCausalLM, workload: Workload, rank: int, alpha: float | None = 1.0, seed: int = 0
) -> None:
    """The same requests as one batch with hooks on every block; alpha None leaves the hooks away."""
    rows = [request.token_ids for request in requests(workload, "unused")]
    ids = torch.tensor(rows, device=model.device)
    basis = random_subspace(model.config.hidden_size, rank, seed=seed).basis
    hooks = nullcontext() if alpha is None else ablated(model, basis.to(model.device), alpha, "all", "stream")
    with torch.inference_mode(), hooks:
        model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=workload.n_new, do_sample=False
        )


def sweep(arguments: argparse.Namespace, model: Path, folder: Path) -> None:
    """Conditions x 64 prompts as one batch, against stock on as many requests and HF condition by condition."""
    rank, n_prompts = max(arguments.ranks), 64
    workload = Workload(arguments.conditions * n_prompts, 16, arguments.new_tokens)
    modules = write_modules(folder, SIZES[arguments.size]["hidden_size"], rank)
    reference = load_reference(model, arguments)
    one_condition = Workload(n_prompts, workload.n_prompt, workload.n_new)

    def by_condition() -> None:
        for condition in range(arguments.conditions):
            hf_generate(reference, one_condition, rank, ALPHAS[condition % len(ALPHAS)], seed=condition)

    with start(model, {}, arguments) as stock, start(model, modules, arguments) as ablating:
        runs = {
            "stock": lambda: answer(stock, workload, "unused"),
            "sweep": lambda: sweep_once(ablating, workload, n_prompts),
            "hf": by_condition,
        }
        for number in range(arguments.rounds):
            times = {run: seconds(work) for run, work in runs.items()}
            print(
                f"  round {number}: {workload.n_requests} requests: stock {times['stock']:.1f} s, "
                f"sweep {times['sweep']:.1f} s, HF {times['hf']:.1f} s "
                f"(throughput {times['stock'] / times['sweep']:.3f} x stock, {times['hf'] / times['sweep']:.2f} x HF)",
                flush=True,
            )


def sweep_once(engine: Engine, workload: Workload, n_prompts: int) -> None:
    """Every condition on every prompt, in one stream of requests."""
    stream = (
        Request(request.id, request.token_ids, keys(int(request.id) // n_prompts, "distinct"))
        for request in requests(workload, "unused")
    )
    n_tokens = sum(item.n_tokens for item in engine.generate(stream, Sampling(max_tokens=workload.n_new)))
    assert n_tokens == workload.n_requests * workload.n_new, n_tokens


def describe(model: Path, arguments: argparse.Namespace) -> None:
    """Say what is measured."""
    mode = "compiled" if arguments.compiled else "eager"
    n_parameters = sum(p.numel() for p in LlamaForCausalLM.from_pretrained(model).parameters()) / 1e6
    unit = "wall time" if torch.cuda.is_available() else f"CPU time, {os.environ['OMP_NUM_THREADS']} thread(s)"
    print(f"Llama, {n_parameters:.1f} M parameters, random, {arguments.dtype}, {mode}, {unit}", flush=True)


if __name__ == "__main__":
    main()
