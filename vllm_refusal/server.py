"""The OpenAI-compatible server: stock vLLM, with named ablations, proven by effect before it listens."""

import json
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, NoReturn

import click

from surgery.errors import RefusalError
from surgery.models import describe_model
from vllm_refusal.config import KEY, check_architecture, load_module
from vllm_refusal.startup import ending_on_signals

GRACE_SECONDS = 5
"""How long open connections hold up the end: by then the engine has stopped, and what is unanswered stays so."""


class ServerError(RefusalError):
    """The server cannot be started as asked."""


def server_arguments(
    model: str, modules: Mapping[str, Mapping[str, Any]], default: str | None, vllm_flags: Sequence[str]
) -> list[str]:
    """The stock server's command line for these ablations; an --additional-config of the user's is kept and extended.

    Raises: ServerError when that option is not a JSON object or names "ablation" itself.
    """
    flags, additional = _split_additional_config(vllm_flags)
    if modules:
        additional[KEY] = {"modules": {name: dict(spec) for name, spec in modules.items()}, "default": default}
    extra = ["--additional-config", json.dumps(additional)] if additional else []
    return ["--model", model, *flags, *extra]


def check_modules(model: str, revision: str | None, modules: Mapping[str, Mapping[str, Any]]) -> None:
    """Check all modules against the model in seconds, as the engine will when it starts; nothing to do without modules.

    Raises: RefusalError, one line.
    """
    if not modules:
        return
    info = describe_model(model, revision)
    check_architecture(info.architecture)
    for name, spec in modules.items():
        load_module(name, spec, info)


def run_server(arguments: Sequence[str]) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises: RefusalError before anything is served when a module does not fit or has no effect.
    """
    import uvloop
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    from vllm_refusal import serving
    from vllm_refusal.engine import set_cpu_cache_size

    cli_env_setup()
    set_cpu_cache_size()
    parser = make_arg_parser(FlexibleArgumentParser(prog="refusal serve"))
    parser.error = _usage_error  # its own prints three hundred lines of usage first
    args = parser.parse_args(list(arguments))
    validate_parsed_serve_args(args)
    if (args.api_server_count or 1) > 1:
        raise ServerError("named ablations are served by one API process; remove --api-server-count")
    serving.install()
    uvloop.run(_serve(args))


def _usage_error(message: str) -> NoReturn:
    raise click.UsageError(message)


async def _serve(args: Any) -> None:
    from vllm.entrypoints.launchers.api_server.entry import build_and_serve, build_async_engine_client
    from vllm.entrypoints.launchers.launcher import setup_server

    try:
        address, sock = setup_server(args, reuse_port=False)
    except OSError as err:
        raise ServerError(
            f"cannot listen on {args.host}:{args.port} ({err.strerror or err}); choose another --host or --port"
        ) from err
    try:
        async with AsyncExitStack() as stack:
            with ending_on_signals():
                client = await _started_engine(stack, build_async_engine_client(args), args.model)
                await prove_ablations(client)
                await _observe(client)
            shutdown = await build_and_serve(client, address, sock, args, timeout_graceful_shutdown=GRACE_SECONDS)
        await shutdown
    finally:
        sock.close()


async def _started_engine(stack: AsyncExitStack, engine: Any, model: str) -> Any:
    from vllm_refusal.engine import START_FAULTS, start_fault

    try:
        return await stack.enter_async_context(engine)
    except START_FAULTS as err:
        raise ServerError(start_fault(model, err)) from err


async def prove_ablations(client: Any) -> None:
    """Show that each module changes what the engine computes, by one token of logprobs with and without it.

    A plugin that failed to load in a worker would serve the plain model under the ablation's name.
    Raises: ServerError naming the module that has no effect.
    """
    config = client.input_processor.ablation
    if config is None:
        return
    plain = await _probe(client, "none", 1.0)
    for module in config.modules.values():
        ablated = await _probe(client, module.name, 1.0)
        if ablated == plain:
            raise ServerError(
                f"ablation {module.name!r} ({module.path}) has no effect on the model's output; is the vllm-refusal "
                "plugin loaded in the engine's processes (VLLM_PLUGINS)?"
            )
        print(
            f"ablation {module.name}: rank {module.rank}, alpha {module.alpha:g}, site {module.site}, "
            f"sha256 {module.file_sha256}, effect proven",
            flush=True,
        )


async def _observe(client: Any) -> None:
    """Metrics and /health, once the proof is done: what clients ask is counted, and nothing else."""
    from vllm_refusal import endpoints
    from vllm_refusal.metrics import ServerMetrics

    config = client.input_processor.ablation
    if config is None:
        return
    metrics = ServerMetrics(config)
    await metrics.refresh(client)
    metrics.install()
    client.input_processor.ablation_metrics = metrics
    endpoints.install(endpoints.AblationEndpoints(config, metrics))


async def _probe(client: Any, name: str, alpha: float) -> dict[int, float]:
    from vllm import SamplingParams
    from vllm.inputs import tokens_input

    keys = {"ablation": name} if name == "none" else {"ablation": name, "ablation_alpha": alpha}
    params = SamplingParams(max_tokens=1, temperature=0, logprobs=5, extra_args=keys)
    vocabulary = client.model_config.get_vocab_size()
    prompt = tokens_input([(7919 * step) % vocabulary for step in range(1, 9)])
    async for output in client.generate(prompt, params, request_id=f"vllm-refusal-probe-{name}"):
        last = output
    return {token: entry.logprob for token, entry in last.outputs[0].logprobs[0].items()}


def _split_additional_config(flags: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    kept, found = [], "{}"
    parts = iter(flags)
    for part in parts:
        name, equals, value = part.partition("=")
        if name.replace("_", "-") == "--additional-config":
            found = value if equals else next(parts, "")
        else:
            kept.append(part)
    try:
        additional = json.loads(found)
    except json.JSONDecodeError as err:
        raise ServerError(f"--additional-config: not JSON ({err.msg} at column {err.colno})") from err
    if not isinstance(additional, dict) or KEY in additional:
        raise ServerError("--additional-config must be a JSON object without 'ablation'; use --ablation for that")
    return kept, additional
