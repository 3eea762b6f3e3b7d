"""One server that the tests of this folder share: two ablations from its start, and a folder of others to load."""

import shutil

import httpx
import pytest
from served import DATE, KEY, running_server

from surgery.residual.subspace import Subspace, random_subspace
from surgery.residual.vectors import RefusalVectors

D_MODEL = 128  # the organism's


@pytest.fixture(scope="session")
def folder(rvs, tmp_path_factory):
    """What may be loaded, and things beside it that may not."""
    inside = tmp_path_factory.mktemp("allowed")
    (inside / "sub").mkdir()
    for name in ("rvs.safetensors", "sub/late.safetensors"):
        shutil.copy(rvs, inside / name)
    random_subspace(D_MODEL * 2, 1, seed=0).save(inside / "wide.safetensors")
    random_subspace(D_MODEL, 9, seed=0).save(inside / "rank9.safetensors")
    random_subspace(D_MODEL, 2, seed=0).save(inside / "other.safetensors")
    # a subspace that changes what the organism knows, so that its scores are its own
    Subspace.from_vectors(RefusalVectors.load(rvs), range(8)).save(inside / "strong.safetensors")
    (inside / "text.safetensors").write_text("no tensors")
    (inside / "escape.safetensors").symlink_to(rvs)
    return inside


@pytest.fixture(scope="session")
def server(rvs, folder, tmp_path_factory):
    """(base URL, process, log file) of a server behind an API key."""
    options = ["--ablation", f"refusal={rvs},source_layer=4"]
    options += ["--ablation", f"late={rvs},source_layers=3-5,alpha=0.5,layers=2,4-6", "--enable-scale-out"]
    options += ["--allow-runtime-ablations", folder, "--max-ablations", 5, "--shutdown-timeout", 60]
    options += ["--max-body-mib", 1, "--date", DATE, "--trust-request-chat-template"]
    with running_server(rvs.parent / "model", tmp_path_factory.mktemp("server") / "server.log", *options) as found:
        yield found


@pytest.fixture(scope="session")
def client(server):
    import openai

    return openai.OpenAI(base_url=server[0], api_key=KEY, max_retries=0, timeout=120)


@pytest.fixture(scope="session")
def change_ablations(server):
    """change_ablations("load" or "unload", **body): status and message or answer."""

    def send(verb, **body):
        headers = {"Authorization": f"Bearer {KEY}"}
        reply = httpx.post(f"{server[0]}/{verb}_ablation", json=body, headers=headers, timeout=120)
        found = reply.json()
        return reply.status_code, found["error"]["message"] if reply.status_code in (400, 404, 409, 500) else found

    return send
