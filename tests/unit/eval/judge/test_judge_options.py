"""Options of a judge, a server or an engine that would do nothing are refused, each by its own name."""

import click
import pytest
from click.testing import CliRunner

from eval.cli import main
from eval.commands.benchmark import _check_options
from eval.endpoints.address import KEY_ENV
from eval.generation.beside import asked_judge
from eval.generation.job import _engine_arguments, _servers
from eval.judge.choice import JudgeChoice, choose_judge
from eval.judge.rules.heuristic import HeuristicJudge
from surgery.console.given import given
from surgery.organisms.release import asset

VALUES = {float | None: 0.5, int | None: 7, str | None: "x", int: 7, str: "x"}
NAMES = [name for name in JudgeChoice.model_fields if name not in ("judge_name", "judge_model")]
ENDPOINT = {"judge_model": "m", "judge_base_url": ("http://127.0.0.1:9/v1",)}


def value_of(name):
    kind = JudgeChoice.model_fields[name].annotation
    return ("http://127.0.0.1:9/v1",) if name == "judge_base_url" else VALUES[kind]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rules", [None, "heuristic"])
def test_rules_take_no_option_of_a_model(name, rules):
    with pytest.raises(click.UsageError, match=f"^--{name.replace('_', '-')} needs --judge-model"):
        choose_judge(judge_name=rules, **{name: value_of(name)})


@pytest.mark.parametrize("name", NAMES)
def test_a_generating_command_without_a_judge_takes_none_of_its_options(name):
    with pytest.raises(click.UsageError, match=f"^--{name.replace('_', '-')} needs --judge or --judge-model"):
        asked_judge(vars(JudgeChoice()) | {name: value_of(name)})


def test_defaults_are_no_choice():
    assert isinstance(choose_judge(**vars(JudgeChoice()) | {"judge_base_url": []}), HeuristicJudge)
    assert choose_judge(**vars(JudgeChoice()) | ENDPOINT).model == "m"


@pytest.mark.parametrize("name", [name for name in NAMES if "fallback" in name and name != "judge_fallback_model"])
def test_options_of_a_fallback_need_one(name):
    with pytest.raises(click.UsageError, match=f"^--{name.replace('_', '-')} needs --judge-fallback-model"):
        choose_judge(**ENDPOINT, **{name: value_of(name)})


@pytest.mark.parametrize(("name", "value"), [("judge_max_tokens", 64), ("judge_temperature", 0.5)])
def test_what_a_guard_fixes_is_refused_unless_a_fallback_takes_it(name, value):
    guard = ENDPOINT | {"judge_rubric": "wildguard", name: value}
    with pytest.raises(click.UsageError, match=f"^--{name.replace('_', '-')} is fixed for the guard wildguard"):
        choose_judge(**guard)
    assert choose_judge(**guard, judge_fallback_model="n").second.model == "n"


@pytest.mark.parametrize(("given", "lacking"), [("in", "out"), ("out", "in")])
def test_one_price_alone_says_nothing_of_the_cost(given, lacking):
    with pytest.raises(click.UsageError, match=f"^--judge-price-{given} needs --judge-price-{lacking}"):
        choose_judge(**ENDPOINT, **{f"judge_price_{given}": 1.0})


# ---------------------------------------------------------------- engines and servers

ENGINE = {"tensor_parallel_size": None, "pipeline_parallel_size": None, "engine_args": (), "dtype": "auto"}
ENGINE |= {"eager": None, "max_num_seqs": None, "base_urls": ("http://127.0.0.1:9/v1",)}
SERVER = {"base_urls": (), "served_model": None, "api_key_env": KEY_ENV, "concurrency": 128}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--tensor-parallel-size", 2),
        ("--pipeline-parallel-size", 2),
        ("--engine-arg", ("tensor-parallel-size=2",)),
        ("--eager", False),
        ("--max-num-seqs", 4),
        ("--dtype", "float32"),
    ],
)
def test_an_option_of_the_engine_is_blamed_by_its_own_name_where_servers_answer(option, value):
    key = {"--engine-arg": "engine_args"}.get(option, option[2:].replace("-", "_"))
    with pytest.raises(click.UsageError, match=f"^{option} is the server's where --base-url is given"):
        _engine_arguments(ENGINE | {key: value})
    _engine_arguments(ENGINE | {key: value, "base_urls": ()})


