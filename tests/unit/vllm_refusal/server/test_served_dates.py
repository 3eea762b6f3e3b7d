"""`refusal serve --date`: one date for every chat that a server renders, listed, and compared among servers."""

import asyncio
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from tiny_models import TEMPLATE, tiny_tokenizer
from transformers import PreTrainedTokenizerBase

from eval.cli import main
from eval.endpoints.served_models import ServedModels
from eval.generation.answering import GenerationError, _check_dates
from surgery.console.errors import ModelError
from vllm_refusal.compatibility.wrapping import owner_of
from vllm_refusal.server import chat_date
from vllm_refusal.server import launch as server
from vllm_refusal.server import names as serving

DATED = "{{ strftime_now('%d %b %Y') }} " + TEMPLATE
HELLO = [{"role": "user", "content": "Hi"}]


def served(*words, monkeypatch):
    """`refusal serve` up to where vLLM would start, and the date that templates are told there."""
    dates = []
    monkeypatch.setattr(server, "run_server", lambda *_arguments: dates.append(chat_date.told()))
    return dates, CliRunner().invoke(main.get_command(None, "serve"), ["model", *words])


@pytest.mark.parametrize(("words", "date"), [((), "2031-01-01"), (("--date", "2024-07-26"), "2024-07-26")])
def test_a_server_says_the_date_that_it_tells_templates_today_s_by_default(words, date, monkeypatch):
    monkeypatch.setattr("surgery.model.chat.today", lambda: "2031-01-01")
    stock = PreTrainedTokenizerBase.apply_chat_template
    dates, found = served(*words, monkeypatch=monkeypatch)
    assert found.exit_code == 0, found.output
    assert f"are told {date}\n" in found.output and dates == [date]
    assert chat_date.told() is None and PreTrainedTokenizerBase.apply_chat_template is stock  # afterwards


def test_what_is_no_date_starts_no_server(monkeypatch):
    dates, found = served("--date", "yesterday", monkeypatch=monkeypatch)
    assert found.exit_code == 2 and "--date" in found.output and dates == []
    with pytest.raises(ModelError, match="expected a date as YYYY-MM-DD"), chat_date.telling("26 July 2024"):
        pass


def test_vllm_s_copies_of_its_tokenizer_see_the_date_whatever_a_request_says():
    from vllm.renderers.hf import safe_apply_chat_template
    from vllm.tokenizers.hf import maybe_make_thread_pool

    tokenizer = maybe_make_thread_pool(tiny_tokenizer(DATED), 2)
    model = SimpleNamespace(trust_remote_code=False)
    for keys in ({}, {"strftime_now": "1 Jan 1999"}):
        with chat_date.telling("2024-07-26"):
            text = safe_apply_chat_template(
                model, tokenizer, HELLO, chat_template=DATED, tokenize=False, add_generation_prompt=True, **keys
            )
        assert text.startswith("26 Jul 2024 <s>"), text


def test_the_listing_of_a_server_says_its_date_and_a_client_reads_it(monkeypatch):
    from vllm.entrypoints.openai.models.protocol import BaseModelPath
    from vllm.entrypoints.openai.models.serving import OpenAIServingModels

    for place, wrapper in serving.wrapped().items():
        owner, method = owner_of(place)
        monkeypatch.setattr(owner, method, wrapper(getattr(owner, method)))
    client = SimpleNamespace(model_config=SimpleNamespace(max_model_len=64), renderer=None, input_processor=None)
    models = OpenAIServingModels(client, [BaseModelPath(name="base", model_path="/m")])

    def listing():
        return asyncio.run(models.show_available_models()).model_dump()

    assert ServedModels.from_listing("http://a/v1", listing()).date is None
    with chat_date.telling("2024-07-26"):
        listed = listing()
    assert ServedModels.from_listing("http://a/v1", listed).date == "2024-07-26"


def test_servers_that_tell_different_dates_are_refused_where_the_template_asks():
    replicas = [{"url": f"http://{name}/v1", "date": date} for name, date in (("a", "2024-07-26"), ("b", "2024-07-27"))]
    expected = "http://a/v1 tells chat templates the date 2024-07-26 and http://b/v1 tells them 2024-07-27; .*--date"
    with pytest.raises(GenerationError, match=expected):
        _check_dates({"servers": replicas}, "2024-07-26")
    _check_dates({"servers": replicas}, None)  # nobody asks
    _check_dates({"servers": [*replicas[:1] * 2, {"url": "http://c/v1"}]}, "2024-07-26")  # one does not say
    _check_dates({"dtype": "float32"}, "2024-07-26")  # an engine of ours
