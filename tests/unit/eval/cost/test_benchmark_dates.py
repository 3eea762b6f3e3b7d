"""A benchmark on a model whose template puts the date into prompts: one date for all, recorded, another refused."""

import json

import pytest
from click.testing import CliRunner
from tiny_models import TEMPLATE, tiny_tokenizer, write_model

from eval.cli import main
from eval.cost.benchmark import hf_backend
from eval.cost.benchmark.backends import Edits
from eval.cost.benchmark.damage import make_harmless
from eval.cost.benchmark.hf_backend import TransformersBackend, TransformersModel
from eval.cost.benchmark.served_backend import ServedBackend
from eval.endpoints.served_models import ServedModels
from eval.plan.conditions import BASELINE
from surgery.model.models import describe_model
from surgery.residual.subspace import random_subspace

DATED = "{{ strftime_now('%d %b %Y') }} " + TEMPLATE


@pytest.fixture
def today(monkeypatch):
    """today(date) makes it that day."""
    return lambda date: monkeypatch.setattr("surgery.model.chat.today", lambda: date)


@pytest.fixture(scope="module", params=[DATED, TEMPLATE], ids=["dated", "undated"])
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dated")
    write_model(folder / "m", "LlamaForCausalLM", n_layers=2)
    tiny_tokenizer(request.param).save_pretrained(folder / "m")
    return folder / "m"


@pytest.fixture
def is_dated(model):
    return "strftime_now" in (model / "chat_template.jinja").read_text()


@pytest.fixture
def asked(monkeypatch):
    """The texts that the harness was given to put before the model, as rendered."""
    found = []

    class Watched(TransformersModel):
        def apply_chat_template(self, *arguments, **options):
            found.append(super().apply_chat_template(*arguments, **options))
            return found[-1]

    monkeypatch.setattr(hf_backend, "TransformersModel", Watched)
    return found


@pytest.fixture
def bench(model, tmp_path):
    """bench(*options) scores two facts; returns what click saw."""

    def run(*options, out="bench"):
        words = [model, "--tasks", "facts", "--limit", 2, "--dtype", "float32", "-o", tmp_path / out, *options]
        return CliRunner().invoke(main.get_command(None, "benchmark"), [str(word) for word in words])

    return run


@pytest.fixture
def record(tmp_path):
    return lambda: json.loads((tmp_path / "bench" / "benchmark.json").read_text())


def test_documents_are_put_with_the_date_and_every_entry_says_it(bench, record, asked, is_dated):
    assert bench("--date", "2024-07-26").exit_code == 0
    assert asked and all(text.startswith("26 Jul 2024") is is_dated for text in asked)
    expected = "2024-07-26" if is_dated else None
    entries = [*record()["done"].values(), *record()["damage"].values()]
    assert len(entries) == 2 and [entry.get("date") for entry in entries] == [expected] * 2
    assert record()["settings"]["date"] == expected


def test_the_next_day_a_benchmark_goes_on_with_the_date_that_it_began_with(bench, record, asked, today, is_dated):
    today("2024-07-26")
    bench()
    begun, asked[:] = list(asked), []
    today("2024-07-27")
    assert bench().stderr == "" and asked == []
    assert bench("--tasks", "facts,short-answers").exit_code == 0 and asked
    assert all(text.startswith("26 Jul 2024") is is_dated for text in (*begun, *asked))
    assert bench("--force").exit_code == 0  # anew: of its own day
    assert record()["done"]["baseline.facts"].get("date") == ("2024-07-27" if is_dated else None)


def test_another_date_than_the_recorded_one_is_one_line_and_force_scores_anew(bench, record, is_dated):
    bench("--date", "2024-07-26")
    found = bench("--date", "2024-07-27")
    if is_dated:
        assert found.exit_code == 1 and "was scored with the date 2024-07-26, this call has 2024-07-27" in str(
            found.exception
        )
        assert "--date 2024-07-26" in str(found.exception)
        assert bench("--date", "2024-07-27", "--force").exit_code == 0
        assert record()["done"]["baseline.facts"]["date"] == "2024-07-27"
    else:
        assert found.exit_code == 0 and found.stderr == ""


def test_an_edit_made_with_another_date_is_refused(bench, model, tmp_path, is_dated):
    info = describe_model(model)
    subspace = random_subspace(info.d_model, 1, seed=0)
    subspace.header.update(date="2024-07-26")
    subspace.save(tmp_path / "sub.safetensors")
    options = ["--ablation", f"a={tmp_path / 'sub.safetensors'},allow_other_model=true"]
    found = bench(*options, "--date", "2025-01-01")
    if is_dated:
        assert found.exit_code == 1 and "sub.safetensors was made with the date 2024-07-26" in str(found.exception)
    else:
        assert found.exit_code == 0


def test_without_a_chat_template_there_is_no_date(bench, record):
    assert bench("--no-chat-template").exit_code == 0
    assert record()["settings"]["date"] is None
    found = bench("--no-chat-template", "--date", "2024-07-26")
    assert found.exit_code == 2 and "--no-chat-template" in found.stderr


def test_every_backend_renders_with_the_date_itself(model, is_dated):
    info = describe_model(model)
    messages = [{"role": "user", "content": "Hi"}]

    class Server:
        served = ServedModels("http://here/v1", "m", {}, 64)

    hf = TransformersBackend(info, Edits().plan(info), "float32")
    for backend in (hf, ServedBackend(Server(), info)):
        with backend.loaded(BASELINE, "2024-07-26") as loaded:
            assert loaded.apply_chat_template(messages).startswith("26 Jul 2024") is is_dated
    first, other = (make_harmless(info, True, date, True).prompts for date in ("2024-07-26", "1999-12-31"))
    assert (first != other) is is_dated
