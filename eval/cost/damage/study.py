"""The damage of a whole run: one engine for the baseline and all run-time conditions, one for each checkpoint."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from eval.cost.damage.measures import Damage
from eval.cost.damage.measuring import Baseline, DamageError, Harmless, damage_options, measure, measure_baseline
from eval.cost.damage.records import FILE, UNFINISHED, DamageRecord, Inputs, load_damage
from eval.plan.conditions import BASELINE, Condition, is_adapter
from eval.records.run import Run
from surgery.console.errors import ArtifactError
from surgery.files.artifacts import file_sha256, json_sha256
from surgery.model.models import ModelInfo, describe_model
from vllm_refusal.engine.engine import Engine, EngineOptions

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

    What was measured on other inputs stays until all conditions are measured on these. What is `unmeasurable` is left out.

    Args:
        make_harmless: the inputs, given the most tokens that the engine takes with one more to generate.
        text: where the running text is from.
        checkpoints: condition id -> folder, of every condition of kind "checkpoint", adapters among them.
        progress: called with (conditions measured, conditions to measure).
        force: measure all anew, also on other inputs.
    Raises: DamageError (inputs differ from those of the saved record, a basis has changed since the run, a checkpoint
        is not named), EngineError.
    """
    left_out = {condition.id for condition in unmeasurable(run)}
    conditions = [item for item in run.conditions if item.id != BASELINE.id and item.id not in left_out]
    _check_sources(run, conditions, checkpoints)
    complete = None if force else _complete(run, conditions, make_harmless, text, options)
    if complete is not None:
        return complete
    tell = progress or (lambda done, total: None)
    with run.writing():
        with Engine(info, run.manifest.get("modules", {}), damage_options(options)) as engine:
            harmless = make_harmless(engine.max_model_len - 1)
            record, file = _begun(run, _inputs(harmless, text, engine.description["dtype"]), force)
            missing = [condition for condition in conditions if force or condition.id not in record.conditions]
            baseline = measure_baseline(engine, harmless)
            found = {**record.conditions, BASELINE.id: baseline.damage}
            left = [condition.id for condition in missing]

            def keep(condition: Condition, damage: Damage) -> None:
                found[condition.id] = damage
                DamageRecord(record.inputs, found).save(run.path, file)
                left.remove(condition.id)
                tell(len(conditions) - len(left), len(conditions))

            for condition in missing:
                if condition.id not in checkpoints:
                    keep(condition, measure(engine, condition, harmless, baseline))
        for condition, damage in _of_checkpoints(info, missing, checkpoints, options, harmless, baseline):
            keep(condition, damage)
        if file != FILE:
            DamageRecord(record.inputs, found).save(run.path)
            (run.path / file).unlink(missing_ok=True)
    return DamageRecord(record.inputs, found)


def unmeasurable(run: Run) -> list[Condition]:
    """Conditions that `measure_run` leaves out: adapters where vLLM's LoRA runs on a CPU, which cannot score a text."""
    from vllm.platforms import current_platform

    return [condition for condition in run.conditions if is_adapter(condition) and current_platform.is_cpu()]


def _of_checkpoints(
    info: ModelInfo,
    missing: Sequence[Condition],
    checkpoints: Mapping[str, Path],
    options: EngineOptions,
    harmless: Harmless,
    baseline: Baseline,
) -> Iterator[tuple[Condition, Damage]]:
    for condition in missing:
        if condition.id in checkpoints:
            with _edited(info, condition, checkpoints[condition.id], options) as engine:
                yield condition, measure(engine, condition, harmless, baseline, adapter=is_adapter(condition))


def _edited(info: ModelInfo, condition: Condition, folder: Path, options: EngineOptions) -> Engine:
    """A stock engine on a checkpoint, or on the run's model with an adapter."""
    if is_adapter(condition):
        return Engine(info, {}, damage_options(options), {condition.id: folder})
    return Engine(describe_model(folder), {}, damage_options(options))


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


def _check_sources(run: Run, conditions: Sequence[Condition], checkpoints: Mapping[str, Path]) -> None:
    """The files behind the conditions are there and are those of the run."""
    modules = run.manifest.get("modules", {})
    for condition in conditions:
        if condition.kind == "checkpoint":
            if condition.id not in checkpoints:
                raise DamageError(f"{condition.id}: the run does not say where it is; name it with --checkpoint DIR")
            continue
        path = Path(modules[condition.request["ablation"]]["path"])
        if not path.is_file():
            raise DamageError(f"{condition.id}: {path} is gone; run the command where the run was made, or restore it")
        is_made_by_run = condition.kind == "random" or bool(condition.tag)
        if not is_made_by_run and file_sha256(path) != condition.source:
            raise DamageError(f"{condition.id}: {path} has changed since the run; damage would be of another basis")
