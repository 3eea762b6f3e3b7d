"""`--dtype auto`: the stored type where the processor has units for it, float32 where it has none."""

import json

import pytest
import torch
from click.testing import CliRunner
from tiny_models import PAIRS, write_model

from eval.cli import main
from eval.cost.benchmark.benchmark import BenchmarkResults
from eval.cost.benchmark.record import Record
from eval.cost.benchmark.tasks import BenchmarkError
from eval.generation import engines
from eval.records.run import Run
from eval.studies.audit.preparation import _check_same
from surgery.console.errors import ArtifactError
from surgery.model import dtypes
from surgery.model.dtypes import has_units
from surgery.residual.vectors import RefusalVectors
from vllm_refusal.engine.engine import Response

WITHOUT = "processor : 0\nflags\t\t: fpu avx2 avx512f avx512_vnni\n"


@pytest.fixture
def processor(tmp_path, monkeypatch):
    """Makes the machine one without a GPU whose processor says this of itself."""

    def processor(text):
        (tmp_path / "cpuinfo").write_text(text)
        monkeypatch.setattr(dtypes, "CPU_INFO", tmp_path / "cpuinfo")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    return processor


@pytest.fixture(scope="module", params=["bfloat16", "float16"])
def folder(tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("dtypes")
    write_model(folder / "m", "LlamaForCausalLM", getattr(torch, request.param))
    rows = (json.dumps({"id": p.id, "harmful": p.harmful, "safe": p.safe}) for p in PAIRS)
    (folder / "pairs.jsonl").write_text("\n".join(rows))
    (folder / "stored").write_text(request.param)
    return folder


def extracted(folder, out, *options):
    """(dtype that the model ran in, what was said on stderr)."""
    given = [folder / "m", "--pairs", folder / "pairs.jsonl", "-o", out, "--force", *options]
    result = CliRunner().invoke(main.get_command(None, "extract"), list(map(str, given)))
    assert result.exit_code == 0, result.exception
    return RefusalVectors.load(out).header["dtype"], result.stderr


@pytest.mark.parametrize(
    ("text", "dtype", "expected"),
    [
        ("flags : avx512_bf16 avx512f\n", "bfloat16", True),
        ("flags : amx_bf16\n", "bfloat16", True),
        ("flags : avx512_fp16\n", "float16", True),
        ("Features : fp asimd bf16 i8mm\n", "bfloat16", True),
        ("Features : fp asimd asimdhp\n", "float16", True),
        ("flags : avx512_bf16\n", "float16", False),
        ("flags : avx512_bf16_not\n", "bfloat16", False),
        (WITHOUT, "bfloat16", False),
        (WITHOUT, "float32", True),
        ("nothing of the kind\n", "bfloat16", True),  # not known: as stored
    ],
)
def test_a_processor_is_read_by_its_own_flags(processor, text, dtype, expected):
    processor(text)
    assert has_units(dtype) is expected


def test_a_machine_that_says_nothing_of_its_processor_runs_what_is_stored(monkeypatch, tmp_path):
    monkeypatch.setattr(dtypes, "CPU_INFO", tmp_path / "nowhere")
    assert has_units("bfloat16") and has_units("float16")


def test_without_units_auto_runs_in_float32_and_says_so(folder, processor, tmp_path):
    stored = (folder / "stored").read_text()
    processor(WITHOUT)
    dtype, said = extracted(folder, tmp_path / "rvs")
    assert dtype == "float32" and f"in float32: this processor has no {stored} units" in said
    dtype, said = extracted(folder, tmp_path / "rvs", "--dtype", stored)
    assert dtype == stored and "units" not in said


def test_with_units_auto_runs_what_is_stored_and_says_nothing(folder, processor, tmp_path):
    processor("flags : avx512_bf16 avx512_fp16\n")
    dtype, said = extracted(folder, tmp_path / "rvs")
    assert dtype == (folder / "stored").read_text() and "units" not in said


# ---------------------------------------------------------------- engines of vLLM's

UNITS = "flags : avx512_bf16 avx512_fp16\n"


@pytest.mark.parametrize(
    ("stored", "quantized", "without", "with_units"),
    [
        ("bfloat16", False, "float32", "bfloat16"),
        ("float16", False, "float32", "float16"),
        ("float32", False, "float32", "float32"),  # vLLM itself would take bfloat16
        ("bfloat16", True, "auto", "auto"),
        ("I32", False, "auto", "auto"),
    ],
)
def test_an_engine_without_a_gpu_is_given_what_extraction_runs_in(processor, stored, quantized, without, with_units):
    processor(WITHOUT)
    assert dtypes.engine_dtype(stored, quantized) == without
    processor(UNITS)
    assert dtypes.engine_dtype(stored, quantized) == with_units


def test_on_a_gpu_the_choice_is_vllms(processor, monkeypatch):
    processor(WITHOUT)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert dtypes.engine_dtype("bfloat16", False) == "auto"


class Engine:
    """Answers at once, in the dtype it was given, or else in `own`."""

    own, given, n_asked = "bfloat16", [], 0
    max_model_len = 1000

    def __init__(self, _info, _modules, options, *_more):
        type(self).given.append(options.dtype)
        self.description = {"dtype": self.own if options.dtype == "auto" else options.dtype}

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        pass

    def generate(self, requests, sampling):
        type(self).n_asked += len(requests)
        return [Response(request.id, "no", "stop", len(request.token_ids), 1) for request in requests]


@pytest.fixture
def engine(monkeypatch):
    monkeypatch.setattr(engines, "Engine", Engine)
    for name, value in (("own", "bfloat16"), ("given", []), ("n_asked", 0)):
        monkeypatch.setattr(Engine, name, value)
    return Engine


@pytest.fixture
def generate(tmp_path, engine):
    """generate(*options): `refusal generate` in tmp_path/run on a model in bfloat16; what click saw."""
    write_model(tmp_path / "m", "LlamaForCausalLM", torch.bfloat16)
    (tmp_path / "prompts.txt").write_text("How do I open a tin?\nHow do I boil an egg?\n")

    def run(*options):
        words = [tmp_path / "m", "--prompts", tmp_path / "prompts.txt", "-o", tmp_path / "run", *options]
        return CliRunner().invoke(main.get_command(None, "generate"), list(map(str, words)))

    return run


def lose_a_response(run):
    path = run / "generations.jsonl"
    path.write_text(path.read_text().splitlines(keepends=True)[0])


def test_a_run_records_the_dtype_that_auto_is_and_goes_on_in_no_other(generate, engine, processor, tmp_path):
    processor(WITHOUT)
    begun = generate()
    assert begun.exit_code == 0 and "running in float32: this processor has no bfloat16 units" in begun.stderr
    assert engine.given == ["float32"]
    assert Run.open(tmp_path / "run").manifest.engine["dtype"] == "float32"
    lose_a_response(tmp_path / "run")
    processor(UNITS)  # the folder is carried to another machine
    found = generate()
    assert found.exit_code == 1 and "was begun in float32, and would go on in bfloat16" in str(found.exception)
    assert "give --dtype float32" in str(found.exception) and engine.n_asked == 2
    assert generate("--dtype", "float32").exit_code == 0 and engine.n_asked == 3


def test_a_run_begun_with_auto_left_to_vllm_goes_on_in_the_dtype_that_it_ran_in(
    generate, engine, processor, tmp_path, monkeypatch
):
    processor(WITHOUT)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert generate().exit_code == 0 and engine.given == ["auto"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for options, text, given in (
        ((), WITHOUT, []),
        (("--dtype", "bfloat16"), WITHOUT, ["bfloat16"]),
        ((), UNITS, ["bfloat16"]),
    ):
        lose_a_response(tmp_path / "run")
        engine.given.clear()
        processor(text)
        found = generate(*options)
        assert engine.given == given and (found.exit_code == 0) is bool(given), found.exception


def test_another_choice_of_vllms_is_refused_before_it_answers(generate, engine, processor, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert generate().exit_code == 0
    lose_a_response(tmp_path / "run")
    monkeypatch.setattr(engine, "own", "float16")  # a GPU without bfloat16
    found = generate()
    assert found.exit_code == 1 and "was begun in bfloat16, and would go on in float16" in str(found.exception)
    assert engine.n_asked == 2


@pytest.mark.parametrize("backend", ["hf", "vllm"])
def test_a_benchmark_runs_and_records_the_dtype_that_auto_is(folder, processor, backend, monkeypatch, tmp_path):
    from eval.commands import benchmark as commands
    from eval.cost.benchmark.benchmark import Benchmark

    processor(WITHOUT)
    asked = []
    monkeypatch.setattr(commands, "_backend", lambda info, edits, dtype, chosen: asked.append(dtype) or ((), None))
    monkeypatch.setattr(
        Benchmark, "run", lambda self, *_: asked.append(self.settings.dtype) or BenchmarkResults([], {})
    )
    words = [str(folder / "m"), "--tasks", "facts", "--backend", backend, "-o", str(tmp_path / "bench")]
    found = CliRunner().invoke(main.get_command(None, "benchmark"), words)
    assert asked == ["float32", "float32"], found.exception
    assert f"running in float32: this processor has no {(folder / 'stored').read_text()} units" in found.stderr


def test_scores_in_another_dtype_are_not_taken_for_those_asked_for(tmp_path):
    record = Record(tmp_path, done={"baseline.facts": {"dtype": "float32"}, "old.facts": {}})
    record.check_same(["baseline.facts", "old.facts", "new.facts"], [], {"dtype": "float32"})
    with pytest.raises(
        BenchmarkError, match="scored with the dtype float32, this call has bfloat16; give --dtype float32"
    ):
        record.check_same(["baseline.facts"], [], {"dtype": "bfloat16"})


def test_an_audit_is_known_by_the_dtype_that_auto_is(folder, processor, tmp_path):
    begun, now = {"dtype": "float32"}, {"dtype": "bfloat16"}
    with pytest.raises(ArtifactError, match="dtype differ"):
        _check_same(begun, now, tmp_path)
    _check_same({"dtype": "auto"}, now, tmp_path)  # its runs know what they ran in


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), ["--dtype", "float32"]),
        (("--dtype", "bfloat16"), ["--dtype", "bfloat16"]),
        (("--dtype=half",), ["--dtype=half"]),
        (("--quantization", "fp8"), ["--quantization", "fp8"]),
    ],
)
def test_a_server_runs_in_what_auto_is_unless_it_is_told(folder, processor, monkeypatch, words, expected):
    from vllm_refusal.server import launch as server

    started = []
    processor(WITHOUT)
    monkeypatch.setattr(server, "run_server", lambda arguments, *_: started.extend(arguments))
    found = CliRunner().invoke(main.get_command(None, "serve"), [str(folder / "m"), *words])
    assert found.exit_code == 0, found.exception
    assert started[started.index("--port") + 2 :] == expected


def test_a_server_of_what_we_do_not_know_is_left_to_vllm(processor, monkeypatch, tmp_path):
    from vllm_refusal.server import launch as server

    started = []
    processor(WITHOUT)
    monkeypatch.setattr(server, "run_server", lambda arguments, *_: started.extend(arguments))
    found = CliRunner().invoke(main.get_command(None, "serve"), [str(tmp_path / "no-such.gguf")])
    assert found.exit_code == 0 and "--dtype" not in started
