#!/usr/bin/env python3
"""Extraction batched against sequential, in alternating pairs of runs on the same model and prompts.

    python benchmarks/extraction.py                          # the organism `plain`, float32
    python benchmarks/extraction.py --shape llama-3.2-1b --pairs 24 --rounds 3
    python benchmarks/extraction.py --shape llama-3.2-1b --pairs 24 --rounds 3 --no-system-header
    python benchmarks/extraction.py --memory                 # peak memory against the number of pairs

Prints a line for each pair of runs, with wall-clock and CPU seconds, and the median ratios; the largest relative
difference of the vectors is beside it. The llama-3.2-1b shape has random weights, the built-in prompts, and a chat template
whose text is that of Llama 3.2: a system header with two dates before the user's text. Its tokenizer splits text as that of
Llama 3 does before merging (every common word is one token there), so that prompts have about their real lengths.
"""

import argparse
import resource
import statistics
import tempfile
import time
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from surgery.model.chat import prompt_token_ids
from surgery.model.models import ModelInfo, describe_model, load_model, load_tokenizer
from surgery.organisms.release import write_organism
from surgery.prompts import Pair, load_pairs
from surgery.residual.vectors import RefusalVectors
from surgery.statistics.extraction import ExtractionPlan, extract

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
SYSTEM_HEADER = (
    "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
    "<|eot_id|>"
)
TEMPLATE = (
    "<|begin_of_text|>{header}"
    "{{% for m in messages %}}<|start_header_id|>user<|end_header_id|>\n\n{{{{ m['content'] }}}}<|eot_id|>{{% endfor %}}"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)
SPECIAL = ["<|unknown|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
# The split of Llama 3's tokenizer, before byte pairs are merged.
PIECES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=["organism", "llama-3.2-1b"], default="organism")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--pairs", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-system-header", action="store_true", help="of the llama-3.2-1b shape's template")
    parser.add_argument("--memory", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        prepare = organism if arguments.shape == "organism" else llama_1b
        model, tokenizer, info, pairs = prepare(arguments, Path(folder))
        if torch.cuda.is_available():
            model = model.to("cuda")
        measure = memory if arguments.memory else speed
        measure(arguments, model, tokenizer, info, pairs[: arguments.pairs])


def organism(arguments: argparse.Namespace, folder: Path):
    """(model, tokenizer, its description, pairs) of the organism `plain`."""
    plain = write_organism("plain", folder / "organism")
    info = describe_model(plain)
    return load_model(info, arguments.dtype), load_tokenizer(info), info, load_pairs(plain / "pairs.jsonl")


def llama_1b(arguments: argparse.Namespace, folder: Path):
    """The same of Llama-3.2-1B's shape with random weights, and the built-in pairs."""
    torch.manual_seed(0)
    model = LlamaForCausalLM._from_config(LlamaConfig(**LLAMA_1B), dtype=getattr(torch, arguments.dtype)).eval()
    info = ModelInfo(arguments.shape, None, "", "LlamaForCausalLM", 2048, 16, 128256, arguments.dtype, "random weights")
    pairs = load_pairs("builtin")
    return model, llama_tokenizer(pairs, "" if arguments.no_system_header else SYSTEM_HEADER), info, pairs


def llama_tokenizer(pairs: list[Pair], header: str) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are the pieces that Llama 3's splits text into, with a template like Llama 3.2's."""
    split = pre_tokenizers.Split(Regex(PIECES), "isolated")
    texts = [header, "user\n\n", "assistant\n\n", *(text for pair in pairs for text in (pair.harmful, pair.safe))]
    pieces = dict.fromkeys(piece for text in texts for piece, _ in split.pre_tokenize_str(text))
    vocabulary = {piece: number for number, piece in enumerate([*SPECIAL, *pieces])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL[0]))
    tokenizer.pre_tokenizer = split
    tokenizer.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=TEMPLATE.format(header=header))


def speed(arguments: argparse.Namespace, model, tokenizer, info: ModelInfo, pairs: list[Pair]) -> None:
    """Time sequential and batched runs in turn."""
    n_tokens = [len(prompt_token_ids(tokenizer, text)) for pair in pairs for text in (pair.harmful, pair.safe)]
    print(
        f"{info.model}, {arguments.dtype}, {model.device}, {torch.get_num_threads()} thread(s), {len(n_tokens)} prompts of "
        f"{min(n_tokens)}-{max(n_tokens)} tokens (mean {statistics.mean(n_tokens):.1f}), batches of at most "
        f"{arguments.batch_size}"
    )
    extract(model, tokenizer, pairs[:2], info)  # warm up
    ratios = []
    for number in range(arguments.rounds):
        alone, sequential = timed(model, tokenizer, info, pairs, 1)
        together, batched = timed(model, tokenizer, info, pairs, arguments.batch_size)
        if number == 0:
            print(f"shared prefix: {batched.header['shared_prefix_tokens']} tokens")
        ratios.append([a / b for a, b in zip(alone, together, strict=True)])
        apart = ((sequential.vectors - batched.vectors).abs().max() / sequential.vectors.abs().max()).item()
        print(
            f"round {number}: {alone[0]:.2f} s, {together[0]:.2f} s, ratio {ratios[-1][0]:.2f}; CPU {alone[1]:.2f} s, "
            f"{together[1]:.2f} s, ratio {ratios[-1][1]:.2f}; relative difference {apart:.1e}"
        )
    for name, values in zip(("wall clock", "CPU"), zip(*ratios, strict=True), strict=True):
        print(
            f"median ratio, {name}: {statistics.median(values):.2f} (lowest {min(values):.2f}, highest {max(values):.2f})"
        )


def timed(
    model, tokenizer, info: ModelInfo, pairs: list[Pair], batch_size: int
) -> tuple[tuple[float, float], RefusalVectors]:
    """((wall-clock seconds, CPU seconds), vectors) of one extraction."""
    start = time.perf_counter(), time.process_time()
    rvs = extract(model, tokenizer, pairs, info, plan=ExtractionPlan(batch_size=batch_size))
    return (time.perf_counter() - start[0], time.process_time() - start[1]), rvs


def memory(arguments: argparse.Namespace, model, tokenizer, info: ModelInfo, pairs: list[Pair]) -> None:
    """Peak memory of growing extractions in one process: it stays where it was when memory does not grow."""
    for copies in (1, 4, 16, 64):
        many = [Pair(f"{pair.id}-{copy}", pair.harmful, pair.safe) for copy in range(copies) for pair in pairs]
        extract(model, tokenizer, many, info, plan=ExtractionPlan(batch_size=arguments.batch_size, positions="all"))
        spilled = 2 * len(many) * info.n_layers * info.d_model * 4 * 2 / 2**20
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{len(many):6d} pairs: peak {peak:.0f} MiB (activations {spilled:.0f} MiB)")


if __name__ == "__main__":
    main()
