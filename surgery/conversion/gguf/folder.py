"""A GGUF file rewritten as a Hugging Face folder: checked first, written whole or not at all, with its record and card."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.console.errors import ModelError
from surgery.conversion.gguf.names import Target, plan_targets
from surgery.conversion.gguf.settings import architecture_of, read_config
from surgery.conversion.gguf.source import GGUFSource, read_gguf
from surgery.conversion.gguf.writing import n_bytes, write_targets
from surgery.conversion.record import FILE, FORMAT_VERSION, KIND, WORDS, check_space, is_converted, write_json
from surgery.files.artifacts import file_sha256, package_versions
from surgery.files.folders import check_folder, replacing_folder
from surgery.model.models import model_fingerprint

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


@dataclass(frozen=True)
class _Job:
    """Everything that decides the output, checked before a byte is written."""

    source: GGUFSource
    config: "PretrainedConfig"
    targets: list[Target]
    tokenizer: "PreTrainedTokenizerBase"
    dtype: str


def convert_gguf(
    path: Path | str,
    out_dir: Path | str,
    dtype: str = "float32",
    force: bool = False,
    without_template: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Rewrite a GGUF file (or all parts of a split one) as a Hugging Face folder.

    Values are those that the gguf library dequantizes, exact in float32, rounded once in bfloat16. Names, configuration
    and tokenizer are as transformers reads them from the file; experts are written one by one.

    Args:
        dtype: "float32" or "bfloat16".
        force: replace a converted checkpoint that is already there.
        without_template: also a file without a chat template, as base models are.
        progress: called with (bytes of tensor data written, bytes in all).
    Returns: the record of the conversion, also in the folder as `conversion.json`.
    Raises: ModelError, OutputExistsError, ArtifactError, DiskError.
    """
    out_dir = Path(out_dir)
    check_folder(out_dir, force, kind=WORDS, is_kind=is_converted)
    job = _plan(read_gguf(Path(path)), dtype, without_template)
    with replacing_folder(out_dir, force, kind=WORDS, is_kind=is_converted) as folder:
        check_space(out_dir, folder, sum(n_bytes(target, dtype) for target in job.targets))
        write_targets(job.targets, folder, dtype, progress)
        job.config.save_pretrained(folder)
        job.tokenizer.save_pretrained(folder)
        write_json(folder / "generation_config.json", _generation_config(job))
        record = _record(job, folder)
        write_json(folder / FILE, record)
        (folder / "README.md").write_text(_card(job, record), encoding="utf-8", errors="backslashreplace")
    return record


def _plan(source: GGUFSource, dtype: str, without_template: bool) -> _Job:
    config = read_config(source)
    config.dtype = dtype
    tokenizer = _read_tokenizer(source, config)
    if tokenizer.chat_template is None and not without_template:
        raise ModelError(
            f"{source.files[0]}: its tokenizer has no chat template; take the chat (instruct) version of the model, or "
            "convert it as it is with --without-template"
        )
    return _Job(source, config, plan_targets(source, config), tokenizer, dtype)


def _read_tokenizer(source: GGUFSource, config: "PretrainedConfig") -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    file, kind = source.files[0], config.model_type
    where = str(file.parent)
    try:
        if kind in TOKENIZER_MAPPING_NAMES:  # told, it does not read the whole file for the configuration
            tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=file.name, tokenizer_type=kind)
        else:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(where, gguf_file=file.name)
    except Exception as err:  # whatever transformers' readers meet in a vocabulary that they do not know
        raise ModelError(f"{file}: its tokenizer cannot be read ({type(err).__name__}: {err})".splitlines()[0]) from err
    if len(tokenizer) > config.vocab_size:
        raise ModelError(f"{file}: its tokenizer has {len(tokenizer)} tokens, its model {config.vocab_size}")
    return tokenizer


def _generation_config(job: _Job) -> dict[str, Any]:
    tokens = {name: job.source.metadata.get(f"tokenizer.ggml.{name}") for name in ("bos_token_id", "eos_token_id")}
    tokens["pad_token_id"] = job.source.metadata.get("tokenizer.ggml.padding_token_id")
    ends = {tokens["eos_token_id"], job.source.metadata.get("tokenizer.ggml.eot_token_id")} - {None}
    tokens["eos_token_id"] = sorted(ends) if len(ends) > 1 else next(iter(ends), None)
    return {name: value for name, value in tokens.items() if value is not None}


def _record(job: _Job, folder: Path) -> dict[str, Any]:
    return {
        "kind": KIND,
        "format_version": FORMAT_VERSION,
        "source": {
            "model": str(job.source.files[0].name),
            "name": job.source.metadata.get("general.name"),
            "format": "gguf",
            "architecture": job.source.architecture,
            "sha256": {file.name: file_sha256(file) for file in job.source.files},
        },
        "architecture": architecture_of(job.config),
        "dtype": job.dtype,
        "fingerprint": model_fingerprint(folder),
        "n_read": len(job.source.tensors),
        "n_written": len(job.targets),
        "quantization": {target.name: target.quantization for target in job.targets},
        "chat_template": job.tokenizer.chat_template is not None,
        "versions": package_versions(),
    }


def _card(job: _Job, record: dict[str, Any]) -> str:
    counted = Counter(record["quantization"].values())
    types = ", ".join(f"{name} ({n})" for name, n in counted.most_common())
    sums = "\n".join(f"| sha256 of {name} | {digest} |" for name, digest in record["source"]["sha256"].items())
    rounding = "exactly" if job.dtype == "float32" else "rounded to bfloat16"
    return f"""# {record["source"]["name"] or record["source"]["model"]}, dequantized

The weights of this folder are dequantized from the GGUF file {record["source"]["model"]}: they are {rounding} what the
quantized file stands for, not what the model was released with. Its licence is the source's.

| | |
|---|---|
| architecture | {record["architecture"]} ({record["source"]["architecture"]} in GGUF) |
| tensors | {record["n_read"]} read, {record["n_written"]} written in {job.dtype} |
| dequantized from | {types} |
| chat template | {"the file's" if record["chat_template"] else "none: a base model"} |
{sums}

`{FILE}` has the quantization of every tensor.
"""
