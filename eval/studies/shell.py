"""Running `refusal` commands one after another in this process."""

import shlex
import time
from dataclasses import dataclass, field
from pathlib import Path

import click

from eval.cli import main as refusal


@dataclass
class Shell:
    """Runs `refusal` commands in this process and keeps their times.

    Attributes:
        seconds: stage -> wall seconds, summed over its commands.
    """

    force: bool
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, stage: str, *arguments: object) -> None:
        """Run one command; a user fault propagates as RefusalError."""
        words = [str(argument) for argument in arguments] + (["--force"] if self.force else [])
        click.secho(f"\n$ refusal {shlex.join(words)}", bold=True, err=True)
        started = time.monotonic()
        refusal.main(args=words, prog_name="refusal", standalone_mode=False)
        self.add(stage, time.monotonic() - started)

    def make(self, stage: str, target: Path, *arguments: object) -> None:
        """Run a command that writes `target`, unless it is there already."""
        if target.exists() and not self.force:
            click.echo(f"\n{target} is there already; used again", err=True)
            return
        self.run(stage, *arguments, "-o", target)

    def add(self, stage: str, seconds: float) -> None:
        """Count time to a stage."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
