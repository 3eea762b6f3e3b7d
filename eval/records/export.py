"""A run in the forms that other programs read: one table (CSV, Parquet), OpenAI batch requests, an Inspect log."""

import csv
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from eval.endpoints.completions import NEUTRAL
from eval.plan.conditions import WEIGHTS
from eval.records.inspect_log import inspect_log
from eval.records.measures import MEANS
from eval.records.rows import Generation, Verdict, sample_seed
from eval.records.run import Run
from surgery.console.errors import RefusalError
from surgery.files.artifacts import replacing

FORMATS = ("csv", "parquet", "inspect", "openai-batch")
_RESPONSE = [field.name for field in fields(Generation)]
_VERDICT = [field.name for field in fields(Verdict) if field.name != "item_id"]
_CONDITION = ("kind", "label", "alpha", "rank", "layers", "site")
COLUMNS = [*_RESPONSE, *(f"condition_{name}" for name in _CONDITION), *_VERDICT]


class ExportError(RefusalError):
    """A run cannot be written in the form asked for."""


def export_run(run: Run, form: str, path: Path | str, force: bool = False) -> int:
    """Write a run as one file, whole or not at all.

    `csv` and `parquet` have one row for each response and verdict of it (several judges and repeats: several rows;
    none: one row without a verdict), with the columns COLUMNS. `openai-batch` has one chat completion request for each
    response of a condition that a server of the run's model answers, with the condition in `vllm_xargs`. `inspect` is
    a log in the JSON format of inspect_ai.

    Args:
        form: one of FORMATS.
    Returns: rows, requests or samples written.
    Raises: ExportError (no responses, no text to ask with, no pyarrow), OutputExistsError, DiskError, ArtifactError.
    """
    if form not in FORMATS:
        raise ExportError(f"export format must be one of {', '.join(FORMATS)}, found {form!r}")
    if not run.generated_ids():
        raise ExportError(f"{run.path}: no responses to export; make some with refusal generate or sweep")
    writers = {"csv": _write_csv, "parquet": _write_parquet, "inspect": _write_inspect, "openai-batch": _write_batch}
    with replacing(Path(path), force) as part:
        return writers[form](run, part)


def table_rows(run: Run) -> Iterator[dict[str, Any]]:
    """Response by response in the order they were written, one record with the keys COLUMNS for each verdict of it."""
    conditions = {condition.id: condition for condition in run.conditions}
    verdicts: dict[str, list[Verdict | None]] = defaultdict(list)
    for verdict in run.verdicts():
        verdicts[verdict.item_id].append(verdict)
    for item in run.generations():
        condition = conditions[item.condition_id]
        shared = vars(item) | {f"condition_{name}": getattr(condition, name) for name in _CONDITION}
        for found in verdicts[item.item_id] or [None]:
            yield shared | {name: getattr(found, name, None) for name in _VERDICT}


def batch_requests(run: Run) -> Iterator[dict[str, Any]]:
    """The run's requests as lines of an OpenAI batch file, to be answered again by a server of the run's model.

    Each has the seed that its response was drawn with, so several samples of a prompt stay several, and the decoding
    options whose defaults a server takes from the model. A checkpoint's responses are left out: another server answers
    for it.

    Raises: ExportError when a prompt was redacted, or every response is a checkpoint's.
    """
    conditions = {condition.id: condition for condition in run.conditions if condition.kind not in WEIGHTS}
    items = [item for item in run.generations() if item.condition_id in conditions]
    if not items:
        raise ExportError(f"{run.path}: all responses are of checkpoints, which no ablation of one server answers")
    if any(item.prompt_sha256 for item in items):
        raise ExportError(f"{run.path}: its prompts are redacted, so there are no requests to export")
    sampling = run.manifest.sampling
    kept = NEUTRAL | {
        key: value for key, value in sampling.items() if key in ("max_tokens", "temperature") and value is not None
    }
    for item in items:
        seed = sample_seed(sampling.get("seed", 0), item.prompt_set, item.prompt_id, item.sample)
        messages = [{"role": "user", "content": item.prompt}]
        body = {"model": _model(run), "messages": messages, **kept, "seed": seed}
        request = conditions[item.condition_id].request
        body |= {"vllm_xargs": dict(request)} if request else {}
        yield {"custom_id": item.item_id, "method": "POST", "url": "/v1/chat/completions", "body": body}


def _model(run: Run) -> str:
    return run.manifest.model.get("model", "")


def _write_csv(run: Run, part: Path) -> int:
    records = list(table_rows(run))
    with open(part, "w", encoding="utf-8", errors="backslashreplace", newline="") as handle:
        writer = csv.DictWriter(handle, COLUMNS)
        writer.writeheader()
        writer.writerows(records)
    return len(records)


def _write_parquet(run: Run, part: Path) -> int:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as err:
        raise ExportError(f"the parquet format needs pyarrow, which cannot be imported here ({err}); use csv") from err
    records = list(table_rows(run))
    columns = {name: [_storable(record[name]) for record in records] for name in COLUMNS}
    metadata = {"vllm_refusal": json.dumps({"kind": "run_table", "model": _model(run)})}
    pq.write_table(pa.table(columns, schema=_schema(pa, metadata)), part)
    return len(records)


def _schema(pa: Any, metadata: Mapping[str, str]) -> Any:
    """Types of the columns, the same whatever a run holds: a column of None alone would have none of its own."""
    special = {
        **dict.fromkeys(("tier", "sample", "n_prompt_tokens", "n_tokens", "n_chars", "repeat"), pa.int64()),
        **dict.fromkeys((*(measure.name for measure in MEANS), "condition_alpha"), pa.float64()),
        "condition_rank": pa.int64(),
        **dict.fromkeys(("begins_in_reasoning", "redacted"), pa.bool_()),
    }
    return pa.schema([(name, special.get(name, pa.string())) for name in COLUMNS], metadata=metadata)


def _storable(value: Any) -> Any:
    """Half of a surrogate pair, which no UTF-8 text can hold, as its escape."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _write_batch(run: Run, part: Path) -> int:
    requests = list(batch_requests(run))
    with open(part, "w", encoding="utf-8") as handle:
        handle.writelines(json.dumps(request) + "\n" for request in requests)
    return len(requests)


def _write_inspect(run: Run, part: Path) -> int:
    log = inspect_log(run)
    with open(part, "w", encoding="utf-8") as handle:
        json.dump(log, handle)
    return len(log["samples"])
