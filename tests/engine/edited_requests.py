"""Modules of several kinds for one tiny Llama, and what Hugging Face hooks say about a request under them."""

from contextlib import nullcontext

import torch
from tiny_models import D_MODEL, servable_model

from surgery.files.artifacts import save_artifact
from surgery.reading.hooks import ablated
from surgery.residual.subspace import random_subspace

LOGPROB_TOLERANCE = 1e-4  # sums run in another order in the two float32 engines; observed below 3e-5
EFFECT = 1e-2  # an intervention moves some logprob at least this far
BLOCK_SIZE = 32
MAX_MODEL_LEN = 256
VOCAB_SIZE = 260  # of the byte-level tokenizer
RANKS = {"one": 1, "four": 4, "affine": 2, "writes": 4}
INTERVENTIONS = [
    None,
    ("four", 1.0, "all"),
    ("one", 0.5, "1-3"),
    ("affine", 1.0, "all"),
    ("four", 1.5, "0,2"),
    ("writes", 1.0, "all"),
    ("four", 0.5, "all"),
    ("one", 1.0, "all"),
    ("writes", 0.5, "0,2-3"),
    ("one", 1.5, "4"),
    ("affine", 0.5, "2"),
    ("four", 1.0, "1-3"),
]


def keys_of(intervention):
    """The request's keys, None for a request without any."""
    if intervention is None:
        return None
    name, alpha, layers = intervention
    return {"ablation": name, "ablation_alpha": alpha, "ablation_layers": layers}


def prompt(length, seed=0):
    return [4 + (17 * seed + 11 * step) % (VOCAB_SIZE - 4) for step in range(length)]


class Reference:
    """The model of a folder with the modules of an engine on it, in Hugging Face transformers."""

    def __init__(self, folder):
        self.folder = folder / "model"
        self.model = servable_model("LlamaForCausalLM", vocab_size=VOCAB_SIZE, max_position_embeddings=MAX_MODEL_LEN)
        self.model.generation_config.pad_token_id = 0
        self.model.save_pretrained(self.folder)
        self.bases = {name: random_subspace(D_MODEL, rank, seed=rank).basis for name, rank in RANKS.items()}
        self.offset = torch.tensor([0.7, -1.1])
        self.modules = {name: self._saved(folder, name) for name in RANKS}

    def _saved(self, folder, name, force=False):
        offset = {"offset": self.offset} if name == "affine" else {}
        save_artifact(
            folder / f"{name}.safetensors", "subspace", {"basis": self.bases[name], **offset}, {}, force=force
        )
        return {"path": str(folder / f"{name}.safetensors"), "site": "writes" if name == "writes" else "stream"}

    def edited(self, intervention):
        """Context in which the model is under an intervention."""
        if intervention is None:
            return nullcontext()
        name, alpha, layers = intervention
        site = "writes" if name == "writes" else "stream"
        return ablated(self.model, self.bases[name], alpha, layers, site, self.offset if name == "affine" else None)

    def logprobs(self, token_ids, intervention):
        """[n_tokens, vocab_size]: row i is the distribution after token i."""
        with torch.no_grad(), self.edited(intervention):
            return self.model(torch.tensor([token_ids])).logits[0].log_softmax(-1)

    def distance(self, output, completion, intervention):
        """Largest distance of a completion's log probabilities from those under an intervention."""
        token_ids = list(output.prompt_token_ids)
        expected = self.logprobs([*token_ids, *completion.token_ids], intervention)[len(token_ids) - 1 :]
        assert len(completion.logprobs) == len(completion.token_ids) > 0
        return max(
            abs(entry.logprob - float(expected[position, token]))
            for position, step in enumerate(completion.logprobs)
            for token, entry in step.items()
        )

    def generate(self, token_ids, intervention, **arguments):
        """Greedy tokens by `transformers.generate`, whose logits processors are its own."""
        ids = torch.tensor([token_ids])
        with torch.no_grad(), self.edited(intervention):
            found = self.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, **arguments)
        return found[0, len(token_ids) :].tolist()


def start_llm(reference, **arguments):
    """`vllm.LLM` with the reference's modules, as its users have it, in this process."""
    from vllm import LLM

    return LLM(
        **{
            "model": str(reference.folder),
            "dtype": "float32",
            "enforce_eager": True,
            "max_model_len": MAX_MODEL_LEN,
            "block_size": BLOCK_SIZE,
            "distributed_executor_backend": "uni",
            "generation_config": "vllm",
            "additional_config": {"ablation": {"modules": reference.modules}},
        }
        | arguments
    )


def sampling(intervention=None, **arguments):
    from vllm import SamplingParams

    return SamplingParams(**{"temperature": 0, "logprobs": 5, "extra_args": keys_of(intervention)} | arguments)


def run(llm, prompts, params):
    return llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)


def raw_request(name, token_ids, extra_args):
    """What the engine core is sent by a front end that knows nothing of ablations."""
    from vllm import SamplingParams
    from vllm.v1.engine import EngineCoreRequest

    params = SamplingParams(max_tokens=6, temperature=0, ignore_eos=True, extra_args=extra_args)
    empty = dict.fromkeys(("mm_features", "pooling_params", "lora_request", "cache_salt", "data_parallel_rank"))
    return EngineCoreRequest(
        request_id=name, prompt_token_ids=token_ids, sampling_params=params, arrival_time=0.0, **empty
    )
