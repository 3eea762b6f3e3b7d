"""The built-in pairs and harmless prompts, and the fixed splits they are divided into."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery.console.errors import PromptFileError

FOLDER = Path(__file__).parent / "sets"
NAME = "builtin"
EXTRACTION, EVALUATION, ALL, HARMLESS = "extraction", "evaluation", "all", "harmless"
_TIERS = {"tier1": 1, "tier2": 2}
_WORDS = (EXTRACTION, EVALUATION, ALL, *_TIERS, HARMLESS)


@dataclass(frozen=True)
class BuiltinPart:
    """Part of the built-in sets.

    Attributes:
        path: the file.
        split: "extraction" or "evaluation"; None takes both.
        tier: 1 (mild) or 2 (extreme); None takes both.
    """

    path: Path
    split: str | None = None
    tier: int | None = None

    @property
    def name(self) -> str:
        """In words, for people and records."""
        return f"built-in, {self.split or 'both'} split{'' if self.split else 's'}"

    def takes(self, record: Mapping[str, Any]) -> bool:
        """Whether a record belongs to it."""
        return self.split in (None, record["split"]) and self.tier in (None, record.get("tier"))


def is_builtin(source: str) -> bool:
    """Whether a source names the built-in sets; a file of that name is ./builtin."""
    return source.split(":")[0] == NAME


def select(source: str, split: str | None = None) -> BuiltinPart:
    """What a source such as "builtin:evaluation:tier2" asks for.

    Args:
        split: where the source names none.
    Raises: PromptFileError on a word that is not known or contradicts another.
    """
    words = source.split(":")[1:]
    splits = [word for word in words if word in (EXTRACTION, EVALUATION, ALL)]
    tiers = [_TIERS[word] for word in words if word in _TIERS]
    harmless = HARMLESS in words
    if not set(words) <= set(_WORDS) or len(splits) > 1 or len(tiers) > 1 or (harmless and tiers):
        raise PromptFileError(
            f"{source}: expected {NAME}, then :{EXTRACTION}, :{EVALUATION} or :{ALL}, and :tier1, :tier2 or :{HARMLESS}"
        )
    chosen = splits[0] if splits else split
    path = FOLDER / ("harmless.jsonl" if harmless else "pairs.jsonl")
    return BuiltinPart(path, None if chosen == ALL else chosen, tiers[0] if tiers else None)
