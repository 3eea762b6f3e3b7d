"""Answering every prompt under every condition of a run, resumable at any moment."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.conditions import Condition
from eval.plan import Plan
from eval.records import Generation, Run, item_id
from surgery.errors import RefusalError
from surgery.models import ModelInfo, describe_model
from surgery.prompts import Prompt
from vllm_refusal.engine import Engine, EngineOptions, Request, Response, Sampling

FLUSH_ROWS, FLUSH_SECONDS = 64, 2.0
Progress = Callable[[int, int, int], None]


class GenerationError(RefusalError):
    """A run cannot be generated as asked."""


@dataclass(frozen=True)
class Item:
    """One response that a run needs."""

    id: str
    condition: Condition
    prompt_set: str
    prompt: Prompt


def items_of(conditions: Sequence[Condition], prompt_sets: Mapping[str, Sequence[Prompt]]) -> list[Item]:
    """Every (condition, prompt) of a run, prompt by prompt, so that an interrupted run compares whole prompts."""
    return [
        Item(item_id(condition.id, name, prompt.id), condition, name, prompt)
        for name, prompts in prompt_sets.items()
        for prompt in prompts
        for condition in conditions
    ]


def generate_run(
    run: Run,
    info: ModelInfo,
    plan: Plan,
    prompt_sets: Mapping[str, Sequence[Prompt]],
    sampling: Sampling,
    options: EngineOptions,
    progress: Progress | None = None,
) -> int:
    """Generate what the run still lacks: one engine for all runtime conditions, one stock engine per checkpoint.

    Args:
        progress: called with (responses done, responses in all, tokens generated so far).
    Returns: how many responses were generated now.
    Raises: GenerationError when the run has nothing to answer.
    """
    items = items_of(plan.conditions, prompt_sets)
    if not items:
        raise GenerationError("nothing to generate: the run has no prompts")
    with run.writing(), run.discarded_if_empty():
        plan.save_controls()
        done = {row.item_id for row in run.generations()}
        missing = [item for item in items if item.id not in done]
        counter = _Counter(len(items) - len(missing), len(items), progress)
        for checkpoint, group in _groups(missing, plan).items():
            _generate_group(run, checkpoint, info, plan, group, sampling, options, counter)
    return len(missing)


def _groups(items: Sequence[Item], plan: Plan) -> dict[str, list[Item]]:
    """Items by the engine that answers them: "" is the runtime engine, else a checkpoint's condition id."""
    groups: dict[str, list[Item]] = {}
    for item in items:
        key = item.condition.id if item.condition.id in plan.checkpoints else ""
        groups.setdefault(key, []).append(item)
    return groups


def _generate_group(
    run: Run,
    checkpoint: str,
    info: ModelInfo,
    plan: Plan,
    items: Sequence[Item],
    sampling: Sampling,
    options: EngineOptions,
    counter: "_Counter",
) -> None:
    started = time.monotonic()
    model = describe_model(plan.checkpoints[checkpoint]) if checkpoint else info
    with Engine(model, {} if checkpoint else plan.modules, options) as engine:
        ready = time.monotonic()
        _generate_items(run, engine, model, items, sampling, counter)
        stage = f"engine {checkpoint}" if checkpoint else "engine"
        if not checkpoint:
            run.manifest["engine"] = engine.description
    _add_seconds(run, f"{stage}: start", ready - started)
    _add_seconds(run, f"{stage}: generate", time.monotonic() - ready)
    run.save_manifest()


def _generate_items(
    run: Run, engine: Engine, model: ModelInfo, items: Sequence[Item], sampling: Sampling, counter: "_Counter"
) -> None:
    by_id = {item.id: item for item in items}
    pending: list[Generation] = []
    flushed = time.monotonic()
    try:
        for response in engine.generate(_requests(model, items, engine.max_model_len), sampling):
            pending.append(_row(by_id[response.id], response))
            counter.add(response.n_tokens)
            if len(pending) >= FLUSH_ROWS or time.monotonic() - flushed > FLUSH_SECONDS:
                rows, pending, flushed = pending, [], time.monotonic()
                run.append_generations(rows)
    finally:  # also when interrupted: a finished response is not lost
        run.append_generations(pending)


def _requests(model: ModelInfo, items: Sequence[Item], max_model_len: int) -> list[Request]:
    """Every item as token ids. Raises: GenerationError, before anything is answered, when a prompt is too long."""
    from surgery.chat import prompt_token_ids
    from surgery.models import load_tokenizer

    tokenizer = load_tokenizer(model)
    rendered: dict[str, list[int]] = {}
    for item in items:
        text = item.prompt.prompt
        if text not in rendered:
            rendered[text] = prompt_token_ids(tokenizer, text)
        if len(rendered[text]) >= max_model_len:
            raise GenerationError(
                f"prompt {item.prompt.id!r} ({item.prompt_set}) has {len(rendered[text])} tokens but {model.model} takes "
                f"at most {max_model_len} with its response; shorten it or leave it out"
            )
    return [Request(item.id, rendered[item.prompt.prompt], item.condition.request) for item in items]


def _row(item: Item, response: Response) -> Generation:
    return Generation(
        item_id=item.id,
        condition_id=item.condition.id,
        prompt_set=item.prompt_set,
        prompt_id=item.prompt.id,
        prompt=item.prompt.prompt,
        category=item.prompt.category,
        tier=item.prompt.tier,
        sample=0,
        response=response.text,
        finish_reason=response.finish_reason,
        n_prompt_tokens=response.n_prompt_tokens,
        n_tokens=response.n_tokens,
    )


def _add_seconds(run: Run, stage: str, seconds: float) -> None:
    stages: dict[str, Any] = run.manifest["stages"]
    stages[stage] = round(stages.get(stage, 0.0) + seconds, 2)


class _Counter:
    """Counts responses and tokens for the progress callback."""

    def __init__(self, done: int, total: int, progress: Progress | None):
        self.done, self.total, self.tokens, self._progress = done, total, 0, progress

    def add(self, n_tokens: int) -> None:
        self.done += 1
        self.tokens += n_tokens
        if self._progress is not None:
            self._progress(self.done, self.total, self.tokens)
