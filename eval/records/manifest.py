"""What `run.json` says about a run: model, conditions, prompts, decoding, judges, provenance."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, InstanceOf, ValidationError, with_config
from typing_extensions import TypedDict  # typing has one that pydantic reads from Python 3.12 on

from surgery.console.errors import ArtifactError

FORMAT_VERSION = 1
FILE = "run.json"
_MORE = ConfigDict(extra="allow", strict=True)
Text = InstanceOf[str]
"""Words of a command line, which may hold half of a surrogate pair."""


@with_config(_MORE)
class ModelRecord(TypedDict, total=False):
    """A model (surgery.model.models.ModelInfo as JSON); what the report shows of it."""

    model: Text
    revision: str | None
    fingerprint: str
    architecture: str
    dtype: str
    n_layers: int
    d_model: int


@with_config(_MORE)
class PromptSetRecord(TypedDict, total=False):
    """A set of prompts, with PromptSet.provenance where it is known; of the role "safe" they ought to be answered."""

    path: Text
    n: int
    sha256: str
    role: str


@with_config(_MORE)
class SamplingRecord(TypedDict, total=False):
    """Decoding (vllm_refusal.engine.engine.Sampling as JSON)."""

    max_tokens: int
    temperature: float
    seed: int
    logprobs: int | None


@with_config(_MORE)
class JudgeRecord(TypedDict, total=False):
    """A judge's description of itself: all that decides its verdicts, no credentials."""

    kind: str
    model: str
    rubric: str
    rubric_version: int | str
    fallback: dict[str, Any]


class RedactionRecord(TypedDict):
    """How text is kept out (eval.records.redaction)."""

    salt: str
    prompts: bool


class Manifest(BaseModel):
    """`run.json`. Keys that are not here are kept as they are; only what is set, or not as by default, is written.

    Attributes:
        conditions: Condition.to_json of each, in the order of tables.
        modules: of the engine, by ablation's name.
        checkpoints: condition id -> folder of a checkpoint or adapter.
        samples: responses of each condition to each prompt.
        served: whether servers answered, and not an engine of the command.
        date: told to the chat template; None where it does not ask.
        engine_arguments: further flags of vLLM.
        engine: what answered, once it did.
        plan_sha256: of all that is compared.
        arguments: the words after `refusal`; `command` them all in one line.
        edited: a sentence for whoever finds the file.
        judges: judge id -> its description.
        stages: name -> seconds.
        analysis: per-layer statistics of the RVs, of a sweep.
        tier_angles: between the spans of tiers, where the RVs have some.
        ground_truth: of an organism: what was planted.
    """

    model_config = ConfigDict(extra="allow", strict=True)

    kind: Literal["run"] = "run"
    format_version: int = FORMAT_VERSION
    model: ModelRecord = Field(default_factory=ModelRecord)
    conditions: list[dict[str, Any]] = Field(default_factory=list)
    modules: dict[str, dict[str, Any]] = Field(default_factory=dict)
    checkpoints: dict[str, Text] = Field(default_factory=dict)
    prompt_sets: dict[str, PromptSetRecord] = Field(default_factory=dict)
    sampling: SamplingRecord = Field(default_factory=SamplingRecord)
    samples: int = 1
    served: bool = False
    date: str | None = None
    engine_arguments: dict[str, Any] = Field(default_factory=dict)
    engine: dict[str, Any] = Field(default_factory=dict)
    plan_sha256: str = ""
    versions: dict[str, Any] = Field(default_factory=dict)
    arguments: list[Text] = Field(default_factory=list)
    command: Text = ""
    created: str = ""
    edited: str = ""
    judges: dict[str, JudgeRecord] = Field(default_factory=dict)
    stages: dict[str, float] = Field(default_factory=dict)
    analysis: dict[str, Any] = Field(default_factory=dict)
    tier_angles: list[dict[str, Any]] = Field(default_factory=list)
    ground_truth: dict[str, Any] = Field(default_factory=dict)
    redaction: RedactionRecord | None = None

    @classmethod
    def of(cls, content: Mapping[str, Any], where: Path | str = FILE) -> "Manifest":
        """Check what a file holds. Raises: ArtifactError, in one line, when it is not a run's, newer, or of wrong types."""
        kind, version = content.get("kind", "run"), content.get("format_version", 0)
        if kind != "run" or (isinstance(version, int) and version > FORMAT_VERSION):
            raise ArtifactError(
                f"{where}: expected kind 'run' of format {FORMAT_VERSION} or older, found {kind!r} of format {version}"
            )
        try:
            cls.model_validate(dict(content))
        except ValidationError as err:
            raise ArtifactError(f"{where}: {_fault(err.errors()[0])}") from err
        return cls.model_construct(**content)  # the very values, in their order: what is read is written again

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """Read a run folder's. Raises: ArtifactError."""
        path = folder / FILE
        try:
            content = json.loads(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError) as err:
            raise ArtifactError(
                f"{folder}: not a run folder (no {FILE}); make one with refusal generate or sweep"
            ) from err
        except ValueError as err:
            raise ArtifactError(f"{path}: not JSON ({err})") from err
        if not isinstance(content, dict):
            raise ArtifactError(f"{path}: expected a JSON object, found {type(content).__name__}")
        return cls.of({"kind": None, **content}, path)

    def to_json(self) -> dict[str, Any]:
        """The keys of the file."""
        fields = type(self).model_fields
        kept = [
            name
            for name, field in fields.items()
            if name in self.model_fields_set or getattr(self, name) != field.get_default(call_default_factory=True)
        ]
        return {name: getattr(self, name) for name in kept} | (self.model_extra or {})

    def text(self) -> str:
        """The file."""
        return json.dumps(self.to_json(), indent=1, sort_keys=True) + "\n"


def _fault(error: Any) -> str:
    place = ".".join(map(str, error["loc"]))
    return f"{place}: {error['msg']}, found {str(error['input'])[:60]!r}"
