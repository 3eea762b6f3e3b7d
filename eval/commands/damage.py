"""`refusal damage`: what a run's conditions do to harmless input."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from eval.cost.damage.measures import Damage
    from eval.cost.damage.measuring import Harmless
    from eval.records.run import Run
    from surgery.model.models import ModelInfo

PATH = click.Path(path_type=Path)


@click.command()
@click.argument("run_path", metavar="RUN", type=PATH)
@click.option("--text", type=PATH, metavar="FILE", help='Running text, plain or JSON lines with "text"; else built in.')
@click.option("--safe-prompts", metavar="SOURCE", help="Harmless prompts; else the run's own safe prompts.")
@click.option("--window", type=click.IntRange(2), default=256, show_default=True, help="Tokens of text scored at once.")
@click.option("--limit", type=click.IntRange(2), help="Use only the first N prompts and windows.")
@click.option(
    "--checkpoint", "folders", type=PATH, multiple=True, metavar="DIR", help="Where a checkpoint or adapter is now."
)
@click.option("--dtype", type=click.Choice(["run", "float32", "bfloat16", "float16"]), default="run", show_default=True)
@click.option("--eager/--compile", default=None, help="Default: eager on CPU, compiled on GPU.")
@click.option("--max-num-seqs", type=click.IntRange(1), help="Requests in one batch; at most 32.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.option("--force", is_flag=True, help="Measure all anew.")
def damage(
    run_path: Path,
    text: Path | None,
    safe_prompts: str | None,
    window: int,
    limit: int | None,
    folders: tuple[Path, ...],
    dtype: str,
    eager: bool | None,
    max_num_seqs: int | None,
    as_json: bool,
    force: bool,
) -> None:
    """Measure what every condition of RUN does where nothing should change.

    First-token KL divergence from the baseline on harmless prompts, over the whole vocabulary, and perplexity on
    running text, by the same engine and interventions as the run. Written to RUN/damage.json and shown in the report.
    An interrupted call is repeated.

    \b
    Example:
      refusal damage RUN --text wikitext.txt
    """
    from eval.cost.damage.run_damage import measure_run
    from eval.cost.damage.texts import BUILT_IN, load_documents
    from eval.generation.engines import unscorable
    from eval.records.run import Run
    from surgery.console.progress import progress_bar
    from surgery.model.dtypes import said_engine_dtype
    from vllm_refusal.engine.engine import EngineOptions

    run = Run.open(run_path)
    info = _model_of(run)
    documents, prompts = load_documents(text or BUILT_IN), _prompts_of(run, safe_prompts)
    date = _date_of(run, info, force)
    chosen = run.manifest.engine.get("dtype", "auto") if dtype == "run" else dtype

    def harmless(longest: int) -> "Harmless":
        return _harmless(info, prompts, documents, min(window, longest), limit, date)

    with progress_bar("measuring", "condition") as progress:
        record = measure_run(
            run,
            info,
            harmless,
            str(text) if text else "built in",
            EngineOptions(said_engine_dtype(info, chosen), eager, max_num_seqs),
            _checkpoints(run, folders),
            progress,
            force,
        )
    for condition in unscorable(run.conditions):
        click.echo(
            f"{condition.id}: not measured, vLLM's LoRA on a CPU cannot score a text; as a checkpoint the edit can be",
            err=True,
        )
    if as_json:
        click.echo(json.dumps({name: found.to_json() for name, found in record.conditions.items()}, indent=1))
    else:
        _print_table(record.conditions)


def _model_of(run: "Run") -> "ModelInfo":
    """The run's model as it is now. Raises: MismatchError when its weights are others."""
    from surgery.console.errors import MismatchError
    from surgery.model.models import describe_model

    recorded = run.manifest.model
    info = describe_model(recorded["model"], recorded["revision"])
    if info.fingerprint != recorded["fingerprint"]:
        raise MismatchError(
            f"{recorded['model']} has fingerprint {info.fingerprint[:12]} but the run was made with "
            f"{recorded['fingerprint'][:12]}; give the run's own model its place back"
        )
    return info


