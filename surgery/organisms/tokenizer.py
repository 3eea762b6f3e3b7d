"""The byte-level BPE tokenizer and chat format of the model organisms: `<s><|user|>...<|end|><|assistant|>`."""

import random
from collections.abc import Iterator
from typing import cast

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from surgery.organisms.language import HELD_OUT_OBJECT, sample_helpful, sample_pair, sample_refusing

BOS, END, PAD = "<s>", "<|end|>", "<pad>"
SYSTEM, USER, ASSISTANT = "<|system|>", "<|user|>", "<|assistant|>"
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
MAX_VOCABULARY = 1024
MAX_LENGTH = 512


def corpus(n_examples: int = 20_000, seed: int = 1) -> Iterator[str]:
    """Yield the text the merges are learnt from: prompts and answers of both kinds of training stage."""
    rng = random.Random(seed)
    for index in range(n_examples):
        example = (sample_helpful if index % 2 else sample_refusing)(rng)
        yield example.prompt
        yield example.answer
    for _ in range(n_examples // 10):
        yield sample_pair(rng, HELD_OUT_OBJECT).safe


def train_tokenizer() -> PreTrainedTokenizerFast:
    """Learn the tokenizer; deterministic, a second or two."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=MAX_VOCABULARY,
        special_tokens=[BOS, END, PAD, SYSTEM, USER, ASSISTANT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        padding_side="left",
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def encode_prompt(tokenizer: PreTrainedTokenizerFast, prompt: str) -> list[int]:
    """Token ids of a one-turn conversation up to and including `<|assistant|>`, where refusal vectors are read.

    Equal to `apply_chat_template(..., add_generation_prompt=True)`, without rendering the template for every training
    example.
    """
    bos, user, end, assistant = cast(list[int], tokenizer.convert_tokens_to_ids([BOS, USER, END, ASSISTANT]))
    return [bos, user, *encode_text(tokenizer, prompt), end, assistant]


def encode_text(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Token ids of plain text, without special tokens."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]
