"""How the documents of a benchmark are asked."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """How documents are asked: the same for every variant.

    Attributes:
        limit: documents of each (sub)task; None for all.
        num_fewshot: None leaves it to the task.
        chat_template: put documents into the model's chat template.
        date: that the template is told, YYYY-MM-DD; None where it does not ask, or to leave it to `Benchmark.run`.
    """

    limit: int | None = None
    num_fewshot: int | None = None
    chat_template: bool = True
    dtype: str = "auto"
    date: str | None = None
