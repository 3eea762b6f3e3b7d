"""Qwen v1's chat format and generation settings, as the files that transformers and vLLM read.

From the published qwen_generation_utils.py (make_context, get_stop_words_ids) and generation_config.json.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery.console.errors import ModelError
from surgery.conversion.qwen import QwenConfig, read_json
from surgery.conversion.tiktoken_vocabulary import END_OF_TEXT, IM_END, IM_START, Vocabulary

CHAT, BASE = "chatml", "raw"  # the published words for a chat model's format and a base model's
# Every conversation opens with a system block, blocks are separated by one newline, and no other role is known.
TEMPLATE = (
    "{%- set has_system = messages[0]['role'] == 'system' -%}"
    "{%- set system = messages[0]['content'] if has_system else 'You are a helpful assistant.' -%}"
    "{{- '<|im_start|>system\n' ~ system ~ '<|im_end|>' -}}"
    "{%- for message in (messages[1:] if has_system else messages) -%}"
    "{%- if message['role'] not in ('user', 'assistant') -%}"
    "{{- raise_exception('Qwen v1 knows system (first), user and assistant, not ' ~ message['role']) -}}"
    "{%- endif -%}"
    "{{- '\n<|im_start|>' ~ message['role'] ~ '\n' ~ message['content'] ~ '<|im_end|>' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '\n<|im_start|>assistant\n' -}}{%- endif -%}"
)
_SAMPLING = ("do_sample", "max_new_tokens", "repetition_penalty", "temperature", "top_k", "top_p")
_REPLACED = {"chat_format", "eos_token_id", "pad_token_id", "stop_words_ids", "transformers_version"}


@dataclass(frozen=True)
class ChatFormat:
    """How a model is talked to.

    Attributes:
        kind: CHAT or BASE.
        sampling: the published settings that GenerationConfig knows, as they are.
        dropped: names of the other published settings, e.g. max_window_size, by which the published `chat` shortens
            a history.
    """

    kind: str
    sampling: dict[str, Any]
    dropped: tuple[str, ...]

    @property
    def end_token(self) -> str:
        """The token that ends an answer."""
        return IM_END if self.kind == CHAT else END_OF_TEXT

    @property
    def stop_tokens(self) -> tuple[str, ...]:
        """The tokens at which generation stops: of a chat model the published stop words too."""
        return (IM_END, IM_START, END_OF_TEXT) if self.kind == CHAT else (END_OF_TEXT,)

    def generation_config(self, vocabulary: Vocabulary) -> dict[str, Any]:
        """What generation_config.json holds for Qwen2."""
        stops = [vocabulary.id_of(token) for token in self.stop_tokens]
        return {"eos_token_id": stops, "pad_token_id": vocabulary.id_of(END_OF_TEXT), **self.sampling}

    def tokenizer_config(self, config: QwenConfig) -> dict[str, Any]:
        """What tokenizer_config.json holds: Qwen2's class, for AutoTokenizer, and the chat template."""
        record = {
            "tokenizer_class": "Qwen2Tokenizer",
            "model_max_length": config.seq_length,
            "clean_up_tokenization_spaces": False,
            "eos_token": self.end_token,
            "pad_token": END_OF_TEXT,
        }
        return record | ({"chat_template": TEMPLATE} if self.kind == CHAT else {})


def load_chat_format(folder: Path, vocabulary: Vocabulary) -> ChatFormat:
    """Read generation_config.json of a Qwen v1 model.

    Raises: ModelError when it is missing, names an unknown chat format, or was made for another vocabulary.
    """
    path = folder / "generation_config.json"
    stored = read_json(path)
    kind = stored.get("chat_format")
    if kind not in (CHAT, BASE):
        raise ModelError(
            f"{path}: chat_format is {kind!r}, expected {CHAT!r} (a chat model) or {BASE!r} (a base model)"
        )
    expected = vocabulary.id_of(END_OF_TEXT)
    for name in ("eos_token_id", "pad_token_id"):
        if stored.get(name, expected) != expected:
            raise ModelError(f"{path}: {name} is {stored[name]} but {END_OF_TEXT} of the vocabulary is {expected}")
    sampling = {name: stored[name] for name in _SAMPLING if name in stored}
    return ChatFormat(kind, sampling, tuple(sorted(stored.keys() - sampling.keys() - _REPLACED)))
