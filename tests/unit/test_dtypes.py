"""`--dtype auto`: the stored type where the processor has units for it, float32 where it has none."""

import json

import pytest
import torch
from click.testing import CliRunner
from tiny_models import PAIRS, write_model

from eval.cli import main
from surgery import dtypes
from surgery.dtypes import has_units
from surgery.vectors import RefusalVectors

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
