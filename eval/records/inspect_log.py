"""A run as an evaluation log in the JSON format of inspect_ai (EvalLog, version 2)."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from importlib import metadata
from typing import Any

from eval.records.measures import MEANS, mean_over_prompts, response_means
from eval.records.rows import SCORED, Generation, Verdict
from eval.records.run import Run

LOG_VERSION = 2
_STOP_REASONS = {"stop": "stop", "length": "max_tokens"}


def inspect_log(run: Run) -> dict[str, Any]:
    """The log as JSON types: one sample for each response, its condition in the metadata, one scorer for each judge.

    A sample's id is "<condition>/<prompt set>/<prompt>", its epoch the number of the sample from 1. An unscored
    response has no score by that judge, and the reason in its metadata; a judge's repeats are averaged.
    """
    items, verdicts = run.generations(), run.verdicts()
    by_item: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        by_item[verdict.item_id].append(verdict)
    created = run.manifest.created or "1970-01-01T00:00:00Z"
    samples = [_sample(run, item, by_item[item.item_id]) for item in items]
    return {
        "version": LOG_VERSION,
        "status": "success",
        "eval": _spec(run, items, created),
        "plan": {"name": "generate", "steps": [{"solver": "generate", "params": {}}]},
        "results": {
            "total_samples": len(samples),
            "completed_samples": len(samples),
            "scores": _results(samples, sorted({verdict.judge_id for verdict in verdicts})),
        },
        "stats": {"started_at": created, "completed_at": created, "model_usage": {}},
        "samples": samples,
    }


def _spec(run: Run, items: Sequence[Generation], created: str) -> dict[str, Any]:
    manifest, sampling = run.manifest.to_json(), run.manifest.sampling
    identity = (run.manifest.plan_sha256 or "run")[:22]
    return {
        "eval_id": identity,
        "run_id": identity,
        "task_id": identity,
        "created": created,
        "task": "refusal",
        "task_args": {},
        "task_version": 0,
        "dataset": {"name": ", ".join(sorted({item.prompt_set for item in items})), "samples": len(items)},
        "model": _model(run),
        "model_args": {},
        "config": {"epochs": 1 + max(item.sample for item in items)},
        "model_generate_config": {
            key: sampling[key] for key in ("max_tokens", "temperature", "seed") if sampling.get(key) is not None
        },
        "packages": {"vllm-refusal": metadata.version("vllm-refusal")},
        "metadata": {
            **{key: manifest[key] for key in ("command", "conditions", "prompt_sets", "judges") if key in manifest},
            "redacted": bool(manifest.get("redaction")),
        },
    }


def _model(run: Run) -> str:
    return run.manifest.model.get("model") or "unknown"


def _sample(run: Run, item: Generation, verdicts: Iterable[Verdict]) -> dict[str, Any]:
    answer = {"role": "assistant", "content": item.response, "source": "generate", "model": _model(run)}
    by_judge: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        by_judge[verdict.judge_id].append(verdict)
    usage = {
        "input_tokens": item.n_prompt_tokens,
        "output_tokens": item.n_tokens,
        "total_tokens": item.n_prompt_tokens + item.n_tokens,
    }
    return {
        "id": f"{item.condition_id}/{item.prompt_set}/{item.prompt_id}",
        "epoch": item.sample + 1,
        "input": item.prompt,
        "target": "",
        "messages": [{"role": "user", "content": item.prompt, "source": "input"}, answer],
        "output": {
            "model": _model(run),
            "choices": [{"message": answer, "stop_reason": _STOP_REASONS.get(item.finish_reason, "unknown")}],
            "usage": usage,
        },
        "scores": {judge: score for judge, rows in by_judge.items() if (score := _score(item, rows)) is not None},
        "metadata": _metadata(item, by_judge),
        "model_usage": {},
    }


def _score(item: Generation, rows: Sequence[Verdict]) -> dict[str, Any] | None:
    scored, means = [row for row in rows if row.status == SCORED], response_means(rows)
    if means is None:
        return None
    return {
        "value": {measure.name: means[measure.name] for measure in MEANS},
        "answer": item.response,
        "explanation": scored[-1].evidence,
        "metadata": {"outcomes": [row.outcome for row in scored], "n_repeats": len(rows), "n_scored": len(scored)},
    }


def _metadata(item: Generation, by_judge: dict[str, list[Verdict]]) -> dict[str, Any]:
    kept = ("item_id", "condition_id", "prompt_set", "prompt_id", "category", "tier", "sample")
    hashes = ("redacted", "n_chars", "response_sha256", "prompt_sha256") if item.redacted else ()
    reasons = {
        judge: [row.reason for row in rows if row.status != SCORED]
        for judge, rows in by_judge.items()
        if any(row.status != SCORED for row in rows)
    }
    return {name: getattr(item, name) for name in (*kept, *hashes)} | ({"unscored": reasons} if reasons else {})


def _results(samples: Sequence[dict[str, Any]], judges: Sequence[str]) -> list[dict[str, Any]]:
    """Means over the prompts of all conditions, each the mean of its scored epochs; what is compared is in the samples."""
    scores = []
    for judge in judges:
        values = [(sample["id"], sample["scores"][judge]["value"]) for sample in samples if judge in sample["scores"]]
        counts = {"scored_samples": len(values), "unscored_samples": len(samples) - len(values)}
        for name in (measure.name for measure in MEANS):
            mean = mean_over_prompts((sample_id, value[name]) for sample_id, value in values) if values else None
            metrics = {"mean": {"name": "mean", "value": mean}} if mean is not None else {}
            scores.append({"name": name, "scorer": judge, "metrics": metrics, **counts})
    return scores
