"""The table of architectures: its names are those of the models, and its entries are plain data."""

import json
from dataclasses import asdict

import pytest
from pydantic import TypeAdapter
from tiny_models import tiny_model

from surgery.architecture.entry import Architecture
from surgery.architecture.table import ARCHITECTURES, entry_of
from surgery.console.errors import ModelError


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_name_of_an_entry_is_a_module_of_the_model(architecture):
    model, entry = tiny_model(architecture), entry_of(architecture)
    written = entry.post_norms(range(2))
    names = [entry.blocks, entry.embedding, entry.unembedding, *written, *filter(None, written.values())]
    names += [f"{entry.block(1)}.{path}" for path in entry.fed.values()]
    for name in names:
        assert model.get_submodule(name) is not None
    assert len(written) == 4


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_entry_is_plain_data_that_json_gives_back(architecture):
    stored = json.dumps(asdict(entry_of(architecture)))
    assert TypeAdapter(Architecture).validate_json(stored) == entry_of(architecture)


def test_an_unknown_architecture_is_told_what_it_would_need():
    with pytest.raises(
        ModelError, match="NovelMoeForCausalLM is not supported; supported: Cohere.*; another needs an entry "
    ):
        entry_of("NovelMoeForCausalLM")