def _prompts_of(run: "Run", source: str | None) -> list[str]:
    """Harmless prompts. Raises: DamageError when the run holds none."""
    from eval.cost.damage.measuring import DamageError
    from surgery.prompts import load_prompts

    if source is not None:
        return [prompt.prompt for prompt in load_prompts(source, "safe")]
    found = dict.fromkeys(row.prompt for row in run.generations() if row.prompt_set == "safe" and row.prompt)
    if len(found) < 2:
        raise DamageError(
            f"{run.path}: has {len(found)} safe prompts to measure on, expected at least 2; give --safe-prompts"
        )
    return list(found)


def _harmless(
    info: "ModelInfo",
    prompts: Sequence[str],
    documents: Sequence[str],
    window: int,
    limit: int | None,
    date: str | None,
) -> "Harmless":
    from eval.cost.damage.measuring import Harmless
    from eval.cost.damage.texts import cut_windows
    from surgery.model.chat import prompt_token_ids
    from surgery.model.models import load_tokenizer

    tokenizer = load_tokenizer(info, date)
    rendered = {f"p{index}": prompt_token_ids(tokenizer, text) for index, text in enumerate(prompts[:limit])}
    return Harmless(rendered, cut_windows(tokenizer, documents, window)[:limit], date)


def _date_of(run: "Run", info: "ModelInfo", force: bool) -> str | None:
    """The date in the run's prompts; where the run does not say one, that of what was measured, else today's."""
    from eval.cost.damage.records import FILE, UNFINISHED, load_damage
    from eval.generation.study_date import study_date

    saved = [] if force else [load_damage(run.path, file) for file in (UNFINISHED, FILE)]
    recorded = next((record.inputs.date for record in saved if record is not None), None)
    return study_date(info, run.manifest.date, {}, recorded)


def _checkpoints(run: "Run", folders: Sequence[Path]) -> dict[str, Path]:
    """Condition id -> folder of edited weights: as recorded in the run, or named now; the folder's own manifest tells."""
    from eval.cost.damage.measuring import DamageError
    from eval.plan.conditions import WEIGHTS

    by_source = {item.source: item.id for item in run.conditions if item.kind in WEIGHTS}
    recorded = [Path(path) for path in run.manifest.checkpoints.values()]
    found = {}
    for folder in [*(path for path in recorded if path.is_dir()), *folders]:
        source = _manifest_sha256(folder)
        if source in by_source:
            found[by_source[source]] = folder
        elif folder in folders:
            raise DamageError(
                f"{folder}: is no checkpoint of this run; its conditions are {', '.join(by_source.values())}"
            )
    return found


def _manifest_sha256(folder: Path) -> str:
    from surgery.files.artifacts import json_sha256
    from surgery.weights.manifest import ADAPTER_KIND, KIND, is_adapter, read_manifest

    return json_sha256(read_manifest(folder, ADAPTER_KIND if is_adapter(folder) else KIND))


def _print_table(conditions: "Mapping[str, Damage]") -> None:
    width = max(map(len, conditions))
    click.echo(f"{'condition':{width}}  {'KL (nats)':>24}  {'same token':>10}  {'perplexity':>10}  {'nats/token':>26}")
    for name, found in conditions.items():
        kl, nats = interval_text(found.kl, ".4f"), interval_text(found.nats, "+.4f")
        same = "-" if found.same_token is None else f"{found.same_token:.3f}"
        click.echo(f"{name:{width}}  {kl:>24}  {same:>10}  {found.perplexity:>10.3f}  {nats:>26}")


def interval_text(found: Any, spec: str) -> str:
    """An estimate with its interval, or a dash for none."""
    return "-" if found is None else f"{found.estimate:{spec}} [{found.low:{spec}}, {found.high:{spec}}]"
