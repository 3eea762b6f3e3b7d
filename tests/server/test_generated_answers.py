"""Bulk generation by servers: they give what an engine here gives."""

import pytest
from served import KEY

from eval.endpoints.served_models import Needs, ServersError
from eval.endpoints.servers import Servers
from vllm_refusal.engine.engine import Engine, EngineOptions, Request, Sampling
from vllm_refusal.settings.module_files import load_module

pytestmark = pytest.mark.server

SAMPLING = Sampling(max_tokens=24)
CONDITIONS = [
    {},
    {"ablation": "L4"},
    {"ablation": "L4", "ablation_alpha": 0.5, "ablation_layers": "2-5"},
    {"ablation": "QR", "ablation_alpha": 1.5},
]


def settings(rvs):
    """Two of the server's ablations, under names of our own and with other defaults."""
    return {
        "L4": {"path": str(rvs), "source_layer": 4},
        "QR": {"path": str(rvs), "source_layers": "3-5"},
    }


def requests(prompts, **more):
    return [
        Request(f"{number}-{prompt}", token_ids, keys, seed=1000 + prompt, **more)
        for number, keys in enumerate(CONDITIONS)
        for prompt, token_ids in enumerate(prompts)
    ]


def texts(answerer, asked, sampling=SAMPLING):
    return {found.id: (found.text, found.finish_reason, found.n_tokens) for found in answerer.generate(asked, sampling)}


def options(**vllm):
    return EngineOptions(dtype="float32", eager=True, max_num_seqs=64, vllm={"max_model_len": 256, **vllm})


def test_servers_answer_as_an_engine_here_under_every_condition(server, rvs, organism, harmful_ids):
    named = settings(rvs)
    needs = Needs({name: load_module(name, spec, organism) for name, spec in named.items()}, named)
    sampled = Sampling(max_tokens=24, temperature=0.8)
    with Servers([server[0]], needs, api_key=KEY) as servers:
        assert servers.max_model_len == 256
        served = texts(servers, requests(harmful_ids))
        served_sampled = texts(servers, requests(harmful_ids), sampled)
    with Engine(organism, named, options()) as engine:
        assert served == texts(engine, requests(harmful_ids))
        assert served_sampled == texts(engine, requests(harmful_ids), sampled)
    per_condition = [tuple(served[f"{number}-{prompt}"] for prompt in range(4)) for number in range(len(CONDITIONS))]
    assert len(set(per_condition)) >= 2, "the conditions differ, so that equal answers say something"


def test_a_server_that_lacks_an_ablation_says_how_to_start_it(server, rvs, organism):
    spec = {"path": str(rvs), "source_layer": 3}
    needs = Needs({"refusal": load_module("refusal", spec, organism)}, {"refusal": spec})  # the server's is of layer 4
    with pytest.raises(
        ServersError, match="removes something else .*start it with --ablation refusal=.*source_layer=3"
    ):
        Servers([server[0]], needs, api_key=KEY).__enter__()