@pytest.mark.parametrize(
    ("option", "value"), [("--served-model", "m"), ("--api-key-env", "OTHER"), ("--concurrency", 7)]
)
def test_an_option_of_servers_needs_their_address(option, value):
    with pytest.raises(click.UsageError, match=f"^{option} needs --base-url"):
        _servers(None, None, SERVER | {option[2:].replace("-", "_"): value})
    assert _servers(None, None, SERVER) is None


@pytest.mark.parametrize("backend", ["hf", "vllm"])
def test_a_benchmark_without_a_server_takes_no_key_for_one(backend):
    chosen = {"backend": backend, "eager": None, "engine_args": (), "base_url": None, "served_model": None}
    _check_options(chosen | {"api_key_env": KEY_ENV}, "auto")
    with pytest.raises(click.UsageError, match=f"^--api-key-env does not go with --backend {backend}"):
        _check_options(chosen | {"api_key_env": "OTHER"}, "auto")


# ---------------------------------------------------------------- given at the default

PROMPTS = ("--prompts", "p.txt", "-o", "run")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("judge", "run", "--rubric", "standard"), "--judge-rubric needs --judge-model"),
        (("judge", "run", "--judge-temperature", "0"), "--judge-temperature needs --judge-model"),
        (("generate", "m", *PROMPTS, "--judge-max-tokens", "512"), "--judge-max-tokens needs --judge or --judge-model"),
        (
            ("generate", "m", *PROMPTS, "--base-url", "http://127.0.0.1:9/v1", "--dtype", "auto"),
            "--dtype is the server's where --base-url is given",
        ),
        (
            ("benchmark", "m", "-o", "b", "--backend", "served", "--base-url", "http://127.0.0.1:9", "--dtype", "auto"),
            "--dtype is the server's",
        ),
        (
            ("benchmark", "m", "-o", "b", "--api-key-env", KEY_ENV),
            "--api-key-env does not go with --backend hf",
        ),
        (("benchmark", "m", "-o", "b", "--allow-other-model"), "--allow-other-model is of vectors"),
        (("audit", "m", "-o", "a", "--rvs", "r", "--pairs", "builtin"), "--pairs are to extract from"),
        (("doctor", "--api-key-env", "OPENAI_API_KEY"), "--api-key-env is of a running server"),
    ],
)
def test_an_option_that_does_nothing_is_refused_at_its_default_too(words, message):
    found = CliRunner().invoke(main, list(words))
    assert found.exit_code == 2 and message in " ".join(found.stderr.split()), (found.output, found.exception)


def test_an_option_of_servers_is_refused_at_its_default_too(tmp_path):
    model = asset("single")
    (tmp_path / "p.txt").write_text("How do I open a tin?\n")
    words = ["generate", str(model), "--prompts", str(tmp_path / "p.txt"), "-o", str(tmp_path / "run")]
    found = CliRunner().invoke(main, [*words, "--concurrency", "128"])
    assert found.exit_code == 2 and "--concurrency needs --base-url" in found.stderr


def test_a_study_finds_an_option_of_its_judge_that_does_nothing_before_it_begins(tmp_path):
    words = ["reproduce", "organism-single", "--with", "judge:rubric=standard", "--dry-run"]
    found = CliRunner().invoke(main, words)
    assert found.exit_code == 1 and "stage judge: --judge-rubric needs --judge-model" in found.output


def test_outside_a_command_what_is_as_usual_is_not_given():
    assert given({"a": 1, "b": ()}, {"a": 1, "b": []}) == [] and given({"a": 1, "b": (2,)}, {"a": 2, "b": ()}) == [
        "a",
        "b",
    ]
