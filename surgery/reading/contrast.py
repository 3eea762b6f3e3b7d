"""A contrast set: harmful prompts and the safe prompts they are held against, matched one to one or not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from surgery.console.errors import PromptFileError
from surgery.files.artifacts import json_sha256, shortened
from surgery.prompts import Pair, Prompt, PromptSet, prompts_sha256
from surgery.prompts.similarity import near_duplicates, tokens_of
from surgery.reading.activations import HARMFUL, SAFE

MATCHED, UNMATCHED = "matched", "unmatched"
NEAR = 0.5  # token Jaccard similarity of near-duplicates


@dataclass(frozen=True)
class Contrast:
    """Two groups of prompts whose activations are compared.

    Matched pairs differ in intent only, so that their differences can be taken one by one. Unmatched groups, of any two
    sizes, differ in topic and style as well. Which of them gives a direction that controls refusals depends on the model
    (arXiv:2603.22061), so every record says which it was.

    Attributes:
        groups: the harmful and the safe prompts; of matched ones, row n of both is one pair.
        matched: whether they are pairs.
        sha256: content hash of both groups.
        origin: where they come from, in plain JSON types.
    """

    groups: tuple[tuple[Prompt, ...], tuple[Prompt, ...]]
    matched: bool
    sha256: str
    origin: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_pairs(cls, pairs: Sequence[Pair]) -> "Contrast":
        """Matched pairs."""
        harmful = tuple(Prompt(pair.id, pair.harmful, pair.category, pair.tier) for pair in pairs)
        safe = tuple(Prompt(pair.id, pair.safe, pair.category, pair.tier) for pair in pairs)
        origin = {"pairs": pairs.provenance()} if isinstance(pairs, PromptSet) else {}
        return cls((harmful, safe), True, prompts_sha256(pairs), origin)

    @classmethod
    def of_groups(cls, harmful: Sequence[Prompt], safe: Sequence[Prompt]) -> "Contrast":
        """Harmful and harmless prompts that do not belong together. Raises: PromptFileError when a text is in both."""
        texts = {_normalized(prompt.prompt) for prompt in harmful}
        both = [prompt.id for prompt in safe if _normalized(prompt.prompt) in texts]
        if both:
            raise PromptFileError(
                f"harmless prompts {shortened(both)} are also among the harmful ones; remove them there"
            )
        named = {"harmful": harmful, "harmless": safe}
        origin = {name: prompts.provenance() for name, prompts in named.items() if isinstance(prompts, PromptSet)}
        digest = json_sha256([prompts_sha256(harmful), prompts_sha256(safe)])
        return cls((tuple(harmful), tuple(safe)), False, digest, origin)

    @property
    def sizes(self) -> tuple[int, int]:
        """Number of harmful and of safe prompts."""
        return len(self.groups[HARMFUL]), len(self.groups[SAFE])

    @property
    def texts(self) -> list[str]:
        """Every prompt: harmful ones, then safe ones."""
        return [prompt.prompt for group in self.groups for prompt in group]

    def tags(self) -> dict[str, tuple[list[int], list[int]]]:
        """Rows of the harmful and safe prompts of every tier ("tier 2") and category, where there are several.

        A tag of unmatched prompts is that of the harmful ones; they are held against all safe prompts.
        """
        harmful, safe = self.groups
        every = list(range(len(safe)))
        return {tag: (rows, rows if self.matched else every) for tag, rows in tag_rows(harmful).items()}

    def header(self) -> dict[str, Any]:
        """Kind, numbers, hash and origin, in plain JSON types."""
        n_harmful, n_safe = self.sizes
        return {
            "contrast": MATCHED if self.matched else UNMATCHED,
            "n_pairs": n_harmful if self.matched else 0,
            "n_harmful": n_harmful,
            "n_safe": n_safe,
            "prompts_sha256": self.sha256,
            "prompts": dict(self.origin),
        }


def as_contrast(prompts: "Contrast | Sequence[Pair]") -> Contrast:
    """A contrast set as it is, pairs as a matched one."""
    return prompts if isinstance(prompts, Contrast) else Contrast.of_pairs(prompts)


def tag_rows(prompts: Sequence[Prompt | Pair]) -> dict[str, list[int]]:
    """Row numbers of every tier ("tier 2") and category ("category fraud"), where there are several."""
    found: dict[str, list[int]] = {}
    for kind, values in (("tier", [p.tier for p in prompts]), ("category", [p.category for p in prompts])):
        named = sorted({value for value in values if value not in (None, "")})
        if len(named) > 1:
            found |= {f"{kind} {name}": [row for row, value in enumerate(values) if value == name] for name in named}
    return found


def check_held_out(held_out: Contrast, fitted: Contrast) -> int:
    """Check that no held-out prompt is one of those fitted on; case, spacing and punctuation apart.

    Returns: how many held-out prompts are near-duplicates of a fitted one (token Jaccard of at least `NEAR`).
    Raises: PromptFileError naming the prompts that occur in both.
    """
    if not held_out.texts:
        return 0
    known = {_normalized(text) for text in fitted.texts}
    same = [text for text in held_out.texts if _normalized(text) in known]
    if same:
        raise PromptFileError(
            f"{len(same)} of {len(held_out.texts)} held-out prompts are also fitted on, e.g. {same[0]!r}; what is measured "
            "on them would flatter the vectors: hold out others"
        )
    return len({index for index, *_ in near_duplicates(held_out.texts, fitted.texts, NEAR)})


def _normalized(text: str) -> tuple[str, ...]:
    return tuple(tokens_of(text)) or (text,)
