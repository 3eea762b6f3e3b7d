"""Text kept out of a run: hashes, lengths and verdicts stay, responses and judges' evidence do not."""

import hashlib
import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eval.records.manifest import RedactionRecord
    from eval.records.rows import Generation, Verdict


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

    def to_json(self) -> "RedactionRecord":
        """What the manifest keeps."""
        return {"salt": self.salt, "prompts": self.prompts}

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
