"""The data of the response browser: judges, repeats, redacted rows, sets that may stand open, compression."""

import base64
import gzip
import json
from dataclasses import replace

import pytest
from synthetic_runs import TEXTS, RunMaker, rv

from eval.records.redaction import Redaction
from eval.records.run import Run
from eval.report.browser import COMPRESSED_FROM, browser_data, embed
from eval.report.report import read_results


def _data(run: Run, judge_id=None):
    """(data of the only run, its texts)."""
    data = browser_data(read_results([run], judge_id))
    return data["runs"][0], data["texts"]


@pytest.fixture
def maker(tmp_path):
    return RunMaker(tmp_path / "run", n_prompts=6).add(rv(3), 0.5)


def test_every_judge_is_there_and_the_reported_one_is_first(maker):
    maker.verdicts += [replace(verdict, judge_id="a-judge", evidence="other words") for verdict in maker.verdicts]
    run, texts = _data(maker.write())
    assert run["judges"] == ["LLM judge a-judge", "heuristic-v1"]
    assert [(row[0], texts[row[4]]) for row in run["answers"][0][6]] == [(0, "other words"), (1, "opening words")]


def test_a_chosen_judge_comes_first(tmp_path):
    maker = RunMaker(tmp_path / "run", n_prompts=6, judge="z").add(rv(3), 0.5)
    maker.verdicts += [replace(verdict, judge_id="y") for verdict in maker.verdicts]
    run = maker.write()
    assert _data(run, "z")[0]["judges"] == ["LLM judge z", "y"]
    assert _data(run, "y")[0]["judges"] == ["LLM judge y", "z"]


def test_repeats_stand_in_their_order_though_written_in_another(maker):
    first = maker.verdicts[0]
    maker.verdicts = [replace(first, repeat=1, compliance=1.0, outcome="compliance"), *maker.verdicts]
    run, _ = _data(maker.write())
    assert [row[1] for row in run["answers"][0][6]] == [0.0, 1.0]
    assert len(run["answers"][1][6]) == 1


def test_a_response_without_verdict_has_none_and_an_unscored_one_its_reason(maker):
    maker.verdicts = maker.verdicts[1:]
    maker.verdicts[0] = replace(
        maker.verdicts[0], status="unscored", compliance=None, coherence=None, outcome="", reason="transport"
    )
    run, texts = _data(maker.write())
    assert run["answers"][0][6] == []
    assert [[row[1], row[2], texts[row[3]]] for row in run["answers"][1][6]] == [[None, None, "transport"]]


def test_redacted_rows_have_length_and_hash_and_no_text_is_left(maker):
    run = maker.write()
    run.redact(Redaction.new(prompts=True))
    data, texts = _data(run)
    answer, row = data["answers"][0], run.generations()[0]
    assert answer[5] == len(TEXTS[0.0]) and texts[answer[3]] == row.response_sha256
    assert {prompt[2] for prompt in data["prompts"]} == {None}
    assert not any(text in texts for text in TEXTS.values())


def test_rows_that_are_not_redacted_keep_text_and_prompt(maker):
    data, texts = _data(maker.write())
    assert {answer[5] for answer in data["answers"]} == {None}
    assert texts[data["answers"][0][3]] == TEXTS[0.0] and data["prompts"][0][2].startswith("How do I")


def test_only_sets_of_harmless_prompts_may_stand_open(maker):
    renamed = {"safe-3": "overrefusal", "safe-4": "extreme"}
    maker.generations = [
        replace(row, prompt_set=renamed.get(row.prompt_id, row.prompt_set)) for row in maker.generations
    ]
    data, _ = _data(maker.write())
    assert data["harmless"] == ["safe", "overrefusal"]
    assert {prompt[0] for prompt in data["prompts"]} == {"harmful", "safe", "overrefusal", "extreme"}


def test_long_data_is_compressed_and_reads_back_whole():
    data = {"texts": ["</script> é中 \u2028 " * (COMPRESSED_FROM // 14)]}
    embedded = embed(data)
    assert embedded.media_type == "application/gzip" and len(embedded.text) < COMPRESSED_FROM // 4
    assert not set(embedded.text) & set("<>&'\"")
    assert json.loads(gzip.decompress(base64.b64decode(embedded.text))) == data
    assert embed(data) == embedded  # no time of day in it


def test_short_data_stays_readable():
    assert embed({"texts": ["plain"]}).text == '{"texts":["plain"]}'
    assert embed({"texts": ["plain"]}).media_type == "application/json"
