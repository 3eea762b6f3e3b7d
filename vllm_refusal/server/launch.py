"""The OpenAI-compatible server: stock vLLM, with named ablations, proven by effect before it listens."""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, NoReturn

import click
import torch

from surgery.console.errors import RefusalError
from surgery.model.dtypes import said_engine_dtype
from surgery.model.models import describe_model
from vllm_refusal.engine.engine import START_FAULTS, cpu_cache_argument, start_fault
from vllm_refusal.model.proof import METHOD, check_proven
from vllm_refusal.model.worker import ask_workers
from vllm_refusal.server import endpoints, names
from vllm_refusal.server.allowed_folder import AllowedFolder
from vllm_refusal.server.body_limit import MAX_MIB
from vllm_refusal.server.metrics import ServerMetrics
from vllm_refusal.server.startup import ending_on_signals
from vllm_refusal.settings.engine_settings import settings_of
from vllm_refusal.settings.module_files import check_architecture, load_module
from vllm_refusal.settings.modules import KEY

GRACE_SECONDS = 5
"""How long open connections hold up the end: by then the engine has stopped, and what is unanswered stays so."""
_DTYPE_FLAGS = ("--dtype", "--quantization", "-q", "--config")
"""Flags of vLLM's that choose a dtype, or may."""


class ServerError(RefusalError):
    """The server cannot be started as asked."""


def server_arguments(
    model: str,
    modules: Mapping[str, Mapping[str, Any]],
    default: str | None,
    vllm_flags: Sequence[str],
    room: Mapping[str, Any] | None = None,
) -> list[str]:
    """The stock server's command line for these ablations; an --additional-config of the user's is kept and extended.

    Args:
        room: settings that reserve room for ablations loaded later ("max_modules", "max_rank", "sites").
    Raises: ServerError when that option is not a JSON object or names "ablation" itself.
    """
    flags, additional = _split_additional_config(vllm_flags)
    if modules or room:
        named = {name: dict(spec) for name, spec in modules.items()}
        additional[KEY] = {"modules": named, "default": default, **(room or {})}
    extra = ["--additional-config", json.dumps(additional)] if additional else []
    return ["--model", model, *flags, *extra]


def dtype_flags(model: str, revision: str | None, flags: Sequence[str]) -> list[str]:
    """--dtype as our own engines choose and tell it; nothing where vLLM is to choose, or the user's flags do.

    Of a model that is none of ours (a GGUF file, an architecture without a config.json) vLLM says what is wrong, if anything.
    """
    if torch.cuda.is_available() or any(flag.partition("=")[0] in _DTYPE_FLAGS for flag in flags):
        return []
    try:
        dtype = said_engine_dtype(describe_model(model, revision), "auto")
    except RefusalError:
        return []
    return [] if dtype == "auto" else ["--dtype", dtype]


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


def run_server(
    arguments: Sequence[str], folder: AllowedFolder | None = None, max_body_bytes: int = MAX_MIB * 2**20
) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        folder: from which clients may load ablations; None refuses all loading.
        max_body_bytes: the largest body of a request.
    Raises: RefusalError before anything is served when a module does not fit or has no effect.
    """
    import uvloop
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    cli_env_setup()
    parser: Any = make_arg_parser(FlexibleArgumentParser(prog="refusal serve"))
    parser.error = _usage_error  # its own prints three hundred lines of usage first
    args = parser.parse_args(list(arguments))
    validate_parsed_serve_args(args)
    if args.kv_cache_memory_bytes is None:
        vars(args).update(cpu_cache_argument())
    if (args.api_server_count or 1) > 1:
        raise ServerError("named ablations are served by one API process; remove --api-server-count")
    args.served_model_name = args.served_model_name or [default_name(args.model)]
    _check_names(args)
    if folder is not None:
        _check_key(args)
    names.install()
    uvloop.run(_serve(args, folder, max_body_bytes))


def default_name(model: str) -> str:
    """What clients call the model where the operator does not say: a hub id as it is, a folder by its last name."""
    return os.path.basename(os.path.abspath(model)) if os.path.exists(model) else model


def _check_names(args: Any) -> None:
    """Raises: ServerError when an ablation has the name of the model or of an adapter, or when any name is accepted."""
    from vllm import envs

    taken = {*args.served_model_name, *(lora.name for lora in args.lora_modules or ())}
    settings = (args.additional_config or {}).get(KEY)
    if settings is not None and envs.VLLM_SKIP_MODEL_NAME_VALIDATION:
        raise ServerError(
            "VLLM_SKIP_MODEL_NAME_VALIDATION would have a misspelled ablation answered by the plain model; unset it"
        )
    for name in (settings or {}).get("modules", {}):
        if name in taken:
            raise ServerError(f"ablation {name!r}: a model or adapter of this server has that name; choose another")


def _check_key(args: Any) -> None:
    """Raises: ServerError without a key: a page in anyone's browser could load and unload."""
    from vllm import envs

    if not any(args.api_key or [envs.VLLM_API_KEY]):
        raise ServerError("--allow-runtime-ablations needs an --api-key (or VLLM_API_KEY) that clients must give")


def _usage_error(message: str) -> NoReturn:
    raise click.UsageError(message)


async def _serve(args: Any, folder: AllowedFolder | None, max_body_bytes: int) -> None:
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
                await check_effects(client)
                await _observe(client, folder, max_body_bytes)
            shutdown = await build_and_serve(client, address, sock, args, timeout_graceful_shutdown=GRACE_SECONDS)
        await shutdown
    finally:
        sock.close()


async def _started_engine(stack: AsyncExitStack, engine: Any, model: str) -> Any:
    try:
        return await stack.enter_async_context(engine)
    except START_FAULTS as err:
        raise ServerError(start_fault(model, err)) from err


async def check_effects(client: Any) -> None:
    """Say of each module that every engine has proven it, one line each.

    Raises: NoEffectError naming a module that one of them has not.
    """
    if settings_of(client.vllm_config) is None:
        return
    config = _config_of(client)
    if config is None:
        check_proven([], [None])
    for answers in await ask_workers(client, METHOD):
        check_proven(list(config.modules), answers)
    for module in config.modules.values():
        print(
            f"ablation {module.name}: rank {module.rank}, alpha {module.alpha:g}, site {module.site}, "
            f"sha256 {module.file_sha256}, effect proven",
            flush=True,
        )


async def _observe(client: Any, folder: AllowedFolder | None, max_body_bytes: int) -> None:
    """Metrics, /health and loading, once the proof is done: what clients ask is counted, and nothing else."""
    config = _config_of(client)
    if config is None:
        return
    metrics = ServerMetrics(config)
    await metrics.refresh(client)
    metrics.install()
    client.input_processor.ablation_metrics = metrics
    endpoints.install(endpoints.AblationEndpoints(metrics, folder, max_body_bytes))
    if folder is not None:
        print(
            f"ablations may be loaded from {folder.path}: {config.room.n_modules} at one time, rank up to "
            f"{config.room.rank}, site {' or '.join(config.room.sites)}",
            flush=True,
        )


def _config_of(client: Any) -> Any:
    """The front end's ablations; None without settings, and where vLLM does not load the plugin."""
    return getattr(client.input_processor, "ablation", None)


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
