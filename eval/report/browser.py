"""The data of the response browser: every response and verdict, with equal texts stored once."""

import json
from collections.abc import Sequence
from typing import Any

from eval.report.results import HARMFUL, Results
from eval.report.sentences import judge_label
from eval.report.tables import condition_name
from eval.scores import NOT_JUDGED, ScoredRun


class TextPool:
    """Distinct strings and their indices."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._index: dict[str, int] = {}

    def index(self, text: str) -> int:
        """Where the text is in `texts`; added at the first asking."""
        if text not in self._index:
            self._index[text] = len(self.texts)
            self.texts.append(text)
        return self._index[text]


def browser_data(all_results: Sequence[Results]) -> dict[str, Any]:
    """Everything the page's script needs.

    Returns: {harmful, texts, runs: [{name, judge, best, conditions, prompts, answers}]} with, for each run, conditions
        [{id, name, kind}], prompts [[set, id, text, category, tier]] and answers [[prompt, condition, sample, text,
        finish reason, compliance, coherence, outcome or reason, evidence]]; texts, reasons and evidence are indices
        into `texts`, scores are null when unscored.
    """
    pool = TextPool()
    return {"harmful": HARMFUL, "runs": [_run_data(results, pool) for results in all_results], "texts": pool.texts}


def embed_json(data: Any) -> str:
    """JSON that is safe inside a <script> element: no `<`, no line separators that old parsers trip over."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    text = text.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate cannot be written as UTF-8
    return (
        text.replace("<", "\\u003c").replace(">", "\\u003e").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    )


def _run_data(results: Results, pool: TextPool) -> dict[str, Any]:
    scored = results.scored
    names = {row.condition.id: condition_name(row) for row in (*results.safe, *results.harmful)}
    shown = [condition for condition in scored.conditions if condition.id in names]
    best = (
        results.best_subspace
        or results.best_rv
        or next((row for row in results.harmful if row.condition.kind != "baseline"), None)
    )
    keys = {(name, prompt.id): prompt for name, prompts in scored.prompts.items() for prompt in prompts}
    position = {key: index for index, key in enumerate(keys)}
    return {
        "name": results.model_name,
        "judge": judge_label(scored),
        "best": best.condition.id if best else "",
        "conditions": [{"id": c.id, "name": _full_name(names[c.id], c.alpha, c.site), "kind": c.kind} for c in shown],
        "prompts": [[name, p.id, p.prompt, p.category, p.tier] for (name, _), p in keys.items()],
        "answers": list(_answers(scored, position, {c.id: index for index, c in enumerate(shown)}, pool)),
    }


def _full_name(name: str, alpha: float, site: str) -> str:
    return name + (f", α {alpha:g}" if alpha else "") + (f", {site}" if site not in ("", "stream") else "")


def _answers(
    scored: ScoredRun, position: dict[tuple[str, str], int], conditions: dict[str, int], pool: TextPool
) -> Any:
    for row in scored.generations:
        verdict = scored.verdicts.get(row.item_id)
        scores = (verdict.compliance, verdict.coherence) if verdict else (None, None)
        word = (verdict.outcome or verdict.reason) if verdict else NOT_JUDGED
        evidence = verdict.evidence if verdict else ""
        at = (position[row.prompt_set, row.prompt_id], conditions[row.condition_id], row.sample)
        yield [
            *at,
            pool.index(row.response),
            pool.index(row.finish_reason),
            *scores,
            pool.index(word),
            pool.index(evidence),
        ]
