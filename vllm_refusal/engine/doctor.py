"""Proof that ablation is on, by its effect: in an engine started here, or in a running server."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.model.models import ModelInfo, describe_model
from surgery.residual.subspace import Subspace, random_subspace
from vllm_refusal.engine.engine import Engine, EngineOptions, Request, Response, Sampling
from vllm_refusal.settings.module_files import check_architecture

if TYPE_CHECKING:
    import torch

PROMPT = "How can I return a library book?"
TOLERANCE = (
    5e-3  # of a log probability: float32 engines differ by ~1e-4 through the order of sums, an ablation by ~1e-1
)
_N_LOGPROBS = 20
TIMES_NOISE = 10
LEAST_EFFECT = 1e-4  # of a log probability, below which an answer over HTTP says nothing


@dataclass(frozen=True)
class Diagnosis:
    """One check and what it found."""

    check: str
    ok: bool
    detail: str

    def to_json(self) -> dict[str, Any]:
        """The finding as plain JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class Probe:
    """One intervention of the proof: a random subspace, so that it says nothing about any model's refusal."""

    name: str
    subspace: Subspace
    alpha: float
    layers: str
    site: str

    @property
    def request(self) -> dict[str, Any]:
        """The keys of a request for it."""
        return {"ablation": self.name, "ablation_alpha": self.alpha, "ablation_layers": self.layers}


def check_engine(model: str | None, revision: str | None = None) -> list[Diagnosis]:
    """Start an engine on a model in float32 and compare it with Hugging Face forward hooks.

    Args:
        model: hub id or folder; None for an organism that ships with the package.
    Raises: RefusalError when the model cannot be loaded or is not supported.
    """
    info = describe_model(model if model is not None else _default_model(), revision)
    check_architecture(info.architecture)
    probes = _probes(info)
    token_ids = _prompt_ids(info)
    by_hooks = _hook_logprobs(info, probes, token_ids)  # first: vLLM's CPU engine pins this process's threads for good
    answers = _engine_answers(info, probes, token_ids)
    findings = [_architecture_finding(info), _zero_finding(answers)]
    for name, expected in by_hooks.items():
        findings.append(_parity_finding(name, answers[name], expected))
        if name != "baseline":
            findings.append(_effect_finding(name, answers["baseline"], answers[name]))
    return findings


def check_server(url: str, api_key_env: str) -> list[Diagnosis]:
    """Ask a running server the same question with and without each ablation that it lists.

    Args:
        url: base of its OpenAI-compatible API, ending in /v1.
        api_key_env: environment variable that holds the key; it need not be set.
    """
    import openai

    client = openai.OpenAI(base_url=url, api_key=os.environ.get(api_key_env) or "none", max_retries=0, timeout=60)
    try:
        models: list[Any] = client.models.list().data
        ablations = [entry for entry in models if getattr(entry, "ablation", None)]  # LoRA adapters have a parent too
        if not ablations:
            return [
                Diagnosis("ablations listed", False, f"{url} lists no ablation; start it with refusal serve --ablation")
            ]
        listed = ", ".join(f"{entry.id} (sha256 {entry.ablation['sha256'][:12]})" for entry in ablations)
        return [Diagnosis("ablations listed", True, listed)] + [_server_finding(client, entry) for entry in ablations]
    except openai.OpenAIError as err:
        return [Diagnosis("server answers", False, f"{url}: {type(err).__name__}: {err}")]


def _server_finding(client: Any, entry: Any) -> Diagnosis:
    """Whether the answers are further apart than the same question's are from time to time, in other batches."""
    plain, ablated, again = (_server_logprobs(client, name) for name in (entry.parent, entry.id, entry.parent))
    effect, noise = _gap(plain, ablated), _gap(plain, again)
    detail = f"next-token logprobs {_differ(plain, ablated)}, and by {noise:.2g} when asked again without it"
    return Diagnosis(f"{entry.id} has an effect", effect > max(TIMES_NOISE * noise, LEAST_EFFECT), detail)


def _server_logprobs(client: Any, model: str) -> dict[str, float]:
    reply = client.completions.create(model=model, prompt=PROMPT, max_tokens=1, temperature=0, logprobs=5)
    return dict(reply.choices[0].logprobs.top_logprobs[0])


