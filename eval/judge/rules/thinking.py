"""A response without the reasoning that some models write before it."""

import re

from eval.records.rows import Generation

CUT = "cut in reasoning"
"""Why a response is unscored that ends before it begins to answer."""

_TAG = r"(?:think(?:ing)?|thought|reasoning|analysis)"
_END = re.compile(rf"</{_TAG}>", re.IGNORECASE)
_BEGIN = re.compile(rf"^\s*<{_TAG}>", re.IGNORECASE)
_OPEN = re.compile(rf"<{_TAG}>\s*\Z", re.IGNORECASE)


def opens_reasoning(prompt: str) -> bool:
    """Whether a rendered prompt ends in an opening tag, so that the response begins inside the reasoning."""
    return bool(_OPEN.search(prompt))


def is_cut_in_reasoning(item: Generation) -> bool:
    """Whether a response reached its token limit before its reasoning ended, so that it says nothing of the answer."""
    if item.finish_reason != "length" or item.redacted or _END.search(item.response):
        return False
    return item.begins_in_reasoning or bool(_BEGIN.match(item.response))


def final_answer(response: str, begins_inside: bool = False) -> str | None:
    """What follows the reasoning; None when that never ends.

    Only an opening tag at the very start counts. Chat templates may write it into the prompt, so a closing tag
    needs no opening one. Tags inside code or further on are text of the answer.

    Args:
        begins_inside: the prompt is known to open the reasoning, so the first closing tag ends it whatever is before.
    """
    end = _END.search(response)
    begin = _BEGIN.match(response)
    if begin:
        return response[end.end() :].lstrip() if end else None
    if end and (begins_inside or ("<" not in response[: end.start()] and "`" not in response[: end.start()])):
        return response[end.end() :].lstrip()
    return response


def answer_of(item: Generation) -> str:
    """The text that is read for coherence: what follows the reasoning, or all where that never ends."""
    answer = final_answer(item.response, item.begins_in_reasoning)
    return item.response if answer is None else answer
