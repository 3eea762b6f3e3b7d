"""The commands of the run-time half: `serve` and `doctor`."""

from typing import Any

import click


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.argument("model")
@click.option("--ablation", "ablations", multiple=True, metavar="NAME=FILE[,alpha=A,layers=L,source_layer=N,site=S]")
@click.option("--default-ablation", default="none", show_default=True, help="Applied to requests that name none.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=int, default=8000, show_default=True)
@click.pass_context
def serve(
    ctx: click.Context, model: str, ablations: tuple[str, ...], default_ablation: str, host: str, port: int
) -> None:
    """Serve MODEL and each named ABLATION as a model of its own; any other vLLM flag is passed on.

    \b
    refusal serve MODEL --ablation refusal=rvs.safetensors,source_layer=9 \\
        --ablation tier2=sub.safetensors,alpha=1.5,layers=7-10 --port 8000 --max-model-len 4096

    A client picks one by model="refusal", or per request by
    vllm_xargs={"ablation": "refusal", "ablation_alpha": 0.5, "ablation_layers": "7-10"}; "none" bypasses a default.
    """
    from vllm_refusal.options import parse_ablation_option
    from vllm_refusal.server import run_server, server_arguments

    modules = _modules([parse_ablation_option(text) for text in ablations])
    default = None if default_ablation == "none" else default_ablation
    flags = ["--host", host, "--port", str(port), *ctx.args]
    run_server(server_arguments(model, modules, default, flags))


@click.command()
@click.argument("model", required=False)
@click.option("--revision", help="Branch, tag or commit of a hub model.")
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
    """
    import json

    from vllm_refusal.doctor import check_engine, check_server

    findings = check_server(url, api_key_env) if url else check_engine(model, revision)
    if as_json:
        click.echo(json.dumps([finding.to_json() for finding in findings], indent=1))
    else:
        for finding in findings:
            click.echo(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.check}: {finding.detail}")
    if not all(finding.ok for finding in findings):
        raise SystemExit(1)


def _modules(parsed: list[tuple[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    from vllm_refusal.options import OptionError

    names = [name for name, _ in parsed]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise OptionError(f"--ablation: {', '.join(twice)} is given twice; each name must be unique")
    return dict(parsed)
