"""Mutation check: the product is broken on purpose, one mechanism at a time, and the tests have to notice.

A mutation changes one piece of text of the product in a throw-away copy of this checkout; the tests that guard the
mechanism then run there and have to fail. On the unbroken copy the same tests have to pass (the negative control).

    .venv/bin/python tests/mutations.py                        all of them; the status is 1 if any is not caught
    .venv/bin/python tests/mutations.py edit-sign cache-salt   by name
    .venv/bin/python tests/mutations.py --list                 what is broken, and where
    .venv/bin/python tests/mutations.py --tests-from FOLDER    with the tests of another checkout, such as an older one

One line is printed for each: caught or not, its seconds, and the first test that failed.
"""

import argparse
import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT = 900  # seconds for the tests of one mutation; the slowest take less than a minute on a free machine
PASSED, FAILED = 0, 1  # pytest's status; any other means that the tests did not run, or (124) that they did not end
OFFLINE = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True)
class Mutation:
    """A broken mechanism.

    Attributes:
        name: names it on the command line.
        file: the file of the product that is changed.
        old, new: the text, which stands there once, and what takes its place.
        tests: pytest's node ids or files, as few as should notice.
        tests_before: those of the checkout that --tests-from names, where they differ.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    tests_before: tuple[str, ...] = ()


EDIT = "tests/unit/vllm_refusal/edit/test_residual_edit.py"
PARITY = "tests/engine/test_parity.py::test_a_mixed_batch_equals_forward_hooks_for_every_architecture"
PREFIXES = "tests/engine/test_parity.py::test_cached_prefixes_are_never_shared_between_different_interventions"
CAPTURE = "tests/engine/test_capture.py::test_a_mixed_batch_equals_forward_hooks_for_every_architecture"
PROVEN = "tests/unit/vllm_refusal/model/test_startup_proof.py"
CHECKPOINT = "tests/unit/surgery/weights/test_checkpoint.py"
STATISTICS = "tests/unit/eval/statistics/test_statistics.py"

MUTATIONS = (
    Mutation(
        "edit-sign",
        "vllm_refusal/edit/affine.py",
        "missing = offsets.index_select(0, module) - (x.unsqueeze(1) * basis).sum(-1)",
        "missing = (x.unsqueeze(1) * basis).sum(-1) - offsets.index_select(0, module)",
        (f"{EDIT}::test_each_row_is_edited_by_its_own_request",),
    ),
    Mutation(
        "runtime-alpha",
        "vllm_refusal/edit/slot_tables.py",
        "slot] = intervention.alpha",
        "slot] = 1.0",
        (f"{EDIT}::test_each_row_is_edited_by_its_own_request",),
    ),
    Mutation(
        "runtime-layers",
        "vllm_refusal/edit/slot_tables.py",
        "[list(intervention.layers), slot]",
        "[[layer - 1 for layer in intervention.layers], slot]",
        (f"{EDIT}::test_a_layer_outside_the_request_is_left_bit_for_bit",),
    ),
    Mutation(
        "runtime-offset",
        "vllm_refusal/edit/slot_tables.py",
        "offsets[row, : module.rank] = module.offset.to(offsets.device)",
        "pass",
        (f"{EDIT}::test_each_row_is_edited_by_its_own_request",),
    ),
    Mutation(
        "runtime-gain",
        "vllm_refusal/edit/post_norms.py",
        "removal(module.basis, _gain(norm, offset)).basis",
        "removal(module.basis).basis",
        (
            "tests/unit/vllm_refusal/edit/test_post_norm_bases.py::test_what_the_norm_passes_on_has_no_component_in_the_subspace",
        ),
    ),
    Mutation(
        "slot-of-another-request",
        "vllm_refusal/model/runner_v1.py",
        "[_slot(tables, runner, request_id) for request_id in request_ids]",
        "[_slot(tables, runner, request_id) for request_id in reversed(request_ids)]",
        (f"{PARITY}[LlamaForCausalLM]",),
    ),
    Mutation(
        "stale-residual",
        "surgery/architecture/table.py",
        "returns=STALE_RESIDUAL, partial",
        "returns=SUM, partial",
        (f"{PARITY}[CohereForCausalLM]",),
    ),
    Mutation(
        "cache-salt",
        "vllm_refusal/admission/engine_core.py",
        "json.dumps([request.cache_salt, digest_of(asked)])",
        "json.dumps([request.cache_salt])",
        (f"{PREFIXES}[LlamaForCausalLM]",),
    ),
    Mutation(
        "capture-token",
        "vllm_refusal/model/runner_v1.py",
        "request.num_prompt_tokens - 1 - batch",
        "request.num_prompt_tokens - 2 - batch",
        (f"{CAPTURE}[LlamaForCausalLM]",),
    ),
    Mutation("startup-proof", "vllm_refusal/model/proof.py", "if left > rounding:", "if left > 1e9:", (PROVEN,)),
    Mutation(
        "vectors-layer",
        "surgery/reading/hooks.py",
        "self._resid[site][layer] = resid",
        "self._resid[site][layer - 1] = resid",
        (
            "tests/unit/surgery/statistics/test_extracting.py"
            "::test_vectors_are_the_difference_of_mean_residuals_at_the_last_prompt_token",
        ),
    ),
    Mutation(
        "chat-template",
        "surgery/model/chat.py",
        "text = render_prompt(tokenizer, prompt, **template_kwargs)",
        "text = prompt",
        ("tests/unit/surgery/model/test_models.py::test_the_prompt_is_rendered_as_one_user_message_with_one_bos",),
    ),
    Mutation(
        "offline-alpha",
        "surgery/weights/edit.py",
        "Operator(removal_of(edit, basis), alpha, keep_norms)",
        "Operator(removal_of(edit, basis), 1.0, keep_norms)",
        (f"{CHECKPOINT}::test_alpha_scales_what_is_left_and_is_not_ignored",),
    ),
    Mutation(
        "offline-gain",
        "surgery/weights/edits.py",
        'gain = tensors[f"{writer.norm}.weight"] if writer.norm else None',
        "gain = None",
        (
            "tests/unit/surgery/reading/test_post_norms.py"
            "::test_nothing_reaches_the_subspace_after_the_norm_where_the_usual_edit_leaves_much",
        ),
    ),
    Mutation(
        "expert-skipped",
        "surgery/architecture/writers.py",
        "in zip(names, modules, strict=True):",
        "in zip(names[:-1], modules[:-1], strict=True):",
        ("tests/unit/surgery/weights/test_experts.py::test_no_expert_of_any_block_keeps_a_component",),
    ),
    Mutation(
        "tied-embedding",
        "surgery/weights/checkpoint.py",
        "_head_to_store(entry, tensors, untied) if embeddings else None",
        "_head_to_store(entry, tensors, untied) if False else None",
        (f"{CHECKPOINT}::test_tied_embeddings_are_untied_and_the_unembedding_keeps_its_values",),
    ),
    Mutation(
        "adapter-sign",
        "surgery/weights/adapter.py",
        "-alpha * basis.T",
        "alpha * basis.T",
        ("tests/unit/surgery/weights/test_adapter.py::test_the_factors_are_the_edit_of_the_checkpoint",),
    ),
    Mutation(
        "resume-doubled",
        "eval/generation/answering.py",
        "done = run.generated_ids()",
        "done = set()",
        ("tests/unit/eval/generation/test_generation.py::test_other_numbers_of_samples_are_another_comparison",),
    ),
    Mutation(
        "redaction-leak",
        "eval/records/redaction.py",
        'replace(row, response="", redacted=True, n_chars',
        "replace(row, n_chars",
        (
            "tests/unit/eval/records/test_records_redaction.py::test_in_place_no_text_is_left_and_the_figures_are_the_same",
        ),
    ),
    Mutation(
        "unreadable-as-refusal",
        "eval/judge/endpoint/endpoint_judge.py",
        'self._unscored(item, reason, f"{err}: {completion.text[:120]!r}")',
        'self._scored(item, Answer(0.0, 1.0, "refusal", f"{err}"))',
        (
            "tests/unit/eval/judge/endpoint/test_llm_judge_answers.py"
            "::test_what_hinders_a_score_is_its_reason_and_never_a_number[<lambda>-unreadable answer0]",
        ),
    ),
    Mutation(
        "unscored-as-zero",
        "eval/statistics/scores.py",
        "n_scored, np.nan)",
        "n_scored, np.inf)",
        (f"{STATISTICS}::test_unscored_responses_are_counted_and_never_zero",),
    ),
    Mutation(
        "narrow-interval",
        "eval/statistics/intervals.py",
        "[(1 - confidence) / 2, (1 + confidence) / 2]",
        "[1 - confidence, confidence]",
        (f"{STATISTICS}::test_the_bootstrap_interval_is_that_of_scipy",),
    ),
    Mutation(
        "no-correction",
        "eval/statistics/comparisons.py",
        "return step_down(observed, flipped)",
        "return (1 + (flipped >= observed - _TIE).sum(axis=0)) / (1 + n_flips)",
        (f"{STATISTICS}::test_max_t_keeps_the_family_wise_error_on_32_null_layers",),
    ),
)


@dataclass(frozen=True)
class Outcome:
    """How a run of pytest ended: its status, the first test that failed ("" for none), and its last line."""

    status: int
    failed: str
    last: str
    seconds: float


class Copy:
    """A copy of the checkout as it is now, uncommitted changes included, in which packages and commands are its own."""

    def __init__(self, folder: Path, tests_from: Path | None):
        self.folder = folder
        for name in _files():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
        if tests_from is not None:
            shutil.rmtree(folder / "tests")
            shutil.copytree(tests_from / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
        # A folder of its own: bin/refusal starts itself anew until sys.prefix, links resolved, is ROOT/.venv.
        (folder / ".venv").mkdir()
        for entry in (ROOT / ".venv").iterdir():
            (folder / ".venv" / entry.name).symlink_to(entry)
        self.control = functools.cache(self.run)

    def run(self, tests: tuple[str, ...]) -> Outcome:
        """Run tests here until the first that fails."""
        pytest = [self.folder / ".venv/bin/python", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
        command = ["timeout", str(TIMEOUT), *pytest, *tests]  # which ends engines in processes of their own as well
        # PYTHONPATH comes before the editable installation, which names the packages of ROOT.
        environment = {**os.environ, **OFFLINE, "PYTHONPATH": str(self.folder)}
        for name in ("PYTHONDONTWRITEBYTECODE", "PYTEST_ADDOPTS"):
            environment.pop(name, None)
        begun = time.monotonic()
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)
        failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", done.stdout, re.MULTILINE)
        last = (done.stdout + done.stderr).strip().rpartition("\n")[2]
        return Outcome(done.returncode, failed[1] if failed else "", last, time.monotonic() - begun)

    @contextmanager
    def broken(self, mutation: Mutation) -> Iterator[None]:
        """The copy with one mutation in it."""
        path = self.folder / mutation.file
        original = path.read_text(encoding="utf-8")
        _rewrite(path, original.replace(mutation.old, mutation.new))
        try:
            yield
        finally:
            _rewrite(path, original)


def _files() -> list[str]:
    """What git tracks, and what is new and not ignored; without what was deleted."""
    command = ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    return [name for name in sorted(set(listed)) if (ROOT / name).is_file()]


def _rewrite(path: Path, text: str) -> None:
    """Write a source file; its compiled form goes, which Python would take for that of any file as old and as long."""
    path.write_text(text, encoding="utf-8")
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
        compiled.unlink()


def check(mutation: Mutation) -> None:
    """End with one line where the text to change is gone or is not the only one."""
    n_found = (ROOT / mutation.file).read_text(encoding="utf-8").count(mutation.old)
    if n_found == 0:
        raise SystemExit(f"mutation {mutation.name}: its text is not in {mutation.file} any more")
    if n_found > 1:
        raise SystemExit(f"mutation {mutation.name}: its text is {n_found} times in {mutation.file}; make it longer")


def is_caught(copy: Copy, mutation: Mutation, tests: tuple[str, ...], control: bool) -> bool:
    """Run the tests with a mutation, and before without; print how it went."""
    if control and (without := copy.control(tests)).status != PASSED:
        _say("control fails", mutation, without, without.failed or without.last)
        return False
    with copy.broken(mutation):
        found = copy.run(tests)
    if found.status == FAILED:
        _say("caught", mutation, found, found.failed)
    else:
        word = "NOT CAUGHT" if found.status == PASSED else f"status {found.status}"
        _say(word, mutation, found, f"{', '.join(tests)}: {found.last}")
    return found.status == FAILED


def _say(word: str, mutation: Mutation, outcome: Outcome, rest: str) -> None:
    print(f"{word:<13} {mutation.name:<24} {outcome.seconds:5.0f} s  {rest}", flush=True)


def main() -> int:
    """Check the mutations named on the command line, or all."""
    parser = argparse.ArgumentParser(description="Break the product on purpose; the tests have to notice.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="mutations; without a name all of them")
    parser.add_argument("--list", action="store_true", help="print names, files and tests, and end")
    parser.add_argument("--no-control", action="store_true", help="do not run the tests without the mutation")
    parser.add_argument("--tests-from", type=Path, metavar="FOLDER", help="a checkout whose tests/ are run instead")
    asked = parser.parse_args()
    by_name = {mutation.name: mutation for mutation in MUTATIONS}
    if unknown := sorted(set(asked.names) - by_name.keys()):
        parser.error(f"no mutation {', '.join(unknown)}; known: {', '.join(by_name)}")
    chosen = [by_name[name] for name in asked.names or by_name]
    for mutation in chosen:
        check(mutation)
    if asked.list:
        print("\n".join(f"{one.name:<24} {one.file:<30} {', '.join(one.tests)}" for one in chosen))
        return 0
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        copy, caught = Copy(Path(folder), asked.tests_from), []
        for one in chosen:
            tests = asked.tests_from and one.tests_before or one.tests
            caught.append(is_caught(copy, one, tests, not asked.no_control))
    print(f"{sum(caught)} of {len(caught)} mutations caught")
    return 0 if all(caught) else 1


if __name__ == "__main__":
    sys.exit(main())
