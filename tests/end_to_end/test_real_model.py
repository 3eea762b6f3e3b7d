"""A real chat model from a GGUF file of the user's: `REFUSAL_TEST_GGUF=FILE bin/test -m real`."""

import os
from pathlib import Path

import pytest
import torch
import transformers
from click.testing import CliRunner
from safetensors import safe_open

from eval.cli import main
from surgery.model.models import describe_model

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real") / "model"
    words = ["convert", os.environ["REFUSAL_TEST_GGUF"], "-o", str(folder), "--without-template"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    return folder


def test_every_tensor_and_logit_is_that_of_transformers_own_reading(converted):
    file = Path(os.environ["REFUSAL_TEST_GGUF"])
    dequantized = transformers.GgufConfig(dequantize=True)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32, quantization_config=dequantized
    )
    state = theirs.state_dict()
    with safe_open(converted / "model.safetensors", "pt") as ours:
        assert all(torch.equal(ours.get_tensor(name), state[name]) for name in ours.keys())  # noqa: SIM118
    ours = transformers.AutoModelForCausalLM.from_pretrained(converted, dtype=torch.float32)
    tokens = torch.arange(100, 132)[None]
    with torch.inference_mode():
        assert torch.equal(ours(tokens).logits, theirs(tokens).logits)


def test_the_rest_of_the_commands_know_the_folder(converted):
    info = describe_model(converted)
    assert info.n_layers > 1 and (converted / "conversion.json").is_file()
