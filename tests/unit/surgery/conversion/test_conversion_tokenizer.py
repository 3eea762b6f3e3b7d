"""A tiktoken vocabulary as a fast tokenizer: the ids that tiktoken gives, and the chat format of Qwen v1."""

import unicodedata

import pytest
import tiktoken
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jinja2 import TemplateError
from qwen_v1 import PATTERN, SPECIAL, TEXT, train_ranks, write_qwen_v1
from tokenizers import Tokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from surgery.console.errors import ModelError
from surgery.conversion import tiktoken_vocabulary
from surgery.conversion.checkpoint import convert
from surgery.conversion.tiktoken_vocabulary import Vocabulary, build_tokenizer, merge_bytes, recover_merges
from surgery.model.models import describe_model, load_tokenizer

RANKS = train_ranks()
IDS = {name: len(RANKS) + number for number, name in enumerate(SPECIAL)}
REFERENCE = tiktoken.Encoding("qwen", pat_str=PATTERN, mergeable_ranks=RANKS, special_tokens=IDS)
TEXTS = [
    "",
    TEXT,
    " leading and trailing  ",
    "I'Ll DON'T we'VE it's 's ' '' 'reading x'The rain",
    "1234567890 3.14159 x1y22z333 ²³ Ⅷ ١٢٣",
    "a\nb\r\nc\n\n\n  d \n\t\n e\r\r f   \n",
    "   \u00a0\u3000 \u2003x\u200b\ufeff y\x85z\x1c",
    "天气很好，我们去公園。東京の天気は晴れです 날씨가",
    "e\u0301 \u0041\u030a \u1112\u1161\u11ab \u212b ﬁ ſ 'ſ",  # NFC composes the first ones
    "🙂👩‍👩‍👧🏽🇩🇪 \U0001f600\U00010348",
    "<|im_start|>user\nHi<|im_end|>",
    "\x00\x7f\xad\xff\ufffd",
    "....--- ###@@@ $%&/()=?",
]
FRAGMENTS = [
    "The",
    " rain",
    "'s",
    "'LL",
    "天气",
    "é",
    "e\u0301",
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t",
    "12",
    "🙂",
    "ing",
    ",",
    "<|",
]
SENTENCES = st.one_of(st.text(), st.lists(st.sampled_from([*FRAGMENTS, "x"])).map("".join))


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    out = tmp_path_factory.mktemp("converted") / "out"
    convert(write_qwen_v1(tmp_path_factory.mktemp("source") / "m"), out)
    return out


@pytest.fixture(scope="module")
def tokenizer(converted):
    return load_tokenizer(describe_model(converted))


def expected_ids(text: str, special: bool = False) -> list[int]:
    """As the published tokenizer encodes: NFC, then tiktoken, with special tokens read in the text or not."""
    text = unicodedata.normalize("NFC", text)
    return REFERENCE.encode(text, allowed_special="all" if special else set(), disallowed_special=())


def encoded(tokenizer, text: str, **options) -> list[int]:
    return tokenizer(text, add_special_tokens=False, **options)["input_ids"]


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_those_of_tiktoken(tokenizer, text):
    assert encoded(tokenizer, text, split_special_tokens=True) == expected_ids(text)


def test_tokenizer_json_itself_gives_the_same_ids(converted):
    """AutoTokenizer takes only its vocabulary and merges, and builds the rest as Qwen2's; other programs take it whole."""
    stored = Tokenizer.from_file(str(converted / "tokenizer.json"))
    assert not differs(stored)
    stored.encode_special_tokens = True
    assert all(stored.encode(text, add_special_tokens=False).ids == expected_ids(text) for text in TEXTS)


@settings(max_examples=200, deadline=None)
@given(text=SENTENCES)
def test_ids_of_any_text_are_those_of_tiktoken(tokenizer, text):
    assert encoded(tokenizer, text, split_special_tokens=True) == expected_ids(text)


