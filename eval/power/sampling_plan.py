"""The designs that `refusal power` plans, and what each of them takes in prompts, responses, verdicts and money."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from eval.power.power import Found, Level, Spread, contrast_found, detectable, mean_found, prompts_needed, share_found


@dataclass(frozen=True)
class Size:
    """What an experiment compares.

    Attributes:
        n_conditions: interventions, each compared with the baseline.
        n_tiers: tiers of prompts whose changes are compared.
        price: of one verdict; None where it is not known.
    """

    n_conditions: int = 1
    n_tiers: int = 1
    price: float | None = None


@dataclass(frozen=True)
class Design:
    """One way of testing.

    Attributes:
        name: what is tested, and how.
        found: whether so many prompts (in each group) show a difference.
        n_tests: tests that are corrected for.
        n_compared: interventions that have to be generated.
        n_groups: groups of prompts, each of the size that is found: tiers, or halves.
    """

    name: str
    found: Found
    n_tests: int = 1
    n_compared: int = 1
    n_groups: int = 1


@dataclass(frozen=True)
class PlanRow:
    """What one design takes, or shows; all None where it cannot be had.

    Attributes:
        difference: in compliance, that is found.
        n_prompts: scored prompts in all; `n_groups` of equal size.
        n_responses: of the baseline and every intervention.
        n_verdicts: at most: equal responses to a prompt are judged once.
        cost: of the verdicts.
    """

    name: str
    difference: float | None
    n_prompts: int | None
    n_groups: int
    n_responses: int | None = None
    n_verdicts: int | None = None
    cost: float | None = None


def designs(size: Size) -> list[Design]:
    """All that this experiment can be tested by: one comparison, the best of several, tiers."""
    n = size.n_conditions
    found = [
        Design("one comparison: mean of 0, 0.5, 1", mean_found),
        Design("one comparison: complied or not (McNemar)", share_found),
    ]
    if n > 1:
        found += [
            Design(f"each of {n}, corrected: mean", mean_found, n, n),
            Design(f"each of {n}, corrected: complied or not", share_found, n, n),
            Design(f"best of {n} by one half, shown on the other", mean_found, 1, n, 2),
        ]
    if size.n_tiers > 1:
        found.append(Design("difference between two tiers' changes", contrast_found, 1, 1, size.n_tiers))
    if size.n_tiers > 1 and n > 1:
        found.append(Design(f"the same for each of {n}, corrected", contrast_found, n, n, size.n_tiers))
    return found


def plan_for_difference(difference: float, spread: Spread, level: Level, size: Size) -> list[PlanRow]:
    """Prompts that each design needs to find a difference."""

    def solve(design: Design) -> tuple[float | None, int | None]:
        n = prompts_needed(design.found, difference, spread, replace(level, n_tests=design.n_tests))
        return difference, None if n is None else n * design.n_groups

    return _rows(solve, spread, size)


def plan_for_prompts(n_prompts: int, spread: Spread, level: Level, size: Size) -> list[PlanRow]:
    """The least rise of compliance that each design finds with so many prompts in all."""

    def solve(design: Design) -> tuple[float | None, int | None]:
        n = n_prompts // design.n_groups
        return detectable(design.found, n, spread, replace(level, n_tests=design.n_tests)), n * design.n_groups

    return _rows(solve, spread, size)


def _rows(solve: Callable[[Design], tuple[float | None, int | None]], spread: Spread, size: Size) -> list[PlanRow]:
    rows = []
    for design in designs(size):
        difference, n = solve(design)
        row = PlanRow(design.name, difference, n, design.n_groups)
        if n is not None:
            n_responses = n * (1 + design.n_compared)
            n_verdicts = n_responses * spread.repeats
            cost = None if size.price is None else n_verdicts * size.price
            row = replace(row, n_responses=n_responses, n_verdicts=n_verdicts, cost=cost)
        rows.append(row)
    return rows
