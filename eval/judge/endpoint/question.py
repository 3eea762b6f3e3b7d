"""What a judge model is asked about a response, and how its answer is read: what a rubric and a guard have in common."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from eval.judge.endpoint.scales import Answer


class Question(BaseModel, ABC):
    """One way to ask for a verdict.

    Attributes:
        name: of the preset, or of the user's file.
        version: raised with every change of what is asked or how it is read; 0 for a user's own.
        kind: of judge that it makes, as its verdicts are named.
        forms: of an answer, the best first; the first that a model can give is used.
        fixed: settings of the request that are not the user's to choose.
        only_harmful: whether an answer says nothing about compliance with a harmless request.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    kind: ClassVar[str]
    forms: ClassVar[tuple[str, ...]]
    fixed: ClassVar[Mapping[str, Any]] = {}

    name: str
    version: int
    only_harmful: bool = False

    @property
    @abstractmethod
    def scores_coherence(self) -> bool:
        """Whether the model is asked for coherence."""

    @abstractmethod
    def sha256(self) -> str:
        """sha256 of what decides the verdicts."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What is recorded with a judge."""

    @abstractmethod
    def ask(self, prompt: str, response: str, form: str) -> dict[str, Any]:
        """What a request holds besides model and settings."""

    @abstractmethod
    def read(self, text: str, form: str) -> Answer:
        """Read what the model wrote. Raises: UnreadableAnswer."""

    @abstractmethod
    def unusable(self, failures: Sequence[str]) -> str:
        """What is told of a model that can give none of the forms, `failures` one for each."""
