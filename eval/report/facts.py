"""What was run, and where the numbers come from, as names and values."""

from collections.abc import Mapping
from typing import Any

from eval.report.results import Results


def facts(results: Results) -> list[tuple[str, str]]:
    """What was run, as (name, value)."""
    manifest, model, analysis = results.manifest, results.manifest.model, results.analysis
    shape = [f"{results.n_layers} layers", f"d_model {model['d_model']}" if "d_model" in model else ""]
    unmatched = analysis.get("contrast") == "unmatched"
    listed = {
        "model": " · ".join(filter(None, [results.model_name, model.get("architecture"), model.get("dtype"), *shape])),
        "prompts": ", ".join(f"{len(prompts)} {name}" for name, prompts in results.scored.prompts.items()),
        "extraction pairs": str(analysis.get("n_pairs") or ""),
        "extraction prompts": f"{analysis['n_harmful']} harmful and {analysis['n_safe']} safe, unmatched"
        if unmatched
        else "",
        "conditions": str(len(results.scored.conditions)),
        "judge": results.judge,
        "decoding": _decoding(manifest.sampling, results.scored.n_samples),
        "engine": _plain(manifest.engine),
        "created": manifest.created,
    }
    return [(name, value) for name, value in listed.items() if value]


def provenance(results: Results) -> list[tuple[str, str]]:
    """Where the numbers come from: command, versions, hashes."""
    manifest, judge_id = results.manifest, results.scored.judge_id
    model = [manifest.model.get("model"), manifest.model.get("revision"), manifest.model.get("fingerprint")]
    listed = [
        ("run", str(results.scored.run.path)),
        ("command", manifest.command),
        ("model", " ".join(filter(None, model))),
        ("versions", _plain(manifest.versions)),
        ("judge", f"{judge_id}: {_plain(manifest.judges.get(judge_id))}"),
        *((f"{name} prompts", _plain(record)) for name, record in manifest.prompt_sets.items()),
    ]
    return [(name, value) for name, value in listed if value]


def _decoding(sampling: Mapping[str, Any], n_samples: int) -> str:
    temperature = sampling.get("temperature")
    words = ["greedy" if temperature == 0 else f"temperature {temperature}"] if temperature is not None else []
    words += [f"at most {sampling['max_tokens']} new tokens"] if "max_tokens" in sampling else []
    words += [f"seed {sampling['seed']}"] if "seed" in sampling and temperature else []
    words += [f"{n_samples} samples per prompt"] if n_samples > 1 else []
    return ", ".join(words)


def _plain(value: Any) -> str:
    """A manifest value as one line of text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items() if item not in (None, ""))
    if isinstance(value, (list, tuple)):
        return " ".join(map(_plain, value))
    return "" if value is None else str(value)
