"""Pairs, prompts, and a set of either that knows where it came from."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Generic, TypeVar, overload

from surgery.files.artifacts import json_sha256


@dataclass(frozen=True)
class Pair:
    """A harmful prompt and its minimally edited safe counterpart."""

    id: str
    harmful: str
    safe: str
    category: str = ""
    tier: int | None = None


@dataclass(frozen=True)
class Prompt:
    """One prompt to be answered."""

    id: str
    prompt: str
    category: str = ""
    tier: int | None = None


Item = TypeVar("Item", Pair, Prompt)


@dataclass(frozen=True)
class PromptSet(Sequence[Item], Generic[Item]):
    """Pairs or prompts in a fixed order, with their origin; used like a list, and a slice keeps the origin.

    Attributes:
        source: as the user named it: a file, two files, "hf:ORG/NAME…" or "builtin…".
        layout: the layout recognized in it, e.g. "XSTest", or the built-in split.
        files: name -> sha256 of every file read.
        revision: commit of a Hugging Face dataset.
        left_out: how many rows of other labels, splits or tiers were not taken.
    """

    prompts: tuple[Item, ...]
    source: str
    layout: str
    files: tuple[tuple[str, str], ...] = ()
    revision: str | None = None
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[Item]:
        return iter(self.prompts)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> "PromptSet[Item]": ...
    def __getitem__(self, index: int | slice) -> "Item | PromptSet[Item]":
        return replace(self, prompts=self.prompts[index]) if isinstance(index, slice) else self.prompts[index]

    @property
    def are_pairs(self) -> bool:
        """Whether it holds pairs rather than prompts."""
        return isinstance(self.prompts[0], Pair)

    def provenance(self) -> dict[str, Any]:
        """Origin and content hash in plain JSON types."""
        return {
            "source": self.source,
            "layout": self.layout,
            "files": dict(self.files),
            "revision": self.revision,
            "n": len(self),
            "left_out": self.left_out,
            "sha256": prompts_sha256(self.prompts),
        }

    def __str__(self) -> str:
        """One line for people: what was recognized, how much of it was taken."""
        kind = "pairs" if self.are_pairs else "prompts"
        taken = f"{len(self)} of {len(self) + self.left_out}" if self.left_out else str(len(self))
        at = f", revision {self.revision[:12]}" if self.revision else ""
        return f"{self.source}: {taken} {kind} ({self.layout}{at})"


def prompts_sha256(prompts: Sequence[Pair | Prompt]) -> str:
    """Content hash of a prompt set: independent of formatting, dependent on order, ids and tags."""
    return json_sha256([asdict(prompt) for prompt in prompts])
