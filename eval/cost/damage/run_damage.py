"""The damage of a whole run: every condition on the same inputs, in the engine that answers it."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from eval.cost.damage.measuring import (
    ConditionInEngine,
    DamageError,
    Harmless,
    damage_options,
    measure,
    measure_baseline,
)
from eval.cost.damage.records import FILE, UNFINISHED, DamageRecord, Inputs, load_damage
from eval.generation.engines import Engines, unscorable
from eval.plan.conditions import BASELINE, WEIGHTS, Condition
from eval.records.run import Run
from surgery.console.errors import ArtifactError
from surgery.files.artifacts import file_sha256, json_sha256
from surgery.model.models import ModelInfo
from vllm_refusal.engine.engine import EngineOptions

Progress = Callable[[int, int], None]
MakeHarmless = Callable[[int], Harmless]


def measure_run(
    run: Run,
    info: ModelInfo,
    make_harmless: MakeHarmless,
    text: str,
    options: EngineOptions,
    checkpoints: Mapping[str, Path],
    progress: Progress | None = None,
    force: bool = False,
) -> DamageRecord:
    """Measure every condition of a run that was not measured on these inputs before; saved after each condition.

    What was measured on other inputs stays until all conditions are measured on these. What is `unscorable` is left out.

    Args:
        make_harmless: the inputs, given the most tokens that the engine takes with one more to generate.
        text: where the running text is from.
        checkpoints: condition id -> folder of every checkpoint and adapter.
        progress: called with (conditions measured, conditions to measure).
        force: measure all anew, also on other inputs.
    Raises: DamageError (inputs differ from those of the saved record, a basis has changed since the run, a checkpoint
        is not named), EngineError.
    """
    left_out = [BASELINE, *unscorable(run.conditions)]
    conditions = [_placed(item, checkpoints) for item in run.conditions if item not in left_out]
    modules = run.manifest.modules
    _check_sources(conditions, modules)
    complete = None if force else _complete(run, conditions, make_harmless, text, options)
    if complete is not None:
        return complete
    tell = progress or (lambda done, total: None)
    with run.writing(), closing(Engines([BASELINE, *conditions], info, modules, damage_options(options))) as engines:
        engine = engines.of(BASELINE)
        harmless = make_harmless(engine.max_model_len - 1)
        record, file = _begun(run, _inputs(harmless, text, engine.description["dtype"]), force)
        missing = [condition for condition in conditions if force or condition.id not in record.conditions]
        baseline = measure_baseline(ConditionInEngine(engine, BASELINE), harmless)
        found, n_done = {**record.conditions, BASELINE.id: baseline.damage}, len(conditions) - len(missing)
        for n_new, condition in enumerate(sorted(missing, key=lambda each: each.kind in WEIGHTS), start=1):
            edited = ConditionInEngine(engines.of(condition), condition)
            found[condition.id] = measure(condition.id, edited, harmless, baseline)
            DamageRecord(record.inputs, found).save(run.path, file)
            tell(n_done + n_new, len(conditions))
        if file != FILE:
            DamageRecord(record.inputs, found).save(run.path)
            (run.path / file).unlink(missing_ok=True)
    return DamageRecord(record.inputs, found)


def _placed(condition: Condition, checkpoints: Mapping[str, Path]) -> Condition:
    """The condition with the folder of its edited weights. Raises: DamageError when that is not known."""
    if condition.kind not in WEIGHTS:
        return condition
    if condition.id not in checkpoints:
        raise DamageError(f"{condition.id}: the run does not say where it is; name it with --checkpoint DIR")
    return replace(condition, folder=checkpoints[condition.id])


def _complete(
    run: Run, conditions: Sequence[Condition], make_harmless: MakeHarmless, text: str, options: EngineOptions
) -> DamageRecord | None:
    """The saved record if it leaves nothing to measure on these inputs, so that no engine need start."""
    saved = load_damage(run.path)
    if saved is None or any(item.id not in saved.conditions for item in conditions):
        return None
    dtype = saved.inputs.dtype if options.dtype == "auto" else options.dtype
    return saved if _inputs(make_harmless(saved.inputs.window), text, dtype) == saved.inputs else None


def _begun(run: Run, inputs: Inputs, force: bool) -> tuple[DamageRecord, str]:
    """What is measured on these inputs, and the file for the rest: another one while FILE is of other inputs.

    Raises: DamageError when what is saved is of other inputs, without `force`; ArtifactError likewise.
    """
    saved, unfinished = _saved(run, FILE, force), _saved(run, UNFINISHED, force)
    if saved is None or saved.inputs == inputs:
        return saved or DamageRecord(inputs, {}), FILE
    if unfinished is not None and unfinished.inputs == inputs:
        return unfinished, UNFINISHED
    if not force:
        raise DamageError(
            f"{run.path}: was measured on other inputs ({_differences(saved.inputs, inputs)}); repeat that command, or "
            "pass --force to measure anew"
        )
    return DamageRecord(inputs, {}), UNFINISHED


def _saved(run: Run, file: str, force: bool) -> DamageRecord | None:
    try:
        return load_damage(run.path, file)
    except ArtifactError:
        if force:
            return None
        raise


def _differences(saved: Inputs, now: Inputs) -> str:
    before, after = asdict(saved), asdict(now)
    told = [f"{key} {before[key]} then, {after[key]} now" for key in before if before[key] != after[key]]
    return ", ".join(text for text in told if "sha256" not in text) or "other texts of equal number"


def _inputs(harmless: Harmless, text: str, dtype: str) -> Inputs:
    lengths = {len(window.token_ids) for window in harmless.windows}
    return Inputs(
        n_prompts=len(harmless.prompts),
        prompts_sha256=json_sha256(list(harmless.prompts.values())),
        n_windows=len(harmless.windows),
        window=max(lengths),
        text_sha256=json_sha256([window.token_ids for window in harmless.windows]),
        text=text,
        dtype=dtype,
        date=harmless.date,
    )


def _check_sources(conditions: Sequence[Condition], modules: Mapping[str, Mapping[str, Any]]) -> None:
    """The files behind the run-time conditions are there and are those of the run."""
    for condition in conditions:
        if condition.kind in WEIGHTS:
            continue
        path = Path(modules[condition.request["ablation"]]["path"])
        if not path.is_file():
            raise DamageError(f"{condition.id}: {path} is gone; run the command where the run was made, or restore it")
        is_made_by_run = condition.kind == "random" or bool(condition.tag)
        if not is_made_by_run and file_sha256(path) != condition.source:
            raise DamageError(f"{condition.id}: {path} has changed since the run; damage would be of another basis")
