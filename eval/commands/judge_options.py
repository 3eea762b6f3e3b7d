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
    for option in reversed([*_judge(own), *_limits(own), *_fallback(own)]):
        command = option(command)
    return command


def _judge(own: bool) -> list[Any]:
    return [
        click.option("--judge", "judge_name", type=click.Choice(["heuristic"]), help="Judge by rules (the default)."),
        click.option("--judge-model", metavar="M", help="Judge by this model of an OpenAI-compatible endpoint."),
        click.option(
            "--judge-base-url",
            metavar="URL",
            multiple=True,
            help=f"Its address; else OPENAI_BASE_URL, {BASE_URL}. Repeated: replicas of one judge, which the "
            "first address names.",
        ),
        click.option(
            "--judge-api-key-env",
            metavar="NAME",
            default=KEY_ENV,
            show_default=True,
            help="Environment variable that holds the key; none is sent when the default is not set.",
        ),
        click.option(
            *_names(own, "rubric"),
            metavar="NAME|FILE",
            default="standard",
            show_default=True,
            help=f"One of {', '.join(PRESET_NAMES)}; or a .txt or .yaml file of your own.",
        ),
        click.option(
            *_names(own, "concurrency"),
            type=click.IntRange(1, 1024),
            default=20,
            show_default=True,
            help="Requests in flight at the start; adapts to what the endpoint bears.",
        ),
        click.option(
            *_names(own, "max-tokens"),
            type=click.IntRange(16),
            default=512,
            show_default=True,
            help="Longest answer of the judge.",
        ),
        click.option(
            "--judge-temperature",
            type=Temperature(),
            default="0",
            show_default=True,
            help="0 for repeatable verdicts; none leaves it to the endpoint.",
        ),
    ]


def _limits(own: bool) -> list[Any]:
    above_zero = Finite(0, min_open=True)
    return [
        click.option(*_names(own, "rpm"), type=above_zero, help="Requests per minute, at most."),
        click.option(*_names(own, "tpm"), type=above_zero, help="Tokens per minute, at most."),
        click.option(
            *_names(own, "max-cost"),
            type=Finite(0),
            help="Stop before this judge has cost more on this run, over all calls; needs the prices.",
        ),
        click.option(
            *_names(own, "max-tokens-total"),
            type=click.IntRange(1),
            help="Stop before this judge has used more tokens on this run, over all calls.",
        ),
        click.option(*_names(own, "price-in"), type=Finite(0), help="Price of a million prompt tokens."),
        click.option(*_names(own, "price-out"), type=Finite(0), help="Price of a million completion tokens."),
    ]


def _fallback(own: bool) -> list[Any]:
    return [
        click.option(
            *_names(own, "fallback-model"),
            metavar="M",
            help="Put what the judge refuses, cuts or garbles before this model.",
        ),
        click.option(*_names(own, "fallback-base-url"), metavar="URL", help="Its address; else the judge's."),
        click.option(
            *_names(own, "fallback-api-key-env"),
            metavar="NAME",
            help="Variable with its key; at the judge's address else the judge's, at another none.",
        ),
        click.option(
            *_names(own, "fallback-price-in"), type=Finite(0), help="Price of its prompt tokens; else the judge's."
        ),
        click.option(
            *_names(own, "fallback-price-out"),
            type=Finite(0),
            help="Price of its completion tokens; else the judge's.",
        ),
    ]


def _names(own: bool, name: str) -> tuple[str, ...]:
    names = (f"--judge-{name}", f"judge_{name.replace('-', '_')}")
    return (f"--{name}", *names) if own else names
