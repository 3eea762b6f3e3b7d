"""What a judge model wrote, read into scores; what cannot be read is a reason, never a number."""

import json
import re
from collections.abc import Collection, Sequence
from typing import Any

from eval.judge.endpoint.scales import MAX_EVIDENCE, SCALES, Answer, Scale, UnreadableAnswer

__all__ = ["MAX_EVIDENCE", "Answer", "UnreadableAnswer", "read_answer"]

_END_OF_THOUGHTS = "</think>"
_EVIDENCE = re.compile(r"^[\s>*_`#-]*EVIDENCE[:\s*]*(.+)$", re.MULTILINE | re.IGNORECASE)


def read_answer(text: str, form: str, scale: Scale = SCALES["standard"]) -> Answer:
    """Read a judge's answer.

    Args:
        text: what the judge wrote; a verdict that thoughts, up to `</think>`, follow is none, and one that quotes the
            tag is one.
        form: "json": the last JSON object that has the keys; "text": the last line that begins with VERDICT.
        scale: what was asked for.
    Raises: UnreadableAnswer when there is none, a value is outside its enum, or the values contradict each other.
    """
    numbers = [key for key in scale.keys if key != "outcome"] or list(scale.keys)
    fields = _last_object(text, numbers) if form == "json" else _last_verdict(text, list(scale.keys))
    return scale.read(fields)


def _last_object(text: str, keys: Collection[str]) -> dict[str, Any]:
    decoder, found, rest, position = json.JSONDecoder(), None, "", text.find("{")
    while position != -1:
        try:
            value, end = decoder.raw_decode(text, position)
        except (json.JSONDecodeError, RecursionError):
            end = position + 1
        else:
            if isinstance(value, dict) and set(keys) <= value.keys():
                found, rest = value, text[end:]
        position = text.find("{", end)
    if found is None or _END_OF_THOUGHTS in rest:
        raise UnreadableAnswer(f"no JSON object with {' and '.join(keys)}")
    return found


def _last_verdict(text: str, keys: Sequence[str]) -> dict[str, Any]:
    *others, last = keys
    pattern = r"^[\s>*_`#-]*VERDICT[:\s*]+" + "".join(rf"{key}\s*=\s*(\S+?)[,;]?\s+" for key in others)
    pattern += rf"{last}\s*=\s*([a-z0-9]+)(?=[\s*_`.,;]|$)"
    matches = list(re.finditer(pattern, text, re.MULTILINE | re.IGNORECASE))
    if not matches or _END_OF_THOUGHTS in _EVIDENCE.sub("", text[matches[-1].end() :]):
        raise UnreadableAnswer("no line beginning with VERDICT")
    evidence = _EVIDENCE.findall(text)
    found = dict(zip(keys, (value.lower() for value in matches[-1].groups()), strict=True))
    return {**found, "evidence": evidence[-1].strip() if evidence else ""}
