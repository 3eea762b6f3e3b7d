"""Taking the text out of a run that has it, in place or in a copy."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from eval.records.redaction import Redaction
from surgery.console.errors import RefusalError
from surgery.files.folders import replacing_folder

if TYPE_CHECKING:
    from eval.records.run import Run


RECORDS = ("run.json", "generations.jsonl", "verdicts.jsonl")


class RedactionError(RefusalError):
    """A run is not redacted, since that would lose what cannot be had again."""


def redact_run(
    run: "Run", prompts: bool = False, out: Path | None = None, unjudged: bool = False, force: bool = False
) -> int:
    """Take the text out of a run, in place or in a copy of its records; safe to repeat after any interruption.

    Args:
        prompts: prompts as well; they stay out of a run where they are out already.
        out: folder of the copy; without it the run itself loses its text.
        unjudged: also when responses have no verdict, which they then never can have.
        force: replace the run at `out`.
    Returns: how many responses the redacted run has.
    Raises: RedactionError, OutputExistsError, DiskError, ArtifactError (another process is writing the run).
    """
    with run.writing():
        run.refresh_manifest()
        judged = {verdict.item_id for verdict in run.verdicts()}
        items = run.generations()
        n_unjudged = sum(item.item_id not in judged and not item.redacted for item in items)
        if n_unjudged and not unjudged:
            raise RedactionError(
                f"{run.path}: {n_unjudged} of {len(items)} responses have no verdict and could get none without their "
                "text; judge the run first, or pass --unjudged"
            )
        earlier = run.redaction
        redaction = Redaction(earlier.salt, earlier.prompts or prompts) if earlier else Redaction.new(prompts)
        if out is None:
            run.redact(redaction)
        else:
            _redact_copy(run, redaction, out, force)
    return len(items)


def _redact_copy(run: "Run", redaction: Redaction, out: Path, force: bool) -> None:
    with replacing_folder(out, force, kind="a run", is_kind=lambda path: (path / "run.json").is_file()) as part:
        for name in RECORDS:
            if (run.path / name).exists():
                shutil.copyfile(run.path / name, part / name)
        type(run).open(part).redact(redaction)
        (part / ".lock").unlink()
