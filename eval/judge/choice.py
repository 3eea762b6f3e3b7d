"""The judge that a command's options choose."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click
from pydantic import BaseModel

from eval.endpoints.address import BASE_URL, KEY_ENV
from surgery.console.given import given

if TYPE_CHECKING:
    from eval.judge.endpoint.endpoint_judge import EndpointJudge
    from eval.judge.endpoint.question import Question
    from eval.judge.protocol import Judge


class JudgeChoice(BaseModel, frozen=True, extra="forbid"):
    """The values of `judge_options`."""

    judge_name: str | None = None
    judge_model: str | None = None
    judge_base_url: tuple[str, ...] = ()
    judge_api_key_env: str = KEY_ENV
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
            from eval.judge.rules.heuristic import HeuristicJudge

            self.refuse([name for name in self.given if name != "judge_name"], "needs --judge-model")
            return HeuristicJudge()
        if self.judge_name is not None:
            raise click.UsageError(f"--judge {self.judge_name} and --judge-model {self.judge_model} exclude each other")
        self._check_prices()
        from eval.judge.endpoint.presets import load_rubric

        question = load_rubric(self.judge_rubric)
        urls = list(self.judge_base_url) or [os.environ.get("OPENAI_BASE_URL") or BASE_URL]
        key = _api_key("judge", self.judge_api_key_env)
        first = self._at(urls, key, self.judge_model, question, self.judge_price_in, self.judge_price_out)
        if self.judge_fallback_model is not None:
            return self._with_fallback(first, self.judge_fallback_model, urls[0])
        self.refuse([name for name in self.given if "fallback" in name], "needs --judge-fallback-model")
        self.refuse([f"judge_{name}" for name in question.fixed], f"is fixed for the guard {self.judge_rubric}")
        return first

    def _check_prices(self) -> None:
        prices = self.judge_price_in, self.judge_price_out
        if self.judge_max_cost is not None and None in prices:
            raise click.UsageError("--max-cost needs --price-in and --price-out, per million tokens")
        if prices.count(None) == 1:
            self.refuse(["judge_price_in"], "needs --judge-price-out: a cost has both")
            self.refuse(["judge_price_out"], "needs --judge-price-in: a cost has both")

    @property
    def given(self) -> list[str]:
        """Options that are not as by default, or given all the same."""
        return given(vars(self), vars(JudgeChoice()))

    def refuse(self, names: Sequence[str], why: str) -> None:
        """Raises: click.UsageError for the first of these options that is given."""
        for name in self.given:
            if name in names:
                raise click.UsageError(f"--{name.replace('_', '-')} {why}")

    def _at(
        self,
        urls: Sequence[str],
        key: str | None,
        model: str,
        question: "Question",
        price_in: float | None,
        price_out: float | None,
    ) -> "EndpointJudge":
        from eval.endpoints.quota import Quota
        from eval.endpoints.spending import Budget, Limits
        from eval.judge.endpoint.client import JudgeClient
        from eval.judge.endpoint.endpoint_judge import EndpointJudge

        budget = Budget(Limits(self.judge_max_cost, self.judge_max_tokens_total, price_in, price_out))
        quota = Quota(self.judge_rpm, self.judge_tpm)
        client = JudgeClient(urls, key, concurrency=self.judge_concurrency, quota=quota, budget=budget)
        longest, temperature = self.judge_max_tokens, self.judge_temperature
        return EndpointJudge(model, client, question, max_tokens=longest, temperature=temperature)

    def _with_fallback(self, first: "EndpointJudge", model: str, url: str) -> "Judge":
        """The judge with a chat model behind it; behind a guard model it grades by the standard rubric."""
        from eval.judge.endpoint.fallback import FallbackJudge
        from eval.judge.endpoint.rubric import STANDARD

        key_env = self.judge_fallback_api_key_env
        if key_env is None and self.judge_fallback_base_url is None:
            key_env = self.judge_api_key_env
        second = self._at(
            [self.judge_fallback_base_url or url],
            _api_key("fallback", key_env) if key_env else None,
            model,
            STANDARD if first.question.fixed else first.question,
            self.judge_price_in if self.judge_fallback_price_in is None else self.judge_fallback_price_in,
            self.judge_price_out if self.judge_fallback_price_out is None else self.judge_fallback_price_out,
        )
        return FallbackJudge(first, second)


def choose_judge(**choice: Any) -> "Judge":
    """Make the judge that `judge_options` ask for. Raises: click.UsageError, JudgeEndpointError, RubricError."""
    return JudgeChoice(**choice).make()


def _api_key(whose: str, name: str) -> str | None:
    key = os.environ.get(name)
    if not key and name != KEY_ENV:
        raise click.UsageError(f"--{whose}-api-key-env {name}: that environment variable is not set")
    return key
