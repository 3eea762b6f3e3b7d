"""The Triton kernel of the edit, in Triton's interpreter."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

CASES = Path(__file__).with_name("triton_edit_cases.py")


@pytest.mark.engine
def test_the_kernel_equals_the_plain_form_in_tritons_interpreter():
    pytest.importorskip("triton", reason="Triton is not installed; without it the plain form runs everywhere")
    run_cases({"TRITON_INTERPRET": "1"})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_kernel_equals_the_plain_form_on_a_gpu():
    run_cases({"TRITON_INTERPRET": "0"})


def run_cases(settings):
    """Run the cases in a process of their own; every one must pass, none may be skipped."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(CASES.parent),
        str(CASES),
    ]
    run = subprocess.run(command, env=environment() | settings, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert int(re.search(r"(\d+) passed", run.stdout)[1]) > 30
    assert "skipped" not in run.stdout


def environment():
    """This process's, with its import path."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from vllm_refusal.edit import triton as triton_edit

pointers = {"slot": "*i64", "module_of_slot": "*i64", "bases": "*fp32", "offsets": "*fp32", "alpha": "*fp32"}
constants = {"hidden_column": 1, "residual_column": 1, "IS_SUM": True, "D_MODEL": 2304, "BOUND": 16376.0}
for dtype, rank in (("bf16", 1), ("fp16", 5), ("bf16", 64)):
    block = triton.next_power_of_2(rank)
    constants |= {"RANK": rank, "RANK_BLOCK": block, "BLOCK": triton_edit.TILE // block}
    names = {"hidden": f"*{dtype}", "residual": f"*{dtype}", **pointers, "hidden_row": "i32", "residual_row": "i32"}
    signature = {name: names.get(name, "constexpr") for name in triton_edit._edit_row.arg_names}
    source = ASTSource(triton_edit._edit_row, signature, constants)
    built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 8})
    assert f"cvt.rn.{dtype.replace('fp', 'f')}" in built.asm["ptx"], "rounds to nearest"
    print(len(built.asm["cubin"]))
"""


@pytest.mark.engine
def test_the_kernel_compiles_for_a_gpu(tmp_path):
    """No GPU is needed for that; the interpreter takes programs that the compiler does not."""
    pytest.importorskip("triton", reason="Triton is not installed; without it the plain form runs everywhere")
    run = subprocess.run(
        [sys.executable, "-c", COMPILE],
        env=environment() | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert all(int(size) > 1000 for size in run.stdout.split()) and len(run.stdout.split()) == 3


def test_tensors_on_the_cpu_are_edited_by_the_plain_form():
    from vllm_refusal.edit.affine import ResidualEdit

    none = torch.zeros(1, dtype=torch.int64)
    assert not ResidualEdit(none, none, torch.zeros(1, 1, 8), torch.zeros(1, 1), torch.zeros(1)).in_kernel
