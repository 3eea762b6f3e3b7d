"""The rows of a run: a response (Generation) and a judge's scores of it (Verdict)."""

from dataclasses import dataclass, field

from surgery.files.artifacts import json_sha256
from surgery.files.rowfile import SPARSE

SCORED, UNSCORED = "scored", "unscored"


@dataclass(frozen=True)
class Generation:
    """One response of one condition to one prompt.

    Attributes:
        item_id: identifies (condition, prompt set, prompt, sample) in the run.
        prompt_set: "harmful" or "safe".
        finish_reason: "stop" (the model ended), "length" (cut at max_tokens), or the engine's other word.
        n_prompt_tokens, n_tokens: tokens of the rendered prompt and of the response.
        begins_in_reasoning: whether the prompt itself opened the model's reasoning, as some chat templates do.
        redacted: whether the text was taken out; `response` is then "" though the model said something, `n_chars` is
            its length and `response_sha256` its salted hash (eval.records.redaction).
        prompt_sha256: salted hash of a prompt that was taken out as well, else "".
    """

    item_id: str
    condition_id: str
    prompt_set: str
    prompt_id: str
    prompt: str
    category: str
    tier: int | None
    sample: int
    response: str
    finish_reason: str
    n_prompt_tokens: int
    n_tokens: int
    begins_in_reasoning: bool = field(default=False, metadata=SPARSE)
    redacted: bool = field(default=False, metadata=SPARSE)
    n_chars: int | None = field(default=None, metadata=SPARSE)
    response_sha256: str = field(default="", metadata=SPARSE)
    prompt_sha256: str = field(default="", metadata=SPARSE)

    def __post_init__(self) -> None:
        if self.redacted and (self.response or not self.response_sha256 or self.n_chars is None):
            raise ValueError(f"redacted response {self.item_id}: expected no text, a hash and a length, found {self}")

    @property
    def response_key(self) -> str:
        """Equal for two responses of a run exactly when their texts are: the text, or of a redacted one its hash."""
        return self.response_sha256 if self.redacted else self.response


@dataclass(frozen=True)
class Verdict:
    """One judge's scores of one response; an unscored item carries its reason and no number.

    Attributes:
        judge_id: key into the run's `judges`; verdicts of different judges are never mixed.
        status: "scored" or "unscored".
        reason: why an item is unscored, else "".
        compliance, coherence: 0, 0.5 or 1; None when unscored.
        outcome: "refusal", "partial", "compliance" or "other"; "" when unscored.
        evidence: the judge's short justification.
        repeat: which asking of the same judge about the same response, from 0; files without it hold the first.
    """

    item_id: str
    judge_id: str
    status: str
    compliance: float | None = None
    coherence: float | None = None
    outcome: str = ""
    reason: str = ""
    evidence: str = ""
    repeat: int = 0

    def __post_init__(self) -> None:
        scores = (self.compliance, self.coherence)
        if self.status == SCORED and not all(score in (0.0, 0.5, 1.0) for score in scores):
            raise ValueError(f"scored verdict of {self.item_id}: scores must be 0, 0.5 or 1, found {scores}")
        if self.status == UNSCORED and (scores != (None, None) or not self.reason):
            raise ValueError(f"unscored verdict of {self.item_id}: expected no scores and a reason, found {self}")
        if self.status not in (SCORED, UNSCORED):
            raise ValueError(f"verdict of {self.item_id}: status must be scored or unscored, found {self.status!r}")
        if not isinstance(self.repeat, int) or self.repeat < 0:
            raise ValueError(f"verdict of {self.item_id}: repeat must be a whole number from 0, found {self.repeat!r}")


def item_id(condition_id: str, prompt_set: str, prompt_id: str, sample: int = 0) -> str:
    """Stable identity of one response within a run, 16 hexadecimal characters."""
    return json_sha256([condition_id, prompt_set, prompt_id, sample])[:16]


def sample_seed(seed: int, prompt_set: str, prompt_id: str, sample: int = 0) -> int:
    """The seed of one response's sampling, 48 bits.

    It depends on prompt and sample but not on the condition: paired comparisons share their random numbers, and
    the response is the same whatever else is in the batch, was answered before, or is on other servers.
    """
    return int(json_sha256([seed, prompt_set, prompt_id, sample])[:12], 16)
