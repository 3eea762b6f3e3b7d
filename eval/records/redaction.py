"""Text kept out of a run: hashes, lengths and verdicts stay, responses and judges' evidence do not."""

import hashlib
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.console.errors import RefusalError
from surgery.files.folders import replacing_folder

if TYPE_CHECKING:
    from eval.records.run import Generation, Run, Verdict

RECORDS = ("run.json", "generations.jsonl", "verdicts.jsonl")


class RedactionError(RefusalError):
    """A run is not redacted, since that would lose what cannot be had again."""


@dataclass(frozen=True)
class Redaction:
    """How the text of one run is replaced.

    A text becomes SHA-256(salt + UTF-8 of the text). The salt is drawn per run and stands in its run.json: equal texts
    of one run stay recognizably equal, whoever has a text can show that it is the one, and neither tables made in
    advance nor two runs side by side tell anything. It does not hide a text that can be guessed, such as a stock
    refusal.

    Attributes:
        salt: 32 hexadecimal characters.
        prompts: whether prompts are taken out like responses.
    """

    salt: str
    prompts: bool = False

    @classmethod
    def new(cls, prompts: bool = False) -> "Redaction":
        """One with a fresh salt."""
        return cls(secrets.token_hex(16), prompts)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Redaction":
        """Read the manifest's `redaction`."""
        return cls(record["salt"], record["prompts"])

    def to_json(self) -> dict[str, Any]:
        """What the manifest keeps."""
        return asdict(self)

    def sha256(self, text: str) -> str:
        """Salted hash of a text, hexadecimal."""
        return hashlib.sha256(bytes.fromhex(self.salt) + text.encode("utf-8", "surrogatepass")).hexdigest()

    def generation(self, row: "Generation") -> "Generation":
        """A response without its text, and without its prompt's where `prompts`; a row redacted before loses no more."""
        if self.prompts and not row.prompt_sha256:
            row = replace(row, prompt="", prompt_sha256=self.sha256(row.prompt))
        if row.redacted:
            return row
        hashed = self.sha256(row.response)
        return replace(row, response="", redacted=True, n_chars=len(row.response), response_sha256=hashed)

    def verdict(self, row: "Verdict") -> "Verdict":
        """A verdict without the words that it quotes."""
        return replace(row, evidence="")


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
