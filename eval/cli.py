"""The command group of `refusal`: names of commands and where each is found, imported when it is asked for."""

import errno
import io
import os
import shlex
import sys
from importlib import import_module

import click

COMMANDS = {
    "prompts": "surgery.commands.prompts",
    "extract": "surgery.commands.extraction",
    "show": "surgery.commands.analysis",
    "select": "surgery.commands.selection",
    "subspace": "surgery.commands.analysis",
    "orthogonalize": "surgery.commands.weights",
    "adapter": "surgery.commands.weights",
    "verify": "surgery.commands.weights",
    "convert": "surgery.commands.conversion",
    "organism": "surgery.commands.organisms",
    "power": "eval.commands.power",
    "generate": "eval.commands.generation",
    "sweep": "eval.commands.generation",
    "damage": "eval.commands.damage",
    "benchmark": "eval.commands.benchmark",
    "audit": "eval.commands.audit",
    "reproduce": "eval.commands.recipes",
    "judge": "eval.commands.judge",
    "judge calibrate": "eval.commands.calibration",
    "agreement": "eval.commands.agreement",
    "report": "eval.commands.report",
    "export": "eval.commands.records",
    "redact": "eval.commands.records",
    "serve": "vllm_refusal.commands",
    "doctor": "vllm_refusal.commands",
}

MACHINE_FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE}
ARGUMENTS = "vllm_refusal.arguments"
RESUMABLE = ("orthogonalize", "judge", "benchmark")  # generate, sweep, audit and reproduce say more themselves


class Commands(click.Group):
    """Imports a command's module on demand, and turns the user's faults into one line and exit code 1."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Commands in the order of the work."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command, or None for click's usage error."""
        return getattr(import_module(COMMANDS[name]), name.split()[-1]) if name in COMMANDS else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """A command of two words ("judge calibrate") goes before the one of its first word."""
        words = " ".join(args[:2])
        if len(args) > 1 and words in COMMANDS:
            return words, self.get_command(ctx, words), args[2:]
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the words of the command line, for the records of what it makes."""
        ctx.meta[ARGUMENTS] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command."""
        from surgery.console.errors import RefusalError

        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            then = "goes on with what is there" if ctx.invoked_subcommand in RESUMABLE else "begins anew"
            again = shlex.join([ctx.info_name or "refusal", *ctx.meta[ARGUMENTS]])
            click.echo(f"interrupted; the same command {then}: {again}", err=True)
            raise SystemExit(130) from None
        except RefusalError as err:
            raise click.ClickException(str(err)) from err
        except OSError as err:
            if err.errno not in MACHINE_FAULTS:
                raise
            raise click.ClickException(f"{err.filename or 'this machine'}: {err.strerror}") from err


@click.group(cls=Commands)
@click.version_option(package_name="vllm-refusal")
def main() -> None:
    """Study how open-weight chat models refuse.

    Extract refusal vectors, ablate them in vLLM or in the weights, judge the answers, report, serve.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a path may hold what UTF-8 cannot
            stream.reconfigure(errors="backslashreplace")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # of transformers too
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # before torch is imported; its notes on NUMA help nobody
