"""Proof that a running engine removes what its modules say.

At strength 1 the next block receives a stream with |x B^T - c| = 0 within the dtype's rounding, and so do the norms behind
writes, while a request without an intervention in the same batch stays far from it. That holds whatever the weights are,
and fails for a plugin that is off, an edit at another block, a wrong gain, and rows of another request. It is read by hooks,
which see what runs uncompiled; a compiled graph must then answer as the watched run did.
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from typing import Any
from uuid import uuid4

from surgery.console.errors import RefusalError
from vllm_refusal.model.worker import ask_workers
from vllm_refusal.settings.modules import NONE, AblationConfig, AblationModule

proving: ContextVar[AblationConfig | None] = ContextVar("vllm_refusal_proving", default=None)
"""Set while a module is proven that no client can ask for yet: requests of this context are admitted under it."""

ROUNDING = {"torch.float32": 1e-5, "torch.bfloat16": 2**-8, "torch.float16": 2**-10}
"""What may be left, as a part of the stream's length; in float32 and bfloat16 3e-8 and 5e-4 were observed."""
CLEAR = 2.0
"""How many times that the control must be for a layer to say anything."""

METHOD = "prove_ablations"
"""Asked of an engine core by `collective_rpc`: {"proven": names, "fault": one line or None}."""


Logprobs = dict[int, float]
Steps = Generator[str, Any, None]


class NoEffectError(RefusalError):
    """The engine does not remove what a module says, or nothing shows that it does."""


def steps(modules: Sequence[AblationModule], dtype: str) -> Steps:
    """One proof, whoever asks the engine: yields "watch_ablations", "answers", "watched_ablations", "answers".

    It is to be sent what every worker of one engine answers to those methods, and for "answers" the log probabilities of
    a first token by token: without an intervention, and under each module at strength 1.
    Raises: NoEffectError naming the module.
    """
    can_watch = all((yield "watch_ablations"))
    watched = yield "answers"
    seen = yield "watched_ablations"
    running = yield "answers"
    for number, module in enumerate(modules, start=1):
        if can_watch:
            rows = [row for worker in seen for row in worker if row[0] == module.name]
            is_clear = _check_left(module, rows, ROUNDING[dtype])
            _check_same(module, running[number], watched[number], watched[0], running[0])
        else:
            is_clear = False
        if not is_clear and running[number] == running[0]:  # the stream says nothing, so the answer must
            raise NoEffectError(f"{_named(module)} has no effect on the model's output; {HINT}")


HINT = "is the vllm-refusal plugin loaded in the engine's processes (VLLM_PLUGINS)?"


def check_proven(modules: Sequence[str], answers: Sequence[Any]) -> None:
    """Raises: NoEffectError unless every engine core answered METHOD with all of these modules."""
    for answer in answers:
        if not isinstance(answer, Mapping):
            raise NoEffectError(f"vLLM runs without ablation though it was asked for; {HINT}")
        if answer["fault"]:
            raise NoEffectError(answer["fault"])
        missing = sorted(set(modules) - set(answer["proven"]))
        if missing:
            raise NoEffectError(f"ablation {missing[0]!r} is not proven by every engine; {HINT}")


def _check_left(module: AblationModule, rows: Sequence[Sequence[Any]], rounding: float) -> bool:
    """Whether the control showed at some layer that there was anything to remove. Raises: NoEffectError where it is left."""
    measured = {row[2] for row in rows if row[1] == module.site}
    missing = sorted(set(module.layers) - measured)
    if missing:
        raise NoEffectError(f"{_named(module)}: nothing was seen of it at layer {missing[0]}; {HINT}")
    clear = [row for row in rows if row[4] > CLEAR * rounding]
    for _, site, layer, left, control in clear:
        if left > rounding:
            raise NoEffectError(
                f"{_named(module)} leaves {left:.2g} of the {site} in its subspace at layer {layer}, where {control:.2g} "
                f"is without it and at most {rounding:.1g} may be; {HINT}"
            )
    return bool(clear)


def _check_same(
    module: AblationModule, running: Logprobs, watched: Logprobs, watched_plain: Logprobs, running_plain: Logprobs
) -> None:
    """The engine as it runs, compiled or not, answers as the watched one did and not as the plain one."""
    noise, effect = _distance(running_plain, watched_plain), _distance(watched, watched_plain)
    if effect > 10 * noise and _distance(running, watched) > _distance(running, watched_plain) / 2:
        raise NoEffectError(f"{_named(module)} has no effect on the compiled model's output; {HINT}")


def _distance(one: Logprobs, other: Logprobs) -> float:
    shared = one.keys() & other.keys()
    return max((abs(one[token] - other[token]) for token in shared), default=float("inf"))


def _named(module: AblationModule) -> str:
    return f"ablation {module.name!r} ({module.path})"


def probe_ids(vocabulary: int) -> list[int]:
    """The tokens of the prompt that is asked."""
    return [(7919 * step) % vocabulary for step in range(1, 9)]


def probe_params(name: str) -> Any:
    """vLLM's sampling parameters of one question: one token, its likeliest alternatives."""
    from vllm import SamplingParams

    keys = {"ablation": name} if name == NONE else {"ablation": name, "ablation_alpha": 1.0}
    return SamplingParams(max_tokens=1, temperature=0, logprobs=5, detokenize=False, extra_args=keys)


async def prove_module(client: Any, module: AblationModule) -> None:
    """Prove one module of a server, on each of its engines.

    Raises: NoEffectError naming the module.
    """
    n_engines = len(client.engine_core.core_engines)  # more than one under data parallelism, each with its own workers
    for rank in range(n_engines):
        await _prove_on(client, module, rank, rank if n_engines > 1 else None)


async def _prove_on(client: Any, module: AblationModule, engine: int, rank: int | None) -> None:
    proof = steps([module], str(client.model_config.dtype))
    asked = next(proof)
    try:
        while True:
            if asked == "answers":
                found: Any = [await _probe(client, name, rank) for name in (NONE, module.name)]
            else:
                found = (await ask_workers(client, asked))[engine]
            asked = proof.send(found)
    except StopIteration:
        return
    except BaseException:
        with suppress(Exception):
            await ask_workers(client, "watched_ablations")  # no hook stays
        raise


async def _probe(client: Any, name: str, rank: int | None) -> Logprobs:
    from vllm.inputs import tokens_input

    prompt = tokens_input(probe_ids(client.model_config.get_vocab_size()))
    request_id = f"vllm-refusal-proof-{uuid4().hex}"
    async for output in client.generate(prompt, probe_params(name), request_id=request_id, data_parallel_rank=rank):
        last = output
    return _logprobs(last)


def _logprobs(output: Any) -> Logprobs:
    return {token: entry.logprob for token, entry in output.outputs[0].logprobs[0].items()}