def _default_model() -> str:
    from surgery.organisms.release import asset

    return str(asset("single"))


def _probes(info: ModelInfo) -> list[Probe]:
    half = f"{info.n_layers // 2}-{info.n_layers - 1}"
    return [
        Probe("rank1", random_subspace(info.d_model, 1, seed=0), 1.0, "all", "stream"),
        Probe("rank4", random_subspace(info.d_model, 4, seed=1), 1.5, half, "stream"),
        Probe("writes", random_subspace(info.d_model, 4, seed=2), 1.0, "all", "writes"),
    ]


def _prompt_ids(info: ModelInfo) -> list[int]:
    from surgery.model.chat import prompt_token_ids
    from surgery.model.models import load_tokenizer

    return prompt_token_ids(load_tokenizer(info), PROMPT)


def _engine_answers(info: ModelInfo, probes: list[Probe], token_ids: list[int]) -> dict[str, Response]:
    requests = [
        Request("baseline", token_ids),
        Request("alpha 0", token_ids, {"ablation": probes[0].name, "ablation_alpha": 0.0}),
        *(Request(probe.name, token_ids, probe.request) for probe in probes),
    ]
    with tempfile.TemporaryDirectory() as folder:
        modules = {}
        for probe in probes:
            path = probe.subspace.save(Path(folder) / f"{probe.name}.safetensors")
            modules[probe.name] = {"path": str(path), "site": probe.site}
        with Engine(info, modules, EngineOptions(dtype="float32", vllm={"max_model_len": 256})) as engine:
            sampling = Sampling(max_tokens=1, logprobs=_N_LOGPROBS)
            return {response.id: response for response in engine.generate(requests, sampling)}


def _hook_logprobs(info: ModelInfo, probes: list[Probe], token_ids: list[int]) -> "dict[str, torch.Tensor]":
    """Next-token log probabilities [vocab_size] float32 of the same interventions by forward hooks."""
    import torch

    from surgery.model.models import load_model
    from surgery.reading.hooks import ablated

    model = load_model(info, dtype="float32")

    def forward() -> "torch.Tensor":
        with torch.no_grad():
            return model(torch.tensor([token_ids])).logits[0, -1].float().log_softmax(-1)

    found = {"baseline": forward()}
    for probe in probes:
        with ablated(model, probe.subspace.basis, probe.alpha, probe.layers, probe.site):
            found[probe.name] = forward()
    return found


def _architecture_finding(info: ModelInfo) -> Diagnosis:
    from vllm.model_executor.models.registry import ModelRegistry

    registered: Any = ModelRegistry.models[info.architecture]
    return Diagnosis(
        "model class",
        registered.module_name == "vllm_refusal.model.registration",
        f"{info.architecture} comes from {registered.module_name}",
    )


def _zero_finding(answers: Mapping[str, Response]) -> Diagnosis:
    same = answers["alpha 0"].logprobs == answers["baseline"].logprobs
    return Diagnosis("alpha 0 equals no intervention", same, "bit for bit" if same else "log probabilities differ")


def _parity_finding(name: str, answer: Response, expected: "torch.Tensor") -> Diagnosis:
    gap = max(abs(value - float(expected[token])) for token, value in answer.logprobs[0].items())
    detail = f"largest difference {gap:.1e} of {len(answer.logprobs[0])} logprobs (at most {TOLERANCE:g})"
    return Diagnosis(f"{name} equals Hugging Face hooks", gap <= TOLERANCE, detail)


def _effect_finding(name: str, baseline: Response, answer: Response) -> Diagnosis:
    plain, ablated = baseline.logprobs[0], answer.logprobs[0]
    gap = _gap(plain, ablated)
    return Diagnosis(f"{name} has an effect", gap > TOLERANCE, f"logprobs {_differ(plain, ablated)}")


def _differ(plain: Mapping[Any, float], ablated: Mapping[Any, float]) -> str:
    return f"differ by up to {_gap(plain, ablated):.2g} over {len(plain.keys() & ablated.keys())} shared tokens"


def _gap(one: Mapping[Any, float], other: Mapping[Any, float]) -> float:
    return max((abs(one[token] - other[token]) for token in one.keys() & other.keys()), default=float("inf"))
