"""What a judge still has to judge in a run: each distinct (prompt, response) once per repeat, copies taken over."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from eval.judge.protocol import Judge
from eval.judge.rules.thinking import is_cut_in_reasoning
from eval.records.rows import SCORED, Generation, Verdict
from eval.records.run import Run
from surgery.console.errors import RefusalError

Progress = Callable[[int, int], None]


class RedactedRunError(RefusalError):
    """A response is to be judged whose text was taken out of the run."""


@dataclass(frozen=True)
class DocketEntry:
    """One asking of the judge.

    Attributes:
        item: the response that is shown.
        repeat: which asking about this text, from 0.
        items: all responses with this prompt and text so far, `item` the first; grows while the judge is asked.
    """

    item: Generation
    repeat: int
    items: list[Generation]

    @property
    def key(self) -> tuple[bytes, int]:
        """Equal for two questions exactly when one answer serves both: of safe and harmful prompts none does."""
        return _digest(self.item), self.repeat


class Docket:
    """Questions of one judge about one run, and the writing of their answers; used by one thread at a time.

    Attributes:
        unjudged: responses on disk that lack a verdict of this judge.
        n_judged, n_cached: verdicts made, and taken over from an identical (prompt, response), since it was opened.
    """

    def __init__(
        self,
        run: Run,
        judge: Judge,
        repeats: int = 1,
        *,
        retry_unscored: bool = False,
        progress: Progress | None = None,
        settled: Callable[[Sequence[Generation]], None] | None = None,
    ):
        """Read how the run stands.

        Args:
            run: held by `run.writing()`.
            repeats: verdicts for each response.
            retry_unscored: also responses left unscored for a reason that will not pass.
            progress: called with (verdicts written, verdicts to write) since it was opened.
            settled: called with responses all of whose verdicts were written just now.
        Raises: RedactedRunError.
        """
        self.run, self.judge, self.repeats = run, judge, repeats
        self._progress, self._on_settled = progress, settled
        self.n_judged = self.n_cached = self._n_admitted = 0
        self._known: dict[tuple[bytes, int], Verdict] = {}
        self._open: dict[tuple[bytes, int], DocketEntry] = {}
        self._n_left: dict[str, int] = {}
        self._registered = False
        generations = run.generations()
        self.n_responses = len(generations)
        self._settled = self._settled_on_disk(generations, retry_unscored)
        self.unjudged = [item for item in generations if self._lacking(item)]
        self._check_texts()

    def admit(self, items: Iterable[Generation]) -> list[DocketEntry]:
        """Take responses in; returns what the judge must be asked. What is known or being asked is not asked again."""
        new: list[DocketEntry] = []
        copies: list[tuple[Generation, Verdict]] = []
        for item in items:
            lacking = self._lacking(item)
            self._n_left[item.item_id] = len(lacking)
            self._n_admitted += len(lacking)
            for repeat in lacking:
                question = DocketEntry(item, repeat, [item])
                if question.key in self._known:
                    copies.append((item, self._known[question.key]))
                elif question.key in self._open:
                    self._open[question.key].items.append(item)
                else:
                    self._open[question.key] = question
                    new.append(question)
        self._write(copies, n_cached=len(copies))
        return new

    def settle(self, answers: Sequence[tuple[DocketEntry, Verdict]]) -> None:
        """Write the answers, each for all responses that its question stands for."""
        rows = []
        for question, verdict in answers:
            verdict = replace(verdict, repeat=question.repeat)
            del self._open[question.key]
            if not _again(verdict, self.judge):
                self._known[question.key] = verdict
            rows += [(item, verdict) for item in question.items]
        self._write(rows, n_cached=len(rows) - len(answers))

    def _write(self, rows: Sequence[tuple[Generation, Verdict]], n_cached: int) -> None:
        if not rows:
            return
        if not self._registered:
            self.run.record_judge(self.judge.judge_id, self.judge.describe())
            self._registered = True
        self.run.append_verdicts(replace(verdict, item_id=item.item_id) for item, verdict in rows)
        self.n_cached += n_cached
        self.n_judged += len(rows) - n_cached
        self._tell([item for item, _ in rows])

    def _tell(self, items: Sequence[Generation]) -> None:
        settled = []
        for item in items:
            self._n_left[item.item_id] -= 1
            if not self._n_left[item.item_id]:
                del self._n_left[item.item_id]
                settled.append(item)
        if self._on_settled is not None and settled:
            self._on_settled(settled)
        if self._progress is not None:
            self._progress(self.n_judged + self.n_cached, self._n_admitted)

    def _settled_on_disk(self, generations: Sequence[Generation], retry_unscored: bool) -> set[tuple[str, int]]:
        """(item_id, repeat) with a verdict that stands; what it says of its text is then known.

        A verdict of a response that is not on disk does not count: that one is generated again, maybe otherwise.
        """
        by_id = {item.item_id: item for item in generations}
        settled = set()
        for row in self.run.verdicts(self.judge.judge_id):
            item = by_id.get(row.item_id)
            if item is None or (row.status == SCORED and is_cut_in_reasoning(item)):  # scored by an earlier version
                continue
            if not _again(row, self.judge, retry_unscored):
                settled.add((row.item_id, row.repeat))
                if not item.redacted:
                    self._known[_digest(item), row.repeat] = row
        return settled

    def _lacking(self, item: Generation) -> list[int]:
        return [repeat for repeat in range(self.repeats) if (item.item_id, repeat) not in self._settled]

    def _check_texts(self) -> None:
        n_redacted = sum(item.redacted for item in self.unjudged)
        if n_redacted:
            raise RedactedRunError(
                f"{self.run.path}: {n_redacted} responses are redacted, so there is no text left to judge; judge a run "
                "before it is redacted"
            )


def _again(row: Verdict, judge: Judge, retry_unscored: bool = False) -> bool:
    if row.status == SCORED:
        return False
    return retry_unscored or row.reason in judge.retried_reasons


def _digest(item: Generation) -> bytes:
    how = f"{item.begins_in_reasoning:d}{is_cut_in_reasoning(item):d}"
    text = f"{how}{len(item.prompt_set)}:{item.prompt_set}{len(item.prompt)}:{item.prompt}{item.response}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
