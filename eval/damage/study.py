"""The damage of a whole run: one engine for the baseline and all run-time conditions, one for each checkpoint."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from eval.conditions import BASELINE, Condition, is_adapter
from eval.damage.measures import Damage
from eval.damage.measuring import Baseline, DamageError, Harmless, damage_options, measure, measure_baseline
from eval.damage.records import DamageRecord, Inputs, load_damage
from eval.records import Run
from surgery.artifacts import file_sha256, json_sha256
from surgery.models import ModelInfo, describe_model
from vllm_refusal.engine import Engine, EngineOptions

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

    What is `unmeasurable` is left out.

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
            record = _begun(run, _inputs(harmless, text, engine.description["dtype"]), force)
            missing = [condition for condition in conditions if condition.id not in record.conditions]
            baseline = measure_baseline(engine, harmless)
            found = {**record.conditions, BASELINE.id: baseline.damage}
            runtime = [condition for condition in missing if condition.id not in checkpoints]
            for condition in runtime:
                found[condition.id] = measure(engine, condition, harmless, baseline)
                DamageRecord(record.inputs, found).save(run.path)
                tell(len(found) - 1, len(conditions))
        for condition, damage in _of_checkpoints(info, missing, checkpoints, options, harmless, baseline):
            found[condition.id] = damage
            DamageRecord(record.inputs, found).save(run.path)
            tell(len(found) - 1, len(conditions))
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


def _begun(run: Run, inputs: Inputs, force: bool) -> DamageRecord:
    """The saved record, or an empty one. Raises: DamageError when the saved one is of other inputs, without `force`."""
    saved = None if force else load_damage(run.path)
    if saved is None:
        return DamageRecord(inputs, {})
    if saved.inputs != inputs:
        raise DamageError(
            f"{run.path}: was measured on other inputs ({_differences(saved.inputs, inputs)}); repeat that command, or "
            "pass --force to measure anew"
        )
    return saved


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
