#!/usr/bin/env python3
"""Run-time ablation against stock vLLM on the same requests, in alternating runs, and against Hugging Face with hooks.

    python benchmarks/runtime.py                                  # tiny model, eager
    python benchmarks/runtime.py --size 100m --compiled --ranks 1 4 16 64
    python benchmarks/runtime.py --size 100m --hf --workloads decode-1 decode-64
    python benchmarks/runtime.py --sweep --compiled               # 32 interventions x 64 prompts as one batch
    python benchmarks/runtime.py --sweep --ending 50 --size 100m --conditions 4 --new-tokens 256

Weights are random. Times are process CPU time on a CPU (one thread, so that waiting threads count for nothing) and wall
time on a GPU. Each ratio is the median over rounds of (this run / the stock run of the same round), with the lowest and
the highest; the order of the runs rotates. Rank 0 is the control, a second stock engine.
"unused": modules loaded, no request uses one. "same": every request intervened at all layers by one module. "distinct":
every request by an intervention of its own (64 modules x 4 strengths). With --ending, answers are sampled and end by
themselves after that many tokens on average, as a chat model's do; throughput is then of answer tokens.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from surgery.files.artifacts import save_artifact
from surgery.model.models import describe_model
from surgery.reading.hooks import ablated
from surgery.residual.subspace import random_subspace
from vllm_refusal.engine.engine import Engine, EngineOptions, Request, Sampling

SIZES = {
    "tiny": {"hidden_size": 128, "intermediate_size": 320, "num_hidden_layers": 8, "vocab_size": 1024},
    "100m": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "vocab_size": 16000},
}
ALPHAS = (1.0, 0.5, 1.5, 1.25)
N_MODULES = 64


@dataclass(frozen=True)
class Workload:
    """Requests with prompts of equal length; answers are of `n_new` tokens, or sampled and `ends`: at most that."""

    n_requests: int
    n_prompt: int
    n_new: int
    ends: bool = False

    @property
    def sampling(self) -> Sampling:
        """How the answers are decoded."""
        return Sampling(max_tokens=self.n_new, temperature=1.0 if self.ends else 0.0)


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
        model = write_model(Path(folder) / "model", arguments.size, arguments.ending)
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
    parser.add_argument("--new-tokens", type=int, default=16, help="tokens of each answer of the sweep, at most")
    parser.add_argument("--ending", type=int, help="mean tokens of an answer of the sweep; otherwise all are as long")
    return parser.parse_args()


def write_model(folder: Path, size: str, ending: int | None = None) -> Path:
    """A random Llama; of its tokens one in `ending` ends an answer, or none does."""
    torch.manual_seed(0)
    heads = SIZES[size]["hidden_size"] // 64 if size != "tiny" else 4
    config = LlamaConfig(
        **SIZES[size],
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=512,
        eos_token_id=list(range(1, SIZES[size]["vocab_size"], ending)) if ending else None,
        pad_token_id=0,
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
    settings = {"max_model_len": 512, "skip_tokenizer_init": True, "enable_prefix_caching": False}
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


def answer(engine: Engine, workload: Workload, case: str) -> int:
    """Generate, and see that all was generated; returns how many tokens."""
    return answered(engine, workload, requests(workload, case))


def answered(engine: Engine, workload: Workload, stream: Iterable[Request]) -> int:
    """Answer the requests of a workload; returns how many tokens."""
    n_tokens = [response.n_tokens for response in engine.generate(stream, workload.sampling)]
    assert len(n_tokens) == workload.n_requests, len(n_tokens)
    assert workload.ends or sum(n_tokens) == workload.n_requests * workload.n_new, sum(n_tokens)
    return sum(n_tokens)


def seconds(work: Callable[[], object]) -> float:
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
    runs: dict[str, Callable[[], int]] = {"stock": lambda: answer(stock, workload, "unused")}
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
) -> int:
    """The same requests as one batch with hooks on every block; alpha None leaves the hooks away. Returns tokens."""
    rows = [request.token_ids for request in requests(workload, "unused")]
    ids = torch.tensor(rows, device=model.device)
    basis = random_subspace(model.config.hidden_size, rank, seed=seed).basis
    hooks = nullcontext() if alpha is None else ablated(model, basis.to(model.device), alpha, "all", "stream")
    decoding = {"do_sample": True, "temperature": 1.0, "top_k": 0} if workload.ends else {"do_sample": False}
    with torch.inference_mode(), hooks:
        found = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=workload.n_new, **decoding
        )
    return int(lengths(found[:, ids.shape[1] :], model.config.eos_token_id).sum())


def lengths(answers: torch.Tensor, ends: list[int] | None) -> torch.Tensor:
    """Tokens of each answer [n_requests], its end included, of padded answers [n_requests, n_new]."""
    ended = torch.isin(answers, torch.tensor(ends or [], device=answers.device)).long().cumsum(1)
    return ((ended == 0).sum(1) + (ended > 0).any(1)).long()


def sweep(arguments: argparse.Namespace, model: Path, folder: Path) -> None:
    """Conditions x 64 prompts as one batch, against stock on as many requests and HF condition by condition."""
    rank, n_prompts = max(arguments.ranks), 64
    ends = arguments.ending is not None
    workload = Workload(arguments.conditions * n_prompts, 16, arguments.new_tokens, ends)
    one_condition = replace(workload, n_requests=n_prompts)
    modules = write_modules(folder, SIZES[arguments.size]["hidden_size"], rank)
    reference = load_reference(model, arguments)

    def by_condition() -> int:
        alphas = [ALPHAS[condition % len(ALPHAS)] for condition in range(arguments.conditions)]
        return sum(hf_generate(reference, one_condition, rank, alpha, seed) for seed, alpha in enumerate(alphas))

    with start(model, {}, arguments) as stock, start(model, modules, arguments) as ablating:
        runs = {
            "stock": lambda: answer(stock, workload, "unused"),
            "sweep": lambda: answered(ablating, workload, condition_stream(workload, n_prompts)),
            "hf": by_condition,
        }
        for number in range(arguments.rounds):
            rates = {run: tokens_per_second(work) for run, work in runs.items()}
            print(
                f"  round {number}: {workload.n_requests} requests, tokens/s: stock {rates['stock']:.0f}, "
                f"sweep {rates['sweep']:.0f}, HF {rates['hf']:.0f} "
                f"(sweep {rates['sweep'] / rates['stock']:.3f} x stock, {rates['sweep'] / rates['hf']:.2f} x HF)",
                flush=True,
            )


def condition_stream(workload: Workload, n_prompts: int) -> Iterator[Request]:
    """Every condition on every prompt, in one stream of requests."""
    for request in requests(workload, "unused"):
        yield Request(request.id, request.token_ids, keys(int(request.id) // n_prompts, "distinct"))


def tokens_per_second(work: Callable[[], int]) -> float:
    """Answer tokens per second of `seconds`."""
    n_tokens: list[int] = []
    elapsed = seconds(lambda: n_tokens.append(work()))
    return n_tokens[0] / elapsed


def describe(model: Path, arguments: argparse.Namespace) -> None:
    """Say what is measured."""
    mode = "compiled" if arguments.compiled else "eager"
    n_parameters = sum(p.numel() for p in LlamaForCausalLM.from_pretrained(model).parameters()) / 1e6
    unit = "wall time" if torch.cuda.is_available() else f"CPU time, {os.environ['OMP_NUM_THREADS']} thread(s)"
    print(f"Llama, {n_parameters:.1f} M parameters, random, {arguments.dtype}, {mode}, {unit}", flush=True)


if __name__ == "__main__":
    main()