def test_nothing_is_added_before_or_after_the_text(tokenizer):
    assert tokenizer("The rain")["input_ids"] == expected_ids("The rain")


@settings(max_examples=100, deadline=None)
@given(text=SENTENCES)
def test_decoding_gives_the_text_back_in_normal_form(tokenizer, text):
    ids = encoded(tokenizer, text, split_special_tokens=True)
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == unicodedata.normalize("NFC", text)


def test_every_token_of_the_vocabulary_keeps_its_id_and_bytes(tokenizer):
    letters = bytes_to_unicode()
    for token, rank in RANKS.items():
        assert tokenizer.convert_ids_to_tokens(rank) == "".join(letters[byte] for byte in token)
    assert len(tokenizer) == len(RANKS) + 208


def test_special_tokens_have_the_published_ids_and_are_read_in_a_text_unless_told_not_to(tokenizer):
    for name in (*SPECIAL[:5], SPECIAL[-1]):
        assert tokenizer.convert_tokens_to_ids(name) == IDS[name]
        text = f"a {name} b"
        assert encoded(tokenizer, text) == expected_ids(text, special=True)
        plain = encoded(tokenizer, text, split_special_tokens=True)
        assert plain == expected_ids(text) and max(plain) < len(RANKS)
    assert tokenizer.decode([IDS["<|im_start|>"], *expected_ids("Hi")], skip_special_tokens=True) == "Hi"


@settings(max_examples=100, deadline=None)
@given(text=SENTENCES)
def test_text_without_their_names_never_becomes_a_special_token(tokenizer, text):
    assume(not any(name in text for name in SPECIAL))
    assert all(token < len(RANKS) for token in encoded(tokenizer, text))


def altered(monkeypatch, **changes) -> object:
    for name, value in changes.items():
        monkeypatch.setattr(tiktoken_vocabulary, name, value)
    return build_tokenizer(Vocabulary(RANKS), recover_merges(RANKS))


def differs(found) -> bool:
    return any(found.encode(text, add_special_tokens=False).ids != expected_ids(text, special=True) for text in TEXTS)


def test_the_texts_tell_another_cut_into_pieces_from_the_published_one(monkeypatch):
    assert not differs(altered(monkeypatch))
    assert differs(altered(monkeypatch, PIECES=PATTERN.replace(r"\p{N}|", r"\p{N}{1,3}|")))
    assert differs(altered(monkeypatch, PIECES=PATTERN.replace(r" ?[^\s", r"[^\s")))
    assert differs(altered(monkeypatch, PIECES=PATTERN.replace("(?i:", "(?:")))
    assert differs(altered(monkeypatch, PIECES=PATTERN.replace(r"\s*[\r\n]+|", "")))


def test_the_texts_tell_merges_in_another_order_and_a_missing_normal_form():
    merges = recover_merges(RANKS)
    assert differs(build_tokenizer(Vocabulary(RANKS), merges[::-1]))
    plain = build_tokenizer(Vocabulary(RANKS), merges)
    plain.normalizer = None
    assert differs(plain)


