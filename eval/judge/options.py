"""The options that choose a judge, for every command that judges, and the judge they choose."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surgery.commands.options import given

if TYPE_CHECKING:
    from eval.endpoints.judge_client import JudgeClient
    from eval.judge.endpoint.endpoint_judge import EndpointJudge
    from eval.judge.protocol import Judge

DEFAULT_BASE_URL = "https://api.openai.com/v1"
DEFAULT_KEY_ENV = "OPENAI_API_KEY"
PRESET_NAMES = ("standard", "refusal-3way", "strongreject-style", "wildguard", "llamaguard", "harmbench-classifier")


class Temperature(click.ParamType):
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
            help=f"Its address; else OPENAI_BASE_URL, {DEFAULT_BASE_URL}. Repeated: replicas of one judge, which the "
            "first address names.",
        ),
        click.option(
            "--judge-api-key-env",
            metavar="NAME",
            default=DEFAULT_KEY_ENV,
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


@dataclass(frozen=True)
class JudgeChoice:
    """The values of `judge_options`."""

    judge_name: str | None = None
    judge_model: str | None = None
    judge_base_url: Sequence[str] = ()
    judge_api_key_env: str = DEFAULT_KEY_ENV
    judge_rubric: str = "standard"
    judge_concurrency: int = 20
    judge_max_tokens: int = 512
    judge_temperature: float | None = 0.0
    judge_rpm: float | None = None
    judge_tpm: float | None = None
    judge_max_cost: float | None = None
    judge_max_tokens_total: int | None = None
    judge_price_in: float | None = None
    judge_price_out: float | None = None
    judge_fallback_model: str | None = None
    judge_fallback_base_url: str | None = None
    judge_fallback_api_key_env: str | None = None
    judge_fallback_price_in: float | None = None
    judge_fallback_price_out: float | None = None

    def make(self) -> "Judge":
        """The judge. Raises: click.UsageError, also for an option that would do nothing; JudgeEndpointError, RubricError."""
        if self.judge_model is None:
            return self._rules()
        if self.judge_name is not None:
            raise click.UsageError(f"--judge {self.judge_name} and --judge-model {self.judge_model} exclude each other")
        prices = self.judge_price_in, self.judge_price_out
        if self.judge_max_cost is not None and None in prices:
            raise click.UsageError("--max-cost needs --price-in and --price-out, per million tokens")
        if prices.count(None) == 1:
            self.refuse(["judge_price_in"], "needs --judge-price-out: a cost has both")
            self.refuse(["judge_price_out"], "needs --judge-price-in: a cost has both")
        first = self._endpoint_judge(self.judge_model, self._client())
        if self.judge_fallback_model is not None:
            return self._with_fallback(first)
        self.refuse([name for name in self.given if "fallback" in name], "needs --judge-fallback-model")
        if first.kind == "guard":
            self.refuse(["judge_max_tokens", "judge_temperature"], f"is fixed for the guard {self.judge_rubric}")
        return first

    @property
    def given(self) -> list[str]:
        """Options that are not as by default, or given all the same."""
        return given(vars(self), vars(JudgeChoice()))

    def refuse(self, names: Sequence[str], why: str) -> None:
        """Raises: click.UsageError for the first of these options that is given."""
        for name in self.given:
            if name in names:
                raise click.UsageError(f"--{name.replace('_', '-')} {why}")

    def _rules(self) -> "Judge":
        from eval.judge.rules.heuristic import HeuristicJudge

        self.refuse([name for name in self.given if name != "judge_name"], "needs --judge-model")
        return HeuristicJudge()

    @property
    def _base_urls(self) -> list[str]:
        return list(self.judge_base_url) or [os.environ.get("OPENAI_BASE_URL") or DEFAULT_BASE_URL]

    def _client(self) -> "JudgeClient":
        key = _api_key("judge", self.judge_api_key_env)
        return self._make_client(self._base_urls, key, self.judge_price_in, self.judge_price_out)

    def _make_client(
        self, urls: Sequence[str], key: str | None, price_in: float | None, price_out: float | None
    ) -> "JudgeClient":
        from eval.endpoints.judge_client import JudgeClient
        from eval.endpoints.quota import Quota
        from eval.endpoints.spending import Budget, Limits

        limits = Limits(self.judge_max_cost, self.judge_max_tokens_total, price_in, price_out)
        quota = Quota(self.judge_rpm, self.judge_tpm)
        return JudgeClient(urls, key, concurrency=self.judge_concurrency, quota=quota, budget=Budget(limits))

    def _endpoint_judge(self, model: str, client: "JudgeClient", guards: bool = True) -> "EndpointJudge":
        from eval.judge.endpoint.guard import GuardJudge
        from eval.judge.endpoint.llm import LLMJudge
        from eval.judge.endpoint.presets import load_rubric
        from eval.judge.endpoint.rubric import STANDARD, Rubric

        rubric = load_rubric(self.judge_rubric)
        if not isinstance(rubric, Rubric) and guards:
            return GuardJudge(model, client, rubric)
        rubric = rubric if isinstance(rubric, Rubric) else STANDARD
        settings = {"max_tokens": self.judge_max_tokens, "temperature": self.judge_temperature}
        return LLMJudge(model, client, rubric=rubric, **settings)

    def _with_fallback(self, first: "EndpointJudge") -> "Judge":
        """The judge with a chat model behind it; behind a guard model it grades by the standard rubric."""
        from eval.judge.endpoint.fallback import FallbackJudge

        key_env = self.judge_fallback_api_key_env
        if key_env is None and self.judge_fallback_base_url is None:
            key_env = self.judge_api_key_env
        client = self._make_client(
            [self.judge_fallback_base_url or self._base_urls[0]],
            _api_key("fallback", key_env) if key_env else None,
            _first(self.judge_fallback_price_in, self.judge_price_in),
            _first(self.judge_fallback_price_out, self.judge_price_out),
        )
        return FallbackJudge(first, self._endpoint_judge(self.judge_fallback_model, client, guards=False))


def choose_judge(**choice: Any) -> "Judge":
    """Make the judge that `judge_options` ask for. Raises: click.UsageError, JudgeEndpointError, RubricError."""
    return JudgeChoice(**choice).make()


def keep_accounts(judge: "Judge", folder: Path) -> None:
    """Have a judge write what it spends into a run's folder, and count what it spent there before; rules spend nothing."""
    if hasattr(judge, "keep_accounts"):
        judge.keep_accounts(folder)


def _first(value: float | None, otherwise: float | None) -> float | None:
    return otherwise if value is None else value


def _api_key(whose: str, name: str) -> str | None:
    key = os.environ.get(name)
    if not key and name != DEFAULT_KEY_ENV:
        raise click.UsageError(f"--{whose}-api-key-env {name}: that environment variable is not set")
    return key
