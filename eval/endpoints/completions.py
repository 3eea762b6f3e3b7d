"""Completions of token ids, as /v1/completions of vLLM gives them: what every request says, what an answer must say."""

from collections.abc import Mapping
from typing import Any

from eval.endpoints.replica import Fault, Refused, Replica
from eval.endpoints.served_models import ServedModels, ServersError

SILENT_SECONDS, LISTING_SECONDS = 1800.0, 30.0
NEUTRAL = {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
"""Sent always: a server would else apply what the model's generation_config.json says, and an engine of ours does not."""


async def ask_models(replica: Replica, served_model: str | None) -> ServedModels:
    """What a server says it serves. Raises: Fault; ServersError when it refuses or lists no such unedited model."""
    try:
        listing = await replica.ask("models", seconds=LISTING_SECONDS)
    except Refused as refused:
        raise ServersError(f"{replica.url}/models: {refused}{_key_hint(refused)}") from refused
    return ServedModels.from_listing(replica.url, listing, served_model)


async def complete(replica: Replica, body: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The choice and the usage of one completion.

    Raises: Fault; ServersError when the server refuses the request, or another model answered.
    """
    try:
        reply = await replica.ask("completions", body)
    except Refused as refused:
        raise ServersError(f"{replica.url} refuses a request: {refused}{_key_hint(refused)}") from refused
    try:
        (choice,), answered, usage = reply["choices"], reply["model"], reply.get("usage") or {}
    except (TypeError, KeyError, ValueError, AttributeError) as err:
        raise Fault(f"its answer is no completion ({type(err).__name__})") from err
    if answered != body["model"]:
        raise ServersError(f"{replica.url} answered by model {answered!r} where {body['model']!r} was asked for")
    return choice, usage


def _key_hint(refused: Refused) -> str:
    return "; is the right key in the variable of --api-key-env?" if refused.of_key else ""