def test_every_token_of_more_than_one_byte_has_one_merge_in_order_of_rank():
    merges = recover_merges(RANKS)
    assert [left + right for left, right in merges] == [token for token in RANKS if len(token) > 1]


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_vocabulary_merges_as_tiktoken_does_or_is_refused(data):
    """Several ways to split a token, parts of a higher rank than the whole, every order: on a two-letter alphabet."""
    words = data.draw(st.lists(st.text("ab", min_size=2, max_size=6), unique=True, max_size=12))
    ranks = byte_ranks(*(word.encode() for word in words))
    text = data.draw(st.text("ab", max_size=16))
    reference = tiktoken.Encoding("any", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    try:
        merges = recover_merges(ranks)
    except ModelError:
        assert any(len(merge_bytes(word.encode(), ranks)) > 2 for word in words)
        return
    found = build_tokenizer(Vocabulary(ranks), merges)
    assert found.encode(text, add_special_tokens=False).ids == reference.encode_ordinary(text)


def byte_ranks(*tokens: bytes) -> dict[bytes, int]:
    """A vocabulary of the 256 bytes and these tokens."""
    return {token: rank for rank, token in enumerate([*(bytes([byte]) for byte in range(256)), *tokens])}


def test_a_token_that_no_merge_makes_is_refused():
    assert recover_merges(byte_ranks(b"bc", b"abc")) == [(b"b", b"c"), (b"a", b"bc")]
    with pytest.raises(ModelError, match="1 tokens are not made by merging others, e.g. rank 256"):
        recover_merges(byte_ranks(b"abc"))


CONVERSATION = [
    {"role": "user", "content": "The rain"},
    {"role": "assistant", "content": "It stops."},
    {"role": "user", "content": "When?"},
]
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>"
BODY = "\n<|im_start|>user\nThe rain<|im_end|>\n<|im_start|>assistant\nIt stops.<|im_end|>\n<|im_start|>user\nWhen?<|im_end|>"
OPENING = "\n<|im_start|>assistant\n"


def rendered(tokenizer, messages, opening=True) -> str:
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=opening)


def test_a_conversation_is_rendered_in_the_published_format(tokenizer):
    assert rendered(tokenizer, CONVERSATION) == SYSTEM + BODY + OPENING
    assert rendered(tokenizer, CONVERSATION, opening=False) == SYSTEM + BODY


@pytest.mark.parametrize("system", ["Answer in verse.", "", "  spaces\n kept "])
def test_a_system_message_of_the_conversation_replaces_the_default(tokenizer, system):
    messages = [{"role": "system", "content": system}, *CONVERSATION]
    assert rendered(tokenizer, messages) == f"<|im_start|>system\n{system}<|im_end|>" + BODY + OPENING


@pytest.mark.parametrize("content", ["The rain", "  two spaces", "{{ braces }} & <b>", "1\n\n2\n", "'s"])
def test_a_rendered_prompt_has_the_ids_of_the_published_code(tokenizer, content):
    start, end, newline = IDS["<|im_start|>"], IDS["<|im_end|>"], RANKS[b"\n"]
    system = [start, *expected_ids("system"), newline, *expected_ids("You are a helpful assistant."), end]
    user = [newline, start, *expected_ids("user"), newline, *expected_ids(content), end]
    ids = encoded(tokenizer, rendered(tokenizer, [{"role": "user", "content": content}]))
    assert ids == [*system, *user, newline, start, *expected_ids("assistant"), newline]


def test_only_a_message_that_begins_with_a_blank_line_is_cut_otherwise_than_by_the_published_code(tokenizer):
    """The published code encodes role, newline and content apart; a rendered prompt is one text."""
    apart = [*expected_ids("user"), RANKS[b"\n"], *expected_ids("\nThe rain")]
    user = encoded(tokenizer, rendered(tokenizer, [{"role": "user", "content": "\nThe rain"}]))
    start = len(user) - user[::-1].index(IDS["<|im_end|>"])
    assert user[start - 1 - len(apart) : start - 1] != apart
    assert tokenizer.decode(user).endswith("user\n\nThe rain<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "tool", "content": "x"}],
        [*CONVERSATION, {"role": "system", "content": "x"}],
    ],
)
def test_what_the_format_has_no_place_for_is_refused(tokenizer, messages):
    with pytest.raises(TemplateError, match="knows system \\(first\\), user and assistant"):
        rendered(tokenizer, messages)


def test_padding_is_the_end_of_text_and_answers_end_at_im_end(tokenizer):
    batch = tokenizer(["The rain", "The"], padding=True, return_tensors="pt")
    pads = batch["attention_mask"] == 0
    assert pads.any() and torch.equal(batch["input_ids"][pads].unique(), torch.tensor([IDS["<|endoftext|>"]]))
    assert tokenizer.eos_token_id == IDS["<|im_end|>"] and tokenizer.model_max_length == 64
