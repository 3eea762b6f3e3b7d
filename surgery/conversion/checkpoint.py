"""A Qwen v1 model folder rewritten as a Qwen2 one: the same function, in files that current programs load."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery.console.errors import ArtifactError, ModelError
from surgery.conversion.chatml import CHAT, ChatFormat, load_chat_format
from surgery.conversion.qwen import ARCHITECTURE, QwenConfig, load_qwen_config
from surgery.conversion.record import FILE, FORMAT_VERSION, KIND, WORDS, check_space, is_converted, write_json
from surgery.conversion.tensors import CopyPlan, Progress, plan_tensors, write_tensors
from surgery.conversion.tiktoken_vocabulary import FILE as VOCABULARY_FILE
from surgery.conversion.tiktoken_vocabulary import Vocabulary, build_tokenizer, load_vocabulary, recover_merges
from surgery.files.artifacts import file_sha256, package_versions
from surgery.files.folders import check_folder, replacing_folder
from surgery.model.models import locate_model, model_fingerprint
from surgery.weights.manifest import split_front_matter

_KEPT = ("LICENSE*", "NOTICE*")  # terms, which go with the weights


@dataclass(frozen=True)
class _Job:
    """Everything that decides the output, checked before a byte is written."""

    model: str
    revision: str | None
    folder: Path
    config: QwenConfig
    plan: CopyPlan
    vocabulary: Vocabulary
    merges: list[tuple[bytes, bytes]]
    chat: ChatFormat


def convert(
    model: str | Path,
    out_dir: Path | str,
    revision: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Rewrite a Qwen v1 model (QWenLMHeadModel) as Qwen2, which computes the same function within `seq_length` tokens.

    Values are copied bit for bit, in the source's files and order of bytes: c_attn becomes q_proj, k_proj and v_proj by
    rows, w2 becomes gate_proj and w1 up_proj. The folder is written beside `out_dir` and renamed, so it is complete or
    absent.

    Args:
        model: a folder, or a Hugging Face id.
        revision: branch, tag or commit of a hub model.
        force: replace a converted checkpoint that is already there.
        progress: called with (bytes of tensor data written, bytes in all).
    Returns: the record of the conversion, also in the folder as `conversion.json`.
    Raises: ModelError, OutputExistsError, ArtifactError, DiskError.
    """
    out_dir = Path(out_dir)
    check_folder(out_dir, force, kind=WORDS, is_kind=is_converted)
    job = _plan(str(model), revision)
    _check_apart(out_dir, job.folder)
    with replacing_folder(out_dir, force, kind=WORDS, is_kind=is_converted) as folder:
        check_space(out_dir, folder, job.plan.n_bytes)
        write_tensors(job.plan, folder, progress)
        _write_settings(job, folder)
        for path in (path for pattern in _KEPT for path in job.folder.glob(pattern) if path.is_file()):
            shutil.copyfile(path, folder / path.name)
        record = _record(job, folder)
        write_json(folder / FILE, record)
        _write_readme(job, folder, record)
    return record


def _plan(model: str, revision: str | None) -> _Job:
    folder, commit = locate_model(model, revision)
    config = load_qwen_config(folder)
    plan = plan_tensors(folder, config)
    vocabulary = load_vocabulary(folder / VOCABULARY_FILE)
    if vocabulary.n_tokens > config.vocab_size:
        raise ModelError(
            f"{folder / VOCABULARY_FILE}: {vocabulary.n_tokens} tokens with the special ones, but config.json has "
            f"vocab_size {config.vocab_size}; the vocabulary is of another model"
        )
    chat = load_chat_format(folder, vocabulary)
    return _Job(model, commit, folder, config, plan, vocabulary, recover_merges(vocabulary.ranks), chat)


def _check_apart(out_dir: Path, model_folder: Path) -> None:
    out, source = out_dir.resolve(), model_folder.resolve()
    if out.is_relative_to(source) or source.is_relative_to(out):
        raise ArtifactError(f"{out_dir}: overlaps the model's own folder {model_folder}; choose another output")


