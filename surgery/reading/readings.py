"""What is read of every prompt: its token ids, and the sites and positions of a plan."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from surgery.model.chat import chat_template_sha256, prompt_token_ids, template_date
from surgery.reading.activations import HARMFUL, SAFE
from surgery.reading.contrast import Contrast
from surgery.reading.positions import check_endings, check_template_options, end_of_instruction, parse_positions

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Rendered:
    """One prompt to run: its row in its group (HARMFUL or SAFE), its token ids, its name for messages."""

    row: int
    group: int
    ids: Sequence[int]
    name: str


class Readings:
    """Every (site, position) to be read, and the prompts as the tokenizer renders them.

    Args:
        site, position: the reading that the vectors come from; it is the first of `pairs_read`.
        sites, positions: all that is read; empty for only that.
        options: of the chat template.
    Attributes:
        names: the readings as in a file's tensor names, e.g. "resid_post@-1".
        sites: every site read, each once.
        depth: how many of the last tokens are read.
        ending: the end-of-instruction token ids.
    Raises: PositionError, ModelError (no chat template, or one that ignores an option).
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        site: str,
        position: int,
        sites: Sequence[str],
        positions: str,
        options: Mapping[str, Any],
    ):
        check_template_options(tokenizer, options)
        self.tokenizer, self.options = tokenizer, options
        self.ending = end_of_instruction(tokenizer, options)
        chosen = parse_positions(str(position), len(self.ending))
        read_at = parse_positions(positions, len(self.ending)) if positions else chosen
        first = (site, position)
        self._read = [first, *((s, p) for s in sites or (site,) for p in read_at if (s, p) != first)]
        self.names = [f"{s}@{p}" for s, p in self._read]
        self.sites = tuple(dict.fromkeys(s for s, _ in self._read))
        self.depth = -min(p for _, p in self._read)

    def __len__(self) -> int:
        return len(self._read)

    def render(self, contrast: Contrast) -> list[Rendered]:
        """Every prompt of a contrast set, harmful and safe in turn while there are both.

        Raises: PositionError where a position read is not the same token in every prompt.
        """
        prompts = [
            Rendered(
                row, group, prompt_token_ids(self.tokenizer, prompt.prompt, **self.options), f"{prompt.id!r} ({kind})"
            )
            for row, couple in enumerate(zip_longest(*contrast.groups))
            for group, kind, prompt in zip((HARMFUL, SAFE), ("harmful", "safe"), couple, strict=True)
            if prompt is not None
        ]
        check_endings([(prompt.name, prompt.ids) for prompt in prompts], self.ending[-self.depth :])
        return prompts

    def chosen(self, resid: "torch.Tensor") -> "torch.Tensor":
        """What a source gives of one prompt, [n_sites, n_layers, depth, d_model] -> [n_readings, n_layers, d_model]."""
        import torch

        return torch.stack([resid[self.sites.index(site), :, position] for site, position in self._read])

    def header(self) -> dict[str, Any]:
        """Where and how prompts are read, in plain JSON types."""
        (site, position), *_ = self._read
        return {
            "chat_template_sha256": chat_template_sha256(self.tokenizer),
            "template_options": dict(self.options),
            "date": template_date(self.tokenizer, self.options),
            "site": site,
            "position": "last prompt token" if position == -1 else f"prompt token {position}",
            "reading": self.names[0],
            "readings": self.names,
            "ending": self.tokenizer.convert_ids_to_tokens(self.ending),
        }
