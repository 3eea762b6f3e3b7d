"""Strings that a regular expression cannot match without: what lets most patterns be passed over unread.

Searching a text for a plain string is many times faster than trying a pattern at each of its characters.
"""

from collections.abc import Iterable

# re publishes no parse tree; this module is the one it compiles from, in every Python this package runs on (3.11-3.14).
from re import _constants as op
from re import _parser as parser
from typing import Any

_COMMONEST = "zqxjkvbpgwyfmculdrhsnioate "  # English letters, rarest first
_MOST = 24
_REPEATS = (op.MAX_REPEAT, op.MIN_REPEAT, op.POSSESSIVE_REPEAT)
_ZERO_WIDTH = (op.AT, op.ASSERT, op.ASSERT_NOT)


def required_literals(pattern: str) -> frozenset[str]:
    """Strings one of which occurs in whatever `pattern` matches; empty when none can be named.

    Args:
        pattern: without flags; a letter stands for itself only.
    """
    found = _required(parser.parse(pattern))
    if "" in found:
        return frozenset()
    return frozenset(one for one in found if not any(other != one and other in one for other in found))


def rarest_gram(literal: str, n: int) -> str:
    """The n characters in a row of a literal that are together the least common in English; "" when it has fewer."""
    grams = [literal[at : at + n] for at in range(len(literal) - n + 1)]
    return min(grams, default="", key=lambda gram: sum(_COMMONEST.find(char) + 1 for char in gram))


def _required(items: Iterable[tuple[Any, Any]]) -> frozenset[str]:
    """The most telling of the sets of strings that a sequence of parsed items must hold one each of."""
    sets: list[frozenset[str]] = []
    run = frozenset({""})
    for item in items:
        exact = _spelled(item)
        joined = frozenset(head + tail for head in run for tail in exact) if exact else frozenset()
        if exact and len(joined) <= _MOST:
            run = joined
            continue
        sets += [run, _within(item)]
        run = exact if exact and len(exact) <= _MOST else frozenset({""})
    return max((*sets, run), key=_telling)


def _telling(literals: frozenset[str]) -> tuple[int, int]:
    shortest = min(map(len, literals), default=0)
    return (min(shortest, 6), -len(literals))


def _within(item: tuple[Any, Any]) -> frozenset[str]:
    kind, arg = item
    if kind is op.SUBPATTERN:
        found = _required(arg[-1])
    elif kind is op.ATOMIC_GROUP:
        found = _required(arg)
    elif kind in _REPEATS and arg[0] > 0:
        found = _required(arg[2])
    elif kind is op.BRANCH:
        each = [_required(branch) for branch in arg[1]]
        found = frozenset().union(*each) if all(each) else frozenset()
    else:
        found = frozenset()
    return found if all(found) else frozenset()


def _spelled(item: tuple[Any, Any]) -> frozenset[str]:
    """Every string the item can match; empty when they are not few. What has no width spells nothing: ""."""
    kind, arg = item
    if kind is op.LITERAL:
        return frozenset({chr(arg)})
    if kind in _ZERO_WIDTH:
        return frozenset({""})
    if kind is op.IN and all(name is op.LITERAL for name, _ in arg):
        return frozenset(chr(char) for _, char in arg)
    if kind is op.SUBPATTERN:
        return _spelled_in_order(arg[-1])
    if kind is op.BRANCH:
        each = [_spelled_in_order(branch) for branch in arg[1]]
        return frozenset().union(*each) if all(each) else frozenset()
    if kind in _REPEATS and tuple(arg[:2]) == (0, 1):
        once = _spelled_in_order(arg[2])
        return once | {""} if once else once
    return frozenset()


def _spelled_in_order(items: Iterable[tuple[Any, Any]]) -> frozenset[str]:
    run = frozenset({""})
    for item in items:
        run = frozenset(head + tail for head in run for tail in _spelled(item))
        if not 0 < len(run) <= 4 * _MOST:
            return frozenset()
    return run
