"""Templates that put the date into prompts: one date for a study, recorded, and refused where it is another."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from lm_eval.models.huggingface import HFLM
from tiny_models import PAIRS, TEMPLATE, tiny_tokenizer, write_model

from eval.cli import main
from eval.generation import engines
from eval.generation.job import Job
from eval.judge.rules.heuristic import HeuristicJudge
from eval.plan.plan import PlanBuilder
from eval.records.run import Run
from eval.studies.audit.bench import Bench
from surgery.console.errors import ArtifactError, MismatchError, ModelError
from surgery.model.chat import pin_date, prompt_token_ids, render_prompt, template_date
from surgery.model.models import describe_model, load_tokenizer
from surgery.prompts import Prompt, PromptSet
from surgery.residual.subspace import Subspace
from surgery.residual.vectors import RefusalVectors
from vllm_refusal.engine.engine import EngineOptions, Response, Sampling

DATED = "{{ strftime_now('%d %b %Y') }} " + TEMPLATE
TIMED = "{{ strftime_now('%H:%M:%S.%f') }} " + TEMPLATE
OPTIONAL = "{% if not today is defined %}{% set today = strftime_now('%d %b %Y') %}{% endif %}{{ today }} " + TEMPLATE
PROMPTS = {"harmful": [Prompt("a", "How do I open a tin?")]}


@pytest.fixture
def today(monkeypatch):
    """today(date) makes it that day."""
    return lambda date: monkeypatch.setattr("surgery.model.chat.today", lambda: date)


@pytest.fixture(scope="module", params=[DATED, TEMPLATE], ids=["dated", "undated"])
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dates")
    write_model(folder / "m", "Qwen2ForCausalLM", n_layers=4)
    tiny_tokenizer(request.param).save_pretrained(folder / "m")
    rows = (json.dumps({"id": p.id, "harmful": p.harmful, "safe": p.safe}) for p in PAIRS)
    (folder / "pairs.jsonl").write_text("\n".join(rows))
    (folder / "is_dated").write_text("1" if request.param == DATED else "")
    return folder


def is_dated(folder):
    return bool((folder / "is_dated").read_text())


def invoke(name, *words):
    return CliRunner().invoke(main.get_command(None, name), list(map(str, words)))


def extract(folder, out, *options):
    result = invoke("extract", folder / "m", "--pairs", folder / "pairs.jsonl", "-o", out, "--force", *options)
    assert result.exit_code == 0, result.exception
    return RefusalVectors.load(out)


class Recorder:
    """An engine that answers at once and remembers what it was asked."""

    asked = []
    description = {}
    max_model_len = 1000

    def __init__(self, *_arguments):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        pass

    def generate(self, requests, sampling):
        type(self).asked += [request.token_ids for request in requests]
        return [Response(request.id, "no", "stop", len(request.token_ids), 1) for request in requests]


@pytest.fixture
def answer(folder, tmp_path, monkeypatch):
    """answer(...) runs a job in tmp_path/run; returns the rendered prompt of what it asked, or "" when nothing."""
    monkeypatch.setattr(engines, "Engine", Recorder)
    info = describe_model(folder / "m")

    def answer(rvs=None, date=None, layer=None, conditions=lambda builder: builder, out=tmp_path / "run"):
        builder = conditions(PlanBuilder(info.n_layers, info.d_model))
        if rvs:
            builder.single_vectors(rvs, layer or "1", [1.0])
        job = Job(info, builder.build(), {"harmful": "p"}, PROMPTS, Sampling(), EngineOptions(), rvs=rvs, date=date)
        monkeypatch.setattr(Recorder, "asked", [])
        job.run(out, False, lambda: None)
        tokens = tiny_tokenizer().convert_ids_to_tokens(Recorder.asked[0]) if Recorder.asked else []
        return "".join(tokens).replace("Ġ", " ")

    return answer


# ---------------------------------------------------------------- rendering


def test_a_template_sees_the_pinned_date_whatever_day_it_is(today):
    tokenizer = tiny_tokenizer(DATED)
    pin_date(tokenizer, "2024-07-26")
    today("2031-01-01")
    assert render_prompt(tokenizer, "Hi").startswith("26 Jul 2024 <s>") and template_date(tokenizer) == "2024-07-26"


def test_without_a_date_it_is_that_of_the_first_rendering_for_good(today):
    tokenizer = tiny_tokenizer(DATED)
    today("2024-07-26")
    first = prompt_token_ids(tokenizer, "Hi")
    today("2024-07-27")  # midnight passes
    assert prompt_token_ids(tokenizer, "Hi") == first != prompt_token_ids(tiny_tokenizer(DATED), "Hi")


def test_the_time_of_day_is_pinned_to_midnight():
    tokenizer = tiny_tokenizer(TIMED)
    pin_date(tokenizer, "2024-07-26")
    assert template_date(tokenizer) == "2024-07-26"
    assert render_prompt(tokenizer, "Hi").startswith("00:00:00.000000 ")


def test_a_template_that_does_not_ask_has_no_date():
    assert template_date(tiny_tokenizer()) is None
    assert template_date(tiny_tokenizer(OPTIONAL), {"today": "long ago"}) is None
    assert template_date(tiny_tokenizer(OPTIONAL)) is not None


def test_others_who_render_with_the_tokenizer_see_the_same_date(folder):
    tokenizer = load_tokenizer(describe_model(folder / "m"), "2024-07-26")
    messages = [{"role": "user", "content": "Hi"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == render_prompt(tokenizer, "Hi") and text.startswith("26 Jul 2024") is is_dated(folder)
    harness = HFLM.__new__(HFLM)
    harness.tokenizer, harness.chat_template_args = tokenizer, {}
    assert HFLM.apply_chat_template(harness, messages) == text


@pytest.mark.parametrize("date", ["26 July 2024", "2024-02-30", "2024-07-26T10:00", "20240726"])
def test_what_is_no_date_is_one_line(date):
    with pytest.raises(ModelError, match="expected a date as YYYY-MM-DD, found"):
        pin_date(tiny_tokenizer(DATED), date)


# ---------------------------------------------------------------- vectors


def test_vectors_and_what_is_made_of_them_record_the_date(folder, tmp_path):
    rvs = extract(folder, tmp_path / "rvs", "--date", "2024-07-26")
    expected = "2024-07-26" if is_dated(folder) else None
    assert rvs.header.get("date") == Subspace.from_vectors(rvs, "1").header.get("date") == expected
    assert ("2024-07-26" in invoke("show", "--all", tmp_path / "rvs").stdout) is is_dated(folder)


def test_the_date_decides_the_vectors_only_where_the_template_asks(folder, tmp_path):
    first, other = (extract(folder, tmp_path / date, "--date", date) for date in ("2024-07-26", "1999-12-31"))
    assert bool((first.vectors == other.vectors).all()) is not is_dated(folder)


def test_by_default_vectors_are_of_today(folder, tmp_path, today):
    today("2024-07-26")
    assert extract(folder, tmp_path / "rvs").header.get("date") == ("2024-07-26" if is_dated(folder) else None)


def test_a_date_that_is_none_is_a_usage_error(folder, tmp_path):
    result = invoke("extract", folder / "m", "--pairs", folder / "pairs.jsonl", "-o", tmp_path / "r", "--date", "today")
    assert result.exit_code == 2 and "--date" in result.stderr


# ---------------------------------------------------------------- runs


def test_a_run_keeps_the_date_it_began_with(folder, answer, today, tmp_path):
    today("2024-07-26")
    begun = answer()
    assert begun.startswith("26 Jul 2024") is is_dated(folder)
    assert Run.open(tmp_path / "run").manifest.date == ("2024-07-26" if is_dated(folder) else None)
    today("2024-07-27")
    (tmp_path / "run" / "generations.jsonl").unlink()
    assert answer() == begun  # the next day it goes on as it began
    assert answer(out=tmp_path / "other").startswith("27 Jul 2024") is is_dated(folder)  # and another is of its own day


def test_another_date_on_resuming_is_refused(folder, answer, tmp_path):
    answer(date="2024-07-26")
    if is_dated(folder):
        with pytest.raises(ArtifactError, match=r"another comparison \(the date differ"):
            answer(date="2024-07-27")
    else:
        assert answer(date="2024-07-27") == ""


def test_a_sweep_takes_the_date_of_its_vectors_and_refuses_another(folder, answer, today, tmp_path):
    extract(folder, tmp_path / "rvs", "--date", "2024-07-26")
    today("2025-01-01")
    assert answer(tmp_path / "rvs").startswith("26 Jul 2024") is is_dated(folder)
    if is_dated(folder):
        expected = r"rvs was made with the date 2024-07-26 .* this run has 2025-01-01; .*--date 2024-07-26"
        with pytest.raises(MismatchError, match=expected):
            answer(tmp_path / "rvs", "2025-01-01", out=tmp_path / "other")


def test_vectors_of_two_dates_are_refused_in_one_run(folder, answer, tmp_path):
    for name, date in (("rvs", "2024-07-26"), ("later", "2024-07-27")):
        extract(folder, tmp_path / name, "--date", date)
    added = {"conditions": lambda builder: builder.single_vectors(Path(tmp_path / "later"), "2", [1.0])}
    if is_dated(folder):
        with pytest.raises(MismatchError, match="2024-07-27 .*2024-07-26|2024-07-26 .*2024-07-27"):
            answer(tmp_path / "rvs", **added)
    else:
        answer(tmp_path / "rvs", **added)


def test_a_checkpoint_made_of_vectors_of_another_date_is_refused(folder, answer, tmp_path):
    extract(folder, tmp_path / "rvs", "--date", "2024-07-26")
    made = invoke("orthogonalize", folder / "m", tmp_path / "rvs", "--source-layer", "1", "-o", tmp_path / "edited")
    assert made.exit_code == 0, made.exception
    manifest = json.loads((tmp_path / "edited" / "surgery.json").read_text())
    added = {"conditions": lambda builder: builder.weights("checkpoint", tmp_path / "edited", manifest)}
    assert answer(**added).startswith("26 Jul 2024") is is_dated(folder)
    if is_dated(folder):
        with pytest.raises(MismatchError, match="edited was made with the date 2024-07-26"):
            answer(date="2024-07-28", out=tmp_path / "other", **added)


def test_vectors_that_do_not_say_their_date_are_taken(folder, answer, tmp_path):
    rvs = extract(folder, tmp_path / "rvs", "--date", "2024-07-26")
    old = {name: value for name, value in rvs.header.items() if name != "date"}
    replace(rvs, header=old).save(tmp_path / "rvs", force=True)
    assert answer(tmp_path / "rvs", "2025-01-01").startswith("01 Jan 2025") is is_dated(folder)


# ---------------------------------------------------------------- audits


def test_every_stage_of_an_audit_has_the_date_of_its_first_one(folder, today, tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "Engine", Recorder)
    info = describe_model(folder / "m")
    rvs = extract(folder, tmp_path / "rvs", "--date", "2024-07-26")
    old = {name: value for name, value in rvs.header.items() if name != "date"}
    replace(rvs, header=old).save(tmp_path / "rvs", force=True)  # vectors that do not say their date
    bench = Bench(tmp_path, info, tmp_path / "rvs", Sampling(8), EngineOptions(), HeuristicJudge)
    for date, stage in (("2025-01-01", "selection-01"), ("2025-01-02", "measured")):
        today(date)
        plan = PlanBuilder(info.n_layers, info.d_model).single_vectors(tmp_path / "rvs", "1", [1.0]).build()
        bench.ask(stage, plan, "harmful", PromptSet(tuple(PROMPTS["harmful"]), "p", "lines"))
        assert Run.open(bench.path(stage)).manifest.date == ("2025-01-01" if is_dated(folder) else None)
