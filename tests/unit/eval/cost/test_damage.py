"""Damage without an engine: divergence, intervals, windows of text, the record, and what the command refuses."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from tiny_models import TEMPLATE, tiny_tokenizer, write_model

from eval.cli import main
from eval.cost.damage import run_damage
from eval.cost.damage.measures import Damage, kl_divergence, mean_interval, perplexity
from eval.cost.damage.records import DamageRecord, Inputs, load_damage
from eval.cost.damage.texts import BUILT_IN, TextError, cut_windows, load_documents
from eval.generation import engines
from eval.plan.conditions import BASELINE, Condition
from eval.records.run import Run
from surgery.console.errors import ArtifactError
from surgery.model.models import describe_model, load_tokenizer
from surgery.organisms.release import asset

INPUTS = Inputs(2, "a", 3, 16, "b", "built in", "float32")


def logs(*probabilities):
    with np.errstate(divide="ignore"):
        return np.log(np.array(probabilities, dtype=np.float32))


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(describe_model(asset("single")))


def test_divergence_of_known_distributions_is_that_of_scipy():
    from scipy.stats import entropy

    p, q = (0.7, 0.2, 0.1), (0.1, 0.3, 0.6)
    assert kl_divergence(logs(*p), logs(*q)) == pytest.approx(entropy(p, q), abs=1e-6)
    assert kl_divergence(logs(*q), logs(*p)) != pytest.approx(entropy(p, q), abs=1e-2)  # it has a direction


def test_divergence_of_a_distribution_from_itself_is_zero_and_never_negative():
    random = np.random.default_rng(0)
    p = logs(*random.dirichlet(np.ones(1000)))
    assert kl_divergence(p, p) == 0
    assert kl_divergence(p, p + np.float32(1e-7)) >= 0


def test_a_token_that_the_baseline_excludes_costs_nothing_and_one_that_it_allows_is_infinite():
    assert kl_divergence(logs(0.5, 0.5, 0.0), logs(0.25, 0.25, 0.5)) == pytest.approx(math.log(2), abs=1e-6)
    assert kl_divergence(logs(0.25, 0.25, 0.5), logs(0.5, 0.5, 0.0)) == math.inf


def test_an_interval_holds_its_mean_and_equal_values_claim_none():
    found = mean_interval([0.1, 0.5, 2.5, 7.0])
    assert found.estimate == pytest.approx(2.525)
    assert found.low < found.estimate < found.high
    flat = mean_interval([3.0, 3.0])
    assert (flat.low, flat.high, flat.method) == (3.0, 3.0, "constant")


def test_perplexity_of_a_uniform_guess_is_the_number_of_choices():
    assert perplexity([math.log(8), math.log(8)]) == pytest.approx(8)


def test_windows_are_equal_do_not_overlap_and_leave_the_rest_out(tokenizer):
    documents = load_documents(BUILT_IN)
    windows = cut_windows(tokenizer, documents, 64)
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    assert {len(window.token_ids) for window in windows} == {64}
    whole = tokenizer("\n\n".join(documents), add_special_tokens=False, verbose=False)["input_ids"]
    joined = [token for window in windows for token in window.token_ids[len(start) :]]
    assert joined == whole[: len(joined)]
    assert 0 <= len(whole) - len(joined) < 64


def test_a_text_shorter_than_a_window_is_refused(tokenizer):
    with pytest.raises(TextError, match="fills no window of 64"):
        cut_windows(tokenizer, ["a few words"], 64)


def test_documents_are_read_from_plain_text_and_from_json_lines(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n\n{"text": "two"}\n')
    assert load_documents(tmp_path / "a.txt") == ["one\n\ntwo"]
    assert load_documents(tmp_path / "a.jsonl") == ["one", "two"]


def test_a_line_of_json_ends_at_its_newline_and_not_at_a_separator_within_a_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one\u2028still one\x85"}\r\n{"text": "two"}\n')
    assert load_documents(tmp_path / "a.jsonl") == ["one\u2028still one", "two"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "one"}\n{"body": "two"}\n', "line 2"),
        ("a.jsonl", '{"text": 3}\n', "must be a string"),
        ("a.jsonl", '{"text": "one"}\n\n{"text": "two \\ud800"}\n', "line 3.*surrogate"),
        ("a.txt", "  \n", "holds no text"),
    ],
)
def test_a_file_without_text_is_refused_with_its_place(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(TextError, match=message):
        load_documents(tmp_path / name)


def test_a_record_is_read_as_it_was_saved(tmp_path):
    damage = Damage(12.5, mean_interval([0.1, 0.3]), 0.5, mean_interval([0.2, -0.1]))
    record = DamageRecord(INPUTS, {"baseline": Damage(11.0), "rv": damage})
    record.save(tmp_path)
    assert load_damage(tmp_path) == record


def test_no_record_is_none_and_a_broken_one_is_refused(tmp_path):
    assert load_damage(tmp_path) is None
    (tmp_path / "damage.json").write_text(json.dumps({"kind": "damage", "format_version": 9}))
    with pytest.raises(ArtifactError, match=r"damage\.json"):
        load_damage(tmp_path)


def test_the_command_refuses_a_folder_that_is_no_run(tmp_path):
    found = CliRunner().invoke(main, ["damage", str(tmp_path)])
    assert found.exit_code == 1
    assert "not a run folder" in found.output


# ---------------------------------------------------------------- the date in prompts

DATED = "{{ strftime_now('%d %b %Y') }} " + TEMPLATE


class NoEngine:
    """Stands where the engine would."""

    max_model_len, description = 1000, {"dtype": "float32"}

    def __init__(self, *_arguments):
        pass

    def close(self):
        pass


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """measured(template, *options, **manifest): `refusal damage` on a run of two safe prompts; (what click saw, inputs)."""

    def baseline(engine, harmless):
        return SimpleNamespace(damage=Damage(3.0), harmless=harmless)

    monkeypatch.setattr(engines, "Engine", NoEngine)
    monkeypatch.setattr(run_damage, "measure_baseline", baseline)
    monkeypatch.setattr(run_damage, "measure", lambda *_inputs: Damage(4.0))

    def run(template, *options, **manifest):
        if not (tmp_path / "m").exists():
            write_model(tmp_path / "m", "LlamaForCausalLM", n_layers=2)
            tiny_tokenizer(template).save_pretrained(tmp_path / "m")
            random = Condition("random:1", "random", "random", alpha=1.0, layers="all", request={"ablation": "r"})
            (tmp_path / "r.safetensors").touch()
            info = describe_model(tmp_path / "m").to_json()
            about = {"model": info, "modules": {"r": {"path": str(tmp_path / "r.safetensors")}}, **manifest}
            Run.create(tmp_path / "run", about | {"conditions": [BASELINE.to_json(), random.to_json()]})
            (tmp_path / "safe.txt").write_text("How do I boil an egg?\nHow do I bake bread?\n")
        words = ["damage", tmp_path / "run", "--safe-prompts", tmp_path / "safe.txt", "--window", 16, *options]
        found = CliRunner().invoke(main.get_command(None, "damage"), list(map(str, words[1:])))
        record = load_damage(tmp_path / "run")
        return found, record and record.inputs

    return run


@pytest.fixture
def today(monkeypatch):
    """today(date) makes it that day."""
    return lambda date: monkeypatch.setattr("surgery.model.chat.today", lambda: date)


@pytest.mark.parametrize(("template", "date"), [(DATED, "2024-07-26"), (TEMPLATE, None)])
def test_damage_is_measured_with_the_date_of_the_run_and_says_it(measured, today, template, date):
    today("2031-01-01")
    found, inputs = measured(template, date="2024-07-26")
    assert found.exit_code == 0, found.exception
    assert inputs.date == date


def test_where_the_run_says_no_date_damage_goes_on_with_its_own(measured, today):
    today("2024-07-26")
    _, begun = measured(DATED)
    today("2024-07-27")
    found, inputs = measured(DATED)
    assert found.exit_code == 0 and inputs.prompts_sha256 == begun.prompts_sha256
    assert inputs.date == "2024-07-26"
    found, inputs = measured(DATED, "--force")
    assert found.exit_code == 0 and inputs.date == "2024-07-27" and inputs.prompts_sha256 != begun.prompts_sha256


def test_damage_of_another_date_than_the_runs_is_refused_with_both(measured, tmp_path, today):
    today("2024-07-26")
    measured(DATED)
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps(manifest | {"date": "2025-01-01"}))
    found, _ = measured(DATED)
    assert found.exit_code == 1 and "date 2024-07-26 then, 2025-01-01 now" in str(found.exception)
    assert "--force" in str(found.exception)


def test_a_record_from_before_dates_is_taken_where_its_prompts_are_the_same(tmp_path):
    DamageRecord(INPUTS, {}).save(tmp_path)
    content = json.loads((tmp_path / "damage.json").read_text())
    del content["inputs"]["date"]
    (tmp_path / "damage.json").write_text(json.dumps(content))
    assert load_damage(tmp_path).inputs == replace(INPUTS, date="2024-07-26")
