"""Answering every prompt under every condition of a run, resumable at any moment."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from eval.generation.engines import RUNTIME, engine_key, model_of, request_of, start_engine
from eval.generation.progress import Tally
from eval.judge.rules.thinking import opens_reasoning
from eval.plan.conditions import Condition
from eval.plan.plan import Plan
from eval.records.rows import Generation, item_id, sample_seed
from eval.records.run import Run
from surgery.console.errors import RefusalError
from surgery.model.chat import prompt_token_ids
from surgery.model.models import ModelInfo, load_tokenizer
from surgery.prompts import Prompt
from vllm_refusal.engine.engine import EngineOptions, Request, Response, Sampling

FLUSH_ROWS, FLUSH_SECONDS = 64, 2.0
N_END = 16  # tokens at the end of a prompt in which a template may open the reasoning
Show = Callable[[Tally], None]
Start = Callable[[ModelInfo, Mapping[str, Mapping[str, Any]], EngineOptions], AbstractContextManager[Any]]
"""Gives an Answerer for the runtime conditions of a model, from modules and options, such as `Engine` itself."""


class GenerationError(RefusalError):
    """A run cannot be generated as asked."""


class Write(Protocol):
    """Puts finished responses on the disk, such as `OverlappedJudging.put`, which also has them judged."""

    def __call__(self, rows: Sequence[Generation], wait: bool = True) -> object:
        """Write rows. With `wait` false the generation was interrupted and nothing may hold it up."""


class Answerer(Protocol):
    """What answers requests: an engine of ours, or servers."""

    @property
    def description(self) -> Mapping[str, Any]:
        """What the run's manifest says about it."""

    @property
    def max_model_len(self) -> int:
        """Longest prompt and response together, in tokens."""

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterable[Response]:
        """Answer requests, each response as soon as it has finished."""


@dataclass(frozen=True)
class Item:
    """One response that a run needs; `sample` counts from 0 the responses of one condition to one prompt."""

    id: str
    condition: Condition
    prompt_set: str
    prompt: Prompt
    sample: int = 0

    def seed(self, seed: int) -> int:
        """The seed of this response's sampling: `eval.records.rows.sample_seed`."""
        return sample_seed(seed, self.prompt_set, self.prompt.id, self.sample)


def check_samples(samples: int, sampling: Sampling) -> None:
    """Raises: GenerationError when several samples could only repeat one another, or there are none."""
    if samples < 1:
        raise GenerationError(f"samples must be at least 1, found {samples}")
    if samples > 1 and sampling.temperature == 0:
        raise GenerationError(f"{samples} samples at temperature 0 are one response {samples} times; set --temperature")


def items_of(
    conditions: Sequence[Condition], prompt_sets: Mapping[str, Sequence[Prompt]], samples: int = 1
) -> list[Item]:
    """Every response of a run, prompt by prompt, so that an interrupted run compares whole prompts."""
    return [
        Item(item_id(condition.id, name, prompt.id, sample), condition, name, prompt, sample)
        for name, prompts in prompt_sets.items()
        for prompt in prompts
        for condition in conditions
        for sample in range(samples)
    ]


def generate_run(
    run: Run,
    info: ModelInfo,
    plan: Plan,
    prompt_sets: Mapping[str, Sequence[Prompt]],
    sampling: Sampling,
    options: EngineOptions,
    show: Show | None = None,
    *,
    samples: int = 1,
    servers: Any = None,
    write: Write | None = None,
    start: Start | None = None,
) -> int:
    """Generate what the run still lacks: one engine for all runtime conditions, one stock engine per checkpoint.

    Args:
        show: called after each response with how far the run is.
        samples: responses of each condition to each prompt.
        servers: an Answerer as a context manager (eval.endpoints.servers.Servers) that takes the place of the engines.
        write: puts finished responses on the disk; by default `run.append_generations`.
        start: gives the engine of the runtime conditions, by default a new one.
    Returns: how many responses were generated now.
    Raises: GenerationError when the run has nothing to answer.
    """
    check_samples(samples, sampling)
    items = items_of(plan.conditions, prompt_sets, samples)
    if not items:
        raise GenerationError("nothing to generate: the run has no prompts")
    with run.writing(), run.discarded_if_empty():
        plan.save_made()
        done = run.generated_ids()
        missing = [item for item in items if item.id not in done]
        tally = Tally(len(items) - len(missing), len(items), sampling.max_tokens)
        crew = _Crew(run, info, plan, options, servers, start)
        for key, group in crew.groups(missing).items():
            crew.answer(key, group, sampling, _Sink(write or _writing_to(run), tally, show))
    return len(missing)


def _writing_to(run: Run) -> Write:
    def write(rows: Sequence[Generation], wait: bool = True) -> int:
        return run.append_generations(rows)

    return write