def _write_settings(job: _Job, folder: Path) -> None:
    """Write the tokenizer, and the configurations of tokenizer, model and generation."""
    build_tokenizer(job.vocabulary, job.merges).save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", job.chat.tokenizer_config(job.config))
    end = job.vocabulary.id_of(job.chat.end_token)
    write_json(folder / "config.json", job.config.to_qwen2(job.plan.dtype, end))
    write_json(folder / "generation_config.json", job.chat.generation_config(job.vocabulary))


def _record(job: _Job, folder: Path) -> dict[str, Any]:
    counterparts = {"README.md", VOCABULARY_FILE, *(path.name for path in folder.iterdir())}
    left_out = (path.name for path in job.folder.iterdir() if path.is_file() and path.name not in counterparts)
    return {
        "kind": KIND,
        "format_version": FORMAT_VERSION,
        "source": {
            "model": job.model,
            "revision": job.revision,
            "architecture": ARCHITECTURE,
            "fingerprint": model_fingerprint(job.folder),
        },
        "fingerprint": model_fingerprint(folder),
        "n_read": job.plan.n_read,
        "n_split": job.plan.n_split,
        "n_written": job.plan.n_written,
        "dropped": list(job.plan.dropped),
        "max_position_embeddings": job.config.seq_length,
        "chat_format": job.chat.kind,
        "settings_dropped": list(job.chat.dropped),
        "tokenizer": {
            "n_ranks": len(job.vocabulary.ranks),
            "n_merges": len(job.merges),
            "n_special": job.vocabulary.n_tokens - len(job.vocabulary.ranks),
            "source_sha256": file_sha256(job.folder / VOCABULARY_FILE),
        },
        "left_out": sorted(left_out),  # code, other copies of the weights: no counterpart in the output
        "versions": package_versions(),
    }


def _write_readme(job: _Job, folder: Path, record: dict[str, Any]) -> None:
    """The source's card, its front matter (with the licence) as it is, behind a notice of the conversion."""
    path = job.folder / "README.md"
    card = path.read_text(encoding="utf-8", errors="surrogateescape") if path.is_file() else ""
    front, body = split_front_matter(card)
    notice = _notice(job, record).encode(errors="backslashreplace").decode()  # paths and names may be no text of UTF-8
    text = f"{front}{notice}" + (f"\n---\n\nThe card of the source follows.\n\n{body}" if body else "")
    (folder / "README.md").write_text(text, encoding="utf-8", errors="surrogateescape")


def _notice(job: _Job, record: dict[str, Any]) -> str:
    revision = f" @ {record['source']['revision']}" if record["source"]["revision"] else ""
    dropped = ", ".join(f"`{name}`" for name in record["settings_dropped"]) or "none"
    return f"""# {Path(job.model).name}, rewritten as Qwen2

This is {job.model}{revision}, a model of the first Qwen generation ({ARCHITECTURE}), in the names of Qwen2ForCausalLM.
The values of its weights are the source's, bit for bit; transformers and vLLM load it without remote code. Its licence is
the source's.

| | |
|---|---|
| source fingerprint | {record["source"]["fingerprint"]} |
| tensors | {record["n_read"]} read, {record["n_split"]} of them split, {record["n_written"]} written |
| buffers left out (computed by the model) | {len(record["dropped"])} |
| tokenizer | {record["tokenizer"]["n_ranks"]} ranks, {record["tokenizer"]["n_special"]} special tokens, same ids |
| context | {record["max_position_embeddings"]} tokens (`seq_length`) |
| generation settings left out | {dropped} |

Up to {record["max_position_embeddings"]} tokens it computes what the source computes. Beyond that the source rescales its
rotary base (`use_dynamic_ntk`) and its queries (`use_logn_attn`), which Qwen2 does not, so the context ends there.
{_CHAT_NOTES if job.chat.kind == CHAT else ""}"""


_CHAT_NOTES = """
The chat template is the source's `make_context`: ChatML with the system message "You are a helpful assistant." unless the
conversation brings its own. Two differences: the source tokenizes role and content apart, so a message that begins with a
blank line is cut into other tokens; and it never reads `<|im_end|>` and the like in a message as special tokens,
while a rendered template is read with them (pass `split_special_tokens=True` to read a text without).
"""
