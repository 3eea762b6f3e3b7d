"""The choice of the engine in extraction: what vLLM cannot be asked for is refused before anything is loaded."""

import importlib.util
from dataclasses import replace

import pytest
from click.testing import CliRunner
from tiny_models import write_model

from surgery.commands.engines import check_engine, opened_source
from surgery.commands.extraction import extract
from surgery.console.errors import ModelError
from surgery.model.models import describe_model
from surgery.reading.transformers_source import TransformersSource
from vllm_refusal.settings.modules import ConfigError


@pytest.mark.parametrize(
    ("position", "positions", "device_map", "batched", "option"),
    [
        (-2, "", None, False, "--position"),
        (-1, "all", None, False, "--positions"),
        (-1, "-2,-1", None, False, "--positions"),
        (-1, "", "auto", False, "--device-map"),
        (-1, "", None, True, "--batched"),
    ],
)
def test_what_vllm_cannot_be_asked_for_is_refused_by_name(position, positions, device_map, batched, option):
    with pytest.raises(ModelError, match=f"{option}.*--engine hf"):
        check_engine("vllm", position, positions, device_map, batched)
    check_engine("hf", position, positions, device_map, batched)
    check_engine("vllm", -1, "", None, False)


def test_without_vllm_installed_the_option_says_so(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="vLLM is not installed"):
        check_engine("vllm", -1, "", None, False)


def test_the_command_refuses_before_it_reads_prompts_or_model(tmp_path):
    arguments = ["no-such-model", "--pairs", "no-such-file", "-o", str(tmp_path / "rvs.safetensors")]
    result = CliRunner().invoke(extract, [*arguments, "--engine", "vllm", "--positions", "all"])
    assert isinstance(result.exception, ModelError) and "--positions" in str(result.exception)
    without = CliRunner().invoke(extract, [*arguments, "--engine", "vllm"])
    assert "no-such-file" in str(without.exception)


def test_an_architecture_that_the_plugin_does_not_know_is_refused_before_an_engine_starts(tmp_path):
    info = replace(describe_model(write_model(tmp_path / "model", "LlamaForCausalLM")), architecture="NewForCausalLM")
    with pytest.raises(ConfigError, match="capture is not supported for architecture NewForCausalLM"):
        with opened_source("vllm", info, "auto", None, 1):
            pass


def test_transformers_is_the_source_unless_vllm_is_asked_for(tmp_path):
    info = describe_model(write_model(tmp_path / "model", "LlamaForCausalLM"))
    with opened_source("hf", info, "auto", None, 1) as source:
        assert isinstance(source, TransformersSource) and source.dtype == "float32"
