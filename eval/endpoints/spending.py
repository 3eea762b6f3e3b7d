"""What judging costs: requests and tokens spent, their price, and the limit that stops before it is exceeded."""

import asyncio
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from surgery.console.errors import RefusalError
from surgery.files.rowfile import RowFile

SPENDING_FILE = "spending.jsonl"
BYTES_PER_TOKEN = 2.0
MARGIN = 1.1


class BudgetReachedError(RefusalError):
    """The next request could exceed what may be spent; what was judged so far is kept."""


@dataclass
class Usage:
    """What was spent: requests sent (with retries), and tokens where the endpoint counts them."""

    n_requests: int = 0
    n_retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and completion tokens together."""
        return self.prompt_tokens + self.completion_tokens

    def since(self, earlier: "Usage") -> "Usage":
        """What was spent after `earlier`."""
        return Usage(**{key: value - getattr(earlier, key) for key, value in asdict(self).items()})

    def plus(self, other: "Usage") -> "Usage":
        """Both together."""
        return Usage(**{key: value + getattr(other, key) for key, value in asdict(self).items()})


@dataclass(frozen=True)
class Limits:
    """What one judge may spend on one run, over all calls.

    Attributes:
        max_cost: in the currency of the prices; None for no limit.
        max_tokens: prompt and completion tokens together; None for no limit.
        price_in, price_out: of a million prompt and completion tokens; None when not known.
    """

    max_cost: float | None = None
    max_tokens: int | None = None
    price_in: float | None = None
    price_out: float | None = None

    def __post_init__(self) -> None:
        if self.max_cost is not None and (self.price_in is None or self.price_out is None):
            raise ValueError("a limit of cost needs the prices of prompt and completion tokens")

    def cost(self, usage: Usage) -> float | None:
        """Price of what was spent; None without prices."""
        if self.price_in is None or self.price_out is None:
            return None
        return (usage.prompt_tokens * self.price_in + usage.completion_tokens * self.price_out) / 1e6


class TokenBound:
    """At most how many tokens a request takes, learned from those that the endpoint counted.

    A prompt is bounded by its bytes times the highest ratio of tokens to bytes seen, with a margin; before any was
    counted, by half its bytes. An answer is bounded by the limit sent with the request.
    """

    def __init__(self) -> None:
        self._ratio = 0.0

    def prompt_tokens(self, n_bytes: int) -> int:
        """Upper bound for a prompt of so many bytes."""
        return math.ceil(n_bytes * (self._ratio * MARGIN or 1 / BYTES_PER_TOKEN))

    def learn(self, n_bytes: int, prompt_tokens: int) -> None:
        """Take in what the endpoint counted."""
        self._ratio = max(self._ratio, prompt_tokens / max(n_bytes, 1))


class Budget:
    """Admits requests while what was spent, what is under way and the next one stay within the limits.

    Attributes:
        earlier: what earlier calls spent, counted against the limits.
        usage: what this call spent.
        limits: the prices are of this judge alone; what may be spent is of all budgets it shares with.
    """

    def __init__(self, limits: Limits = Limits(), earlier: Usage | None = None):
        self.limits = limits
        self.earlier = earlier or Usage()
        self.usage = Usage()
        self._held = Usage()
        self._n_held = 0
        self._freed = asyncio.Event()
        self._all = [self]

    def share(self, other: "Budget") -> None:
        """Let both count against one limit, each at its own prices."""
        self._all = other._all = [self, other]

    @contextmanager
    def _holding(self, amount: Usage) -> Iterator[None]:
        self._held, self._n_held = self._held.plus(amount), self._n_held + 1
        try:
            yield
        finally:
            self._held, self._n_held = self._held.since(amount), self._n_held - 1
            for budget in self._all:
                budget._freed.set()
                budget._freed = asyncio.Event()

    async def reserve(self, prompt_tokens: int, completion_tokens: int) -> AbstractContextManager[None]:
        """Wait until a request of at most so many tokens fits; returns a context manager to spend it in.

        Raises: BudgetReachedError when it does not fit although nothing else is under way.
        """
        amount = Usage(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
        while not self._fits(amount):
            if not any(budget._n_held for budget in self._all):
                raise BudgetReachedError(self._told())
            await self._freed.wait()
        return self._holding(amount)

    def _fits(self, amount: Usage) -> bool:
        if self.limits.max_tokens is None and self.limits.max_cost is None:
            return True
        limits, totals = self.limits, [(budget, budget.spent.plus(budget._held)) for budget in self._all]
        totals.append((self, amount))
        if limits.max_tokens is not None and sum(usage.total_tokens for _, usage in totals) > limits.max_tokens:
            return False
        cost = sum(budget.limits.cost(usage) or 0.0 for budget, usage in totals)
        return limits.max_cost is None or cost <= limits.max_cost

    @property
    def spent(self) -> Usage:
        """What this call and earlier ones spent."""
        return self.earlier.plus(self.usage)

    def _told(self) -> str:
        limits = self.limits
        told = f"{sum(budget.spent.total_tokens for budget in self._all)} tokens"
        told += f" of {limits.max_tokens}" if limits.max_tokens is not None else ""
        if limits.max_cost is not None:
            cost = sum(budget.limits.cost(budget.spent) or 0.0 for budget in self._all)
            told += f", cost {cost:.4f} of {limits.max_cost:g}"
        return (
            f"the judge's budget is reached: spent {told}, and the next request could exceed it; verdicts so far are "
            "kept, run the same command with a higher limit to go on"
        )


@dataclass(frozen=True)
class Spending:
    """What one judge spent between two moments: a row of `spending.jsonl`."""

    judge_id: str
    n_requests: int = 0
    n_retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def usage(self) -> Usage:
        """What was spent."""
        return Usage(self.n_requests, self.n_retries, self.prompt_tokens, self.completion_tokens)


class Ledger:
    """The spending of a run's judges on disk: one row per judge and moment, append-only, summed when read.

    Rows are added while judging goes on, so that a killed call loses at most what `every` answers cost.
    """

    def __init__(self, folder: Path | str, judge_id: str, written: Usage | None = None, every: int = 50):
        """Set up; nothing is written.

        Args:
            written: what need not be written, because it was spent on something else.
            every: answers between two rows.
        """
        self.judge_id = judge_id
        self._file = _file_of(folder)
        self._every = every
        self._written = replace(written or Usage())
        self._n_since = 0

    def settled(self, usage: Usage) -> None:
        """Told after each answer; writes now and then."""
        self._n_since += 1
        if self._n_since >= self._every:
            self.write(usage)

    def write(self, usage: Usage) -> None:
        """Add what was spent since the last row, if anything was."""
        spent, self._n_since = usage.since(self._written), 0
        if spent == Usage():
            return
        self._file.append([Spending(self.judge_id, **asdict(spent))])
        self._written = replace(usage)


def read_spending(folder: Path | str) -> dict[str, Usage]:
    """judge_id -> what it spent on a run over all calls; {} when nothing was.

    A torn last line, left by a killed writer, is left out. Raises: ArtifactError for any other that is not a row.
    """
    totals: dict[str, Usage] = {}
    for row in _file_of(folder).rows():
        totals[row.judge_id] = totals.get(row.judge_id, Usage()).plus(row.usage)
    return totals


def _file_of(folder: Path | str) -> RowFile[Spending]:
    return RowFile(Path(folder) / SPENDING_FILE, Spending)
