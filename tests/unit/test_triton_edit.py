"""The Triton kernel of the edit, in Triton's interpreter."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

CASES = Path(__file__).with_name("triton_edit_cases.py")


def test_the_kernel_equals_the_plain_form_in_tritons_interpreter():
    pytest.importorskip("triton", reason="Triton is not installed; without it the plain form runs everywhere")
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
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
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert int(re.search(r"(\d+) passed", run.stdout)[1]) > 40
    assert "skipped" not in run.stdout


def test_tensors_on_the_cpu_are_edited_by_the_plain_form():
    from vllm_refusal.edit import ResidualEdit

    none = torch.zeros(1, dtype=torch.int64)
    assert not ResidualEdit(none, none, torch.zeros(1, 1, 8), torch.zeros(1, 1), torch.zeros(1)).in_kernel
