"""The commands of the run-time half: `serve` and `doctor`."""

import json
from datetime import datetime

import click

from surgery.console.given import given
from surgery.residual.sites import EDIT_SITES
from vllm_refusal.server.body_limit import MAX_MIB

MOST_ABLATIONS = 16
"""Ablations at one time that a server has room for when clients may load them."""


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.argument("model")
@click.option(
    "--ablation",
    "ablations",
    multiple=True,
    metavar="NAME=FILE[,alpha=A,layers=L,source_layer=N,site=S]",
    help="Served as a model of its own: the subspace or refusal vectors in FILE, ablated; repeatable.",
)
@click.option("--default-ablation", default="none", show_default=True, help="Applied to requests that name none.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True, help="Port to listen on.")
@click.option(
    "--date",
    type=click.DateTime(["%Y-%m-%d"]),
    help="Told to chat templates that ask for it, as long as the server runs. Default: today's.",
)
@click.option("--revision", help="Branch, tag or commit of a Hugging Face model.")
@click.option("--allow-other-model", is_flag=True, help="Accept vectors of other weights of the same shape.")
@click.option(
    "--allow-runtime-ablations",
    "runtime_folder",
    metavar="DIR",
    help="Clients may load ablations from safetensors files in DIR, and unload them.",
)
@click.option(
    "--max-body-mib",
    type=click.IntRange(min=1),
    default=MAX_MIB,
    show_default=True,
    help="Largest body of a request, in MiB.",
)
@click.option(
    "--max-ablations",
    type=click.IntRange(min=1),
    help="Ablations at one time, with --allow-runtime-ablations.  [default: 16, or more if more are named]",
)
@click.option(
    "--max-ablation-rank",
    type=click.IntRange(min=1),
    help="Largest rank that can be loaded; every token pays for it.  [default: 8, or more if one named has more]",
)
@click.option(
    "--ablation-site",
    "sites",
    type=click.Choice(EDIT_SITES),
    multiple=True,
    help="Site that can be loaded; repeatable.  [default: stream, and those of the named]",
)
@click.pass_context
def serve(
    ctx: click.Context,
    model: str,
    ablations: tuple[str, ...],
    default_ablation: str,
    host: str,
    port: int,
    date: datetime | None,
    revision: str | None,
    allow_other_model: bool,
    runtime_folder: str | None,
    max_body_mib: int,
    max_ablations: int | None,
    max_ablation_rank: int | None,
    sites: tuple[str, ...],
) -> None:
    """Serve MODEL and each named ABLATION as a model of its own; any other vLLM flag is passed on.

    \b
    Example:
      refusal serve MODEL --ablation refusal=rvs.safetensors,source_layer=9 \\
          --ablation tier2=sub.safetensors,alpha=1.5,layers=7-10 --port 8000 --max-model-len 4096

    The model itself is listed under its hub id or its folder's name, unless --served-model-name says another.

    A client picks one by model="refusal", or per request by
    vllm_xargs={"ablation": "refusal", "ablation_alpha": 0.5, "ablation_layers": "7-10"}; "none" bypasses a default.

    With --allow-runtime-ablations DIR, POST {"name": NAME, "path": FILE in DIR, "alpha": A, ...} to /v1/load_ablation
    adds one, and {"name": NAME} to /v1/unload_ablation takes one away. Whoever has the server's --api-key may do that; it
    must be set.
    """
    from surgery.model.chat import today
    from vllm_refusal.server.allowed_folder import AllowedFolder
    from vllm_refusal.server.chat_date import telling, told
    from vllm_refusal.server.launch import check_modules, dtype_flags, run_server, server_arguments
    from vllm_refusal.settings.module_options import parse_ablation_options
    from vllm_refusal.settings.modules import check_default

    modules = parse_ablation_options(ablations, allow_other_model)
    default = check_default(default_ablation, modules)
    flags = ["--host", host, "--port", str(port), *(["--revision", revision] if revision else []), *ctx.args]
    folder = None if runtime_folder is None else AllowedFolder.at(runtime_folder, allow_other_model)
    flags += dtype_flags(model, revision, ctx.args)
    room = {"max_modules": max_ablations, "max_rank": max_ablation_rank, "sites": list(sites)}
    room = {setting: value for setting, value in room.items() if value}
    if room and folder is None:
        raise click.UsageError(
            "--max-ablations, --max-ablation-rank and --ablation-site go with --allow-runtime-ablations DIR"
        )
    if folder is not None:
        room.setdefault("max_modules", max(MOST_ABLATIONS, len(modules)))
    arguments = server_arguments(model, modules, default, flags, room)
    check_modules(model, revision, modules)
    with telling(date.date().isoformat() if date else today()):
        click.echo(f"chat templates that ask for the date are told {told()}")
        run_server(arguments, folder, max_body_mib * 2**20)


@click.command()
@click.argument("model", required=False)
@click.option("--revision", help="Branch, tag or commit of a Hugging Face model.")
@click.option("--url", help="Check a running server instead, e.g. http://127.0.0.1:8000/v1.")
@click.option(
    "--api-key-env", default="OPENAI_API_KEY", show_default=True, help="Variable that holds the server's key."
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor(model: str | None, revision: str | None, url: str | None, api_key_env: str, as_json: bool) -> None:
    """Prove by its effect that the plugin is on: in an engine started on MODEL, or in a server at --url.

    Without --url, next-token log probabilities with and without a random ablation are compared with Hugging Face
    forward hooks in float32; MODEL defaults to a tiny organism that ships with the package. Exit code 1 when any check
    fails.

    \b
    Examples:
      refusal doctor
      refusal doctor --url http://127.0.0.1:8000/v1
    """
    if url and (model or revision):
        raise click.UsageError("give MODEL to start an engine on, or --url of a running server, not both")
    if not url and given({"api_key_env": api_key_env}, {"api_key_env": "OPENAI_API_KEY"}):
        raise click.UsageError("--api-key-env is of a running server; it goes with --url")
    if url and not url.startswith(("http://", "https://")):
        raise click.UsageError(f"--url {url}: expected an address such as http://127.0.0.1:8000/v1")
    from vllm_refusal.engine.doctor import check_engine, check_server

    findings = check_server(url, api_key_env) if url else check_engine(model, revision)
    if as_json:
        click.echo(json.dumps([finding.to_json() for finding in findings], indent=1))
    else:
        for finding in findings:
            click.echo(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.check}: {finding.detail}")
    if not all(finding.ok for finding in findings):
        raise SystemExit(1)