@dataclass
class _Crew:
    """The engines of a run, started one after the other, and what each answers."""

    run: Run
    info: ModelInfo
    plan: Plan
    options: EngineOptions
    servers: Any
    start: Start | None

    def groups(self, items: Sequence[Item]) -> dict[str, list[Item]]:
        """Items by the engine that answers them."""
        groups: dict[str, list[Item]] = {}
        for item in items:
            groups.setdefault(engine_key(item.condition), []).append(item)
        return groups

    def answer(self, key: str, items: Sequence[Item], sampling: Sampling, sink: "_Sink") -> None:
        """Start what answers these items, have it answer them, and keep both times."""
        started = time.monotonic()
        model = model_of(items[0].condition, self.info)
        with self._answerer(key, items) as answerer:
            ready = time.monotonic()
            try:
                if key == RUNTIME:
                    self._check_dtype(answerer)
                _check_dates(answerer.description, self.run.manifest.date)
                with sink.tally.running(lambda: getattr(answerer, "n_pending_tokens", 0)):
                    rendered = _rendered(model, items, answerer.max_model_len, self.run.manifest.date)
                    _answer(answerer, items, rendered, sampling, sink)
            finally:
                if self.run.generated_ids():
                    self._record(key, answerer, {"start": ready - started, "generate": time.monotonic() - ready})

    def _check_dtype(self, answerer: Answerer) -> None:
        """Raises: GenerationError when the run's responses so far are from an engine in another dtype."""
        before, now = ((of or {}).get("dtype") for of in (self.run.manifest.engine, answerer.description))
        if before and now and before != now:
            raise GenerationError(
                f"{self.run.path}: was begun in {before}, and would go on in {now}; give --dtype {before}, or another output"
            )

    def _record(self, key: str, answerer: Answerer, seconds: Mapping[str, float]) -> None:
        """Write what answered and the times it took into the run's manifest."""
        with self.run.amending() as manifest:
            if key == RUNTIME:
                manifest.engine = dict(answerer.description)
            stages = manifest.stages
            for what, taken in seconds.items():
                stage = f"engine {key}: {what}" if key else f"engine: {what}"
                stages[stage] = round(stages.get(stage, 0.0) + taken, 2)

    def _answerer(self, key: str, items: Sequence[Item]) -> Any:
        """The engine, which starts here."""
        if self.servers is not None:
            return self.servers
        if key == RUNTIME and self.start is not None:
            return self.start(self.info, self.plan.modules, self.options)
        asked = {item.condition.id: item.condition for item in items}
        return start_engine(list(asked.values()), self.info, self.plan.modules, self.options)


def _check_dates(description: Mapping[str, Any], date: str | None) -> None:
    """Raises: GenerationError when servers of a model whose chat template asks for the date tell it different ones."""
    told = {server["date"]: server["url"] for server in description.get("servers", ()) if server.get("date")}
    if date is not None and len(told) > 1:
        (first, here), (other, there), *_ = told.items()
        raise GenerationError(
            f"{here} tells chat templates the date {first} and {there} tells them {other}; start all with one --date"
        )


@dataclass
class _Sink:
    """Where finished responses go: to the disk in batches, and into the tally."""

    write: Write
    tally: Tally
    show: Show | None

    def drain(self, rows: Iterator[Generation]) -> None:
        """Take all rows; those finished before an interruption are written as well."""
        pending: list[Generation] = []
        flushed = time.monotonic()
        self._show()
        try:
            for row in rows:
                pending.append(row)
                self.tally.add(row.n_tokens)
                if len(pending) >= FLUSH_ROWS or time.monotonic() - flushed > FLUSH_SECONDS:
                    batch, pending, flushed = pending, [], time.monotonic()
                    self.write(batch)  # whose rows are no longer pending: an interrupt while it waits repeats none
                self._show()
        except BaseException:  # a finished response is not lost
            self.write(pending, wait=False)
            raise
        self.write(pending)

    def _show(self) -> None:
        if self.show is not None:
            self.show(self.tally)


def _answer(
    answerer: Answerer,
    items: Sequence[Item],
    rendered: "Mapping[str, _Rendered]",
    sampling: Sampling,
    sink: _Sink,
) -> None:
    by_id = {item.id: item for item in items}
    requests = [
        request_of(item.condition, item.id, rendered[item.prompt.prompt].token_ids, item.seed(sampling.seed))
        for item in items
    ]
    answers = ((by_id[response.id], response) for response in answerer.generate(requests, sampling))
    sink.drain(_row(item, response, rendered[item.prompt.prompt]) for item, response in answers)


@dataclass(frozen=True)
class _Rendered:
    """A prompt's chat as token ids, and whether it ends inside the model's reasoning."""

    token_ids: list[int]
    opens_reasoning: bool


def _rendered(model: ModelInfo, items: Sequence[Item], max_model_len: int, date: str | None) -> dict[str, _Rendered]:
    """Prompt text -> its chat. Raises: GenerationError, before anything is answered, when a prompt is too long."""
    tokenizer = load_tokenizer(model, date)
    rendered: dict[str, _Rendered] = {}
    for item in items:
        text = item.prompt.prompt
        if text not in rendered:
            token_ids = prompt_token_ids(tokenizer, text)
            end = str(tokenizer.decode(token_ids[-N_END:], skip_special_tokens=False))
            rendered[text] = _Rendered(token_ids, opens_reasoning(end))
        n_tokens = len(rendered[text].token_ids)
        if n_tokens >= max_model_len:
            raise GenerationError(
                f"prompt {item.prompt.id!r} ({item.prompt_set}) has {n_tokens} tokens but {model.model} takes "
                f"at most {max_model_len} with its response; shorten it or leave it out"
            )
    return rendered


def _row(item: Item, response: Response, rendered: _Rendered) -> Generation:
    return Generation(
        item_id=item.id,
        condition_id=item.condition.id,
        prompt_set=item.prompt_set,
        prompt_id=item.prompt.id,
        prompt=item.prompt.prompt,
        category=item.prompt.category,
        tier=item.prompt.tier,
        sample=item.sample,
        response=response.text,
        finish_reason=response.finish_reason,
        n_prompt_tokens=response.n_prompt_tokens,
        n_tokens=response.n_tokens,
        begins_in_reasoning=rendered.opens_reasoning,
    )
