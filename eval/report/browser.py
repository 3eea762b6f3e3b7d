"""The data of the response browser: every response and every judge's verdicts, with equal texts stored once."""

import base64
import gzip
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from eval.plan.conditions import Condition
from eval.records.rows import Verdict
from eval.report.results import Results
from eval.report.sections.columns import condition_name
from eval.statistics.scores import ScoredRun

COMPRESSED_FROM = 1 << 20  # characters of JSON; a smaller page stays readable as source


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


@dataclass(frozen=True)
class EmbeddedData:
    """Data as it stands inside a <script> element.

    Attributes:
        media_type: "application/json", or "application/gzip" of that in base64.
    """

    text: str
    media_type: str


def browser_data(all_results: Sequence[Results]) -> dict[str, Any]:
    """Everything the page's script needs.

    Returns: {texts, runs: [{name, judges, best, harmless, conditions, prompts, answers}]} with, for each run,
        judges [label] (first the one that the tables rest on), harmless [prompt set], conditions [{id, name, kind}],
        prompts [[set, id, text, category, tier]] (text is null where it was redacted) and answers [[prompt, condition,
        sample, text, finish reason, n_chars, verdicts]] with verdicts [[judge, compliance, coherence, outcome or reason,
        evidence]], one per judge and repeat. Texts, reasons, outcomes and evidence are indices into `texts`, scores are
        null when unscored. Of a redacted response n_chars is the length and text the hash; else n_chars is null.
    """
    pool = TextPool()
    return {"runs": [_run_data(results, pool) for results in all_results], "texts": pool.texts}


def embed(data: Any) -> EmbeddedData:
    """Data for a <script> element: as JSON, and compressed from 1 MiB, which makes a long page two to three times smaller."""
    text = embed_json(data)
    if len(text) < COMPRESSED_FROM:
        return EmbeddedData(text, "application/json")
    packed = gzip.compress(
        text.encode("utf-8"), compresslevel=1, mtime=0
    )  # higher levels: a tenth less, ten times slower
    return EmbeddedData(base64.b64encode(packed).decode("ascii"), "application/gzip")


def embed_json(data: Any) -> str:
    """JSON that is safe inside a <script> element: no `<`, no line separators that old parsers trip over."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    text = text.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate cannot be written as UTF-8
    return (
        text.replace("<", "\\u003c").replace(">", "\\u003e").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    )


def _run_data(results: Results, pool: TextPool) -> dict[str, Any]:
    scored = results.scored
    verdicts = scored.run.verdicts()
    others = sorted({verdict.judge_id for verdict in verdicts} - {scored.judge_id})
    conditions = _conditions(results)
    return {
        "name": results.model_name,
        "judges": [results.judge, *others],
        "best": _best(results),
        "harmless": [name for name in scored.prompts if results.is_harmless(name)],
        "conditions": [{"id": c.id, "name": name, "kind": c.kind} for c, name in conditions],
        "prompts": list(_prompts(scored)),
        "answers": list(
            _answers(
                scored,
                [condition.id for condition, _ in conditions],
                _by_item(verdicts, [scored.judge_id, *others], pool),
                pool,
            )
        ),
    }


def _conditions(results: Results) -> list[tuple[Condition, str]]:
    """Conditions that answered something, in the run's order, as the page names them."""
    rows = {row.condition.id: row for rows in results.by_set.values() for row in rows}
    answered = [c for c in results.scored.conditions if c.id in rows]
    return [(c, _full_name(condition_name(rows[c.id]), c.alpha, c.site)) for c in answered]


def _full_name(name: str, alpha: float, site: str) -> str:
    return name + (f", α {alpha:g}" if alpha else "") + (f", {site}" if site not in ("", "stream") else "")


def _best(results: Results) -> str:
    """Id of the condition to compare with the baseline at first."""
    edited = (row for row in results.harmful if row.condition.kind != "baseline")
    best = results.best_subspace or results.best_rv or next(edited, None)
    return best.condition.id if best else ""


def _prompts(scored: ScoredRun) -> Iterator[list[Any]]:
    redacted = {(row.prompt_set, row.prompt_id) for row in scored.generations if row.prompt_sha256}
    for name, prompts in scored.prompts.items():
        for prompt in prompts:
            text = None if (name, prompt.id) in redacted else prompt.prompt
            yield [name, prompt.id, text, prompt.category, prompt.tier]


def _by_item(verdicts: Iterable[Verdict], judges: Sequence[str], pool: TextPool) -> dict[str, list[list[Any]]]:
    """Item id -> its verdicts, in the order of the judges and of their repeats."""
    position = {judge: index for index, judge in enumerate(judges)}
    rows: dict[str, list[list[Any]]] = {}
    for verdict in sorted(verdicts, key=lambda verdict: (position[verdict.judge_id], verdict.repeat)):
        word = pool.index(verdict.outcome or verdict.reason)
        scores = (verdict.compliance, verdict.coherence)
        row = [position[verdict.judge_id], *scores, word, pool.index(verdict.evidence)]
        rows.setdefault(verdict.item_id, []).append(row)
    return rows


def _answers(
    scored: ScoredRun, conditions: Sequence[str], verdicts: dict[str, list[list[Any]]], pool: TextPool
) -> Iterator[list[Any]]:
    keys = ((name, prompt.id) for name, prompts in scored.prompts.items() for prompt in prompts)
    prompt_at = {key: index for index, key in enumerate(keys)}
    condition_at = {condition: index for index, condition in enumerate(conditions)}
    for row in scored.generations:
        yield [
            prompt_at[row.prompt_set, row.prompt_id],
            condition_at[row.condition_id],
            row.sample,
            pool.index(row.response_key),
            pool.index(row.finish_reason),
            row.n_chars if row.redacted else None,
            verdicts.get(row.item_id, []),
        ]
