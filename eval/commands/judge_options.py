"""The options that choose a judge, for every command that judges."""

import math
from typing import Any

import click

from eval.endpoints.address import BASE_URL, KEY_ENV

PRESET_NAMES = ("standard", "refusal-3way", "strongreject-style", "wildguard", "llamaguard", "harmbench-classifier")


class Temperature(click.ParamType[float | None]):
    """A number, or "none" to leave the temperature to the endpoint."""

    name = "number|none"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | None:
        """Read the option."""
        if str(value).lower() == "none":
            return None
        return Finite(0, 2).convert(value, param, ctx)


class Finite(click.FloatRange):
    """A number in a range, which NaN and infinity are not."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read the option."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):  # NaN lies in no range, but FloatRange lets it pass
            self.fail(f"{value!r} is not a number", param, ctx)
        return number


def judge_options(command: Any) -> Any:
    """The options that choose a judge, for every command that judges; `choose_judge` reads them.

    Where `command` is `judge` itself, the options that no other command has do also without their prefix.
    """
    own = command.__name__ == "judge"
    for name, settings in reversed(_OPTIONS.items()):
        short, field = name.removeprefix("--judge-"), name.removeprefix("--").replace("-", "_")
        names = [f"--{short}"] if own and short not in _PREFIXED else []
        command = click.option(*names, name, _FIELDS.get(name, field), show_default="default" in settings, **settings)(
            command
        )
    return command


_PREFIXED = ("--judge", "model", "base-url", "api-key-env", "temperature")
_FIELDS = {"--judge": "judge_name"}
_ABOVE_ZERO, _PRICE = Finite(0, min_open=True), Finite(0)
_OPTIONS: dict[str, dict[str, Any]] = {
    "--judge": {"type": click.Choice(["heuristic"]), "help": "Judge by rules (the default)."},
    "--judge-model": {"metavar": "M", "help": "Judge by this model of an OpenAI-compatible endpoint."},
    "--judge-base-url": {
        "metavar": "URL",
        "multiple": True,
        "help": f"Its address; else OPENAI_BASE_URL, {BASE_URL}. Repeated: replicas of one judge, which the first "
        "address names.",
    },
    "--judge-api-key-env": {
        "metavar": "NAME",
        "default": KEY_ENV,
        "help": "Environment variable that holds the key; none is sent when the default is not set.",
    },
    "--judge-rubric": {
        "metavar": "NAME|FILE",
        "default": "standard",
        "help": f"One of {', '.join(PRESET_NAMES)}; or a .txt or .yaml file of your own.",
    },
    "--judge-concurrency": {
        "type": click.IntRange(1, 1024),
        "default": 20,
        "help": "Requests in flight at the start; adapts to what the endpoint bears.",
    },
    "--judge-max-tokens": {"type": click.IntRange(16), "default": 512, "help": "Longest answer of the judge."},
    "--judge-temperature": {
        "type": Temperature(),
        "default": "0",
        "help": "0 for repeatable verdicts; none leaves it to the endpoint.",
    },
    "--judge-rpm": {"type": _ABOVE_ZERO, "help": "Requests per minute, at most."},
    "--judge-tpm": {"type": _ABOVE_ZERO, "help": "Tokens per minute, at most."},
    "--judge-max-cost": {
        "type": _PRICE,
        "help": "Stop before this judge has cost more on this run, over all calls; needs the prices.",
    },
    "--judge-max-tokens-total": {
        "type": click.IntRange(1),
        "help": "Stop before this judge has used more tokens on this run, over all calls.",
    },
    "--judge-price-in": {"type": _PRICE, "help": "Price of a million prompt tokens."},
    "--judge-price-out": {"type": _PRICE, "help": "Price of a million completion tokens."},
    "--judge-fallback-model": {
        "metavar": "M",
        "help": "Put what the judge refuses, cuts or garbles before this model.",
    },
    "--judge-fallback-base-url": {"metavar": "URL", "help": "Its address; else the judge's."},
    "--judge-fallback-api-key-env": {
        "metavar": "NAME",
        "help": "Variable with its key; at the judge's address else the judge's, at another none.",
    },
    "--judge-fallback-price-in": {"type": _PRICE, "help": "Price of its prompt tokens; else the judge's."},
    "--judge-fallback-price-out": {"type": _PRICE, "help": "Price of its completion tokens; else the judge's."},
}
"""Option -> its settings; a default is shown."""
