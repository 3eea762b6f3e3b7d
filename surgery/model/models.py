"""A model as the rest of the code knows it: where it is, what shape it has, and which weights it holds."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.console.errors import MismatchError, ModelError, ShapeError
from surgery.files.shards import FLOAT_DTYPES, read_range, read_shard, weight_files
from surgery.model.chat import pin_date
from surgery.model.config import architecture_of, read_config, says_tied, text_config

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

DTYPES = ("auto", "float32", "bfloat16", "float16")
_SAMPLE = 256  # bytes read at the start, middle and end of each tensor for the fingerprint
_DOWNLOADED = ["*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "README.md", "LICENSE*"]
_NOT_DOWNLOADED = ["*/*", "consolidated*"]  # sub-folders and second copies of the weights in other formats


@dataclass(frozen=True)
class ModelInfo:
    """Identity and shape of one model.

    Attributes:
        model: the id or folder as the user gave it.
        revision: commit of a hub model, None for a folder.
        path: the local folder that holds it.
        architecture: class name, e.g. "LlamaForCausalLM".
        d_model: width of the residual stream.
        n_layers: number of decoder blocks.
        dtype: the dtype that holds most of the stored weights, e.g. "bfloat16".
        fingerprint: `model_fingerprint` of the stored weights.
    """

    model: str
    revision: str | None
    path: str
    architecture: str
    d_model: int
    n_layers: int
    vocab_size: int
    dtype: str
    fingerprint: str

    def to_json(self) -> dict[str, Any]:
        """The record as plain JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "ModelInfo":
        """Read what `to_json` wrote."""
        return cls(**{field.name: record[field.name] for field in fields(cls)})


def describe_model(model: str | Path, revision: str | None = None) -> ModelInfo:
    """Find a model, downloading it if need be, and read its shape and fingerprint without loading its weights.

    Args:
        model: a local folder, or a Hugging Face id. HF_HUB_OFFLINE and HF_TOKEN are honoured.
        revision: branch, tag or commit of a hub model.
    Raises: ModelError: no such model, no access, not cached while offline, not a model folder, no weights.
    """
    folder, commit = locate_model(str(model), revision)
    config = read_config(folder)
    architecture = architecture_of(config)
    if architecture is None:
        raise ModelError(f"{folder}/config.json: names no architecture; expected a causal language model")
    return ModelInfo(
        model=str(model),
        revision=commit,
        path=str(folder),
        architecture=architecture,
        **_shape(folder, config),
        dtype=_stored_dtype(folder, config),
        fingerprint=model_fingerprint(folder),
    )


def load_config(folder: Path | str) -> "PretrainedConfig":
    """Read a model folder's configuration by transformers, with its defaults. Raises: ModelError, one line."""
    read_config(folder)
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as err:
        raise ModelError(f"{folder}/config.json: cannot be read as a model configuration ({_first_line(err)})") from err


def is_tied(folder: Path | str) -> bool:
    """Whether a model's unembedding is its embedding, by its configuration. Raises: ModelError, one line."""
    tied = says_tied(read_config(folder))
    return bool(load_config(folder).get_text_config().tie_word_embeddings) if tied is None else tied


def load_model(info: ModelInfo, dtype: str = "auto", device_map: Any = None) -> "PreTrainedModel":
    """Load the weights for inference (eval mode, no gradients).

    Args:
        dtype: "auto" (as stored), "float32", "bfloat16" or "float16".
        device_map: as in transformers; None leaves the model on the CPU.
    Raises: ModelError when transformers cannot load it or a weight is missing from the files.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if dtype not in DTYPES:
        raise ModelError(f"dtype {dtype!r} is not known; use one of {', '.join(DTYPES)}")
    wanted = getattr(torch, info.dtype if dtype == "auto" else dtype)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            info.path, dtype=wanted, device_map=device_map, output_loading_info=True, **_attention(info)
        )
    except (OSError, ValueError, KeyError, RuntimeError) as err:
        raise ModelError(f"{info.model}: cannot be loaded by transformers ({_first_line(err)})") from err
    model, report = loaded
    if report["missing_keys"]:  # transformers would leave them at random values
        raise ModelError(f"{info.model}: weights are missing from its files, e.g. {min(report['missing_keys'])}")
    return model.eval().requires_grad_(False)


def _attention(info: ModelInfo) -> dict[str, str]:
    """Which attention transformers must use: only its plain one caps the scores, as Gemma 2 was trained."""
    capped = getattr(load_config(info.path).get_text_config(), "attn_logit_softcapping", None)
    return {"attn_implementation": "eager"} if capped is not None else {}


def load_tokenizer(info: ModelInfo, date: str | None = None) -> "PreTrainedTokenizerBase":
    """Load the model's tokenizer, with its processor's chat template where it has none.

    Args:
        date: YYYY-MM-DD, that the template is told for good; None for today's.
    Raises: ModelError, one line.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(info.path)
    except (OSError, ValueError, KeyError, ImportError) as err:
        raise ModelError(
            f"{info.model}: its tokenizer cannot be loaded ({_first_line(err)}); is there a tokenizer.json or "
            "tokenizer.model in its folder?"
        ) from err
    tokenizer.chat_template = tokenizer.chat_template or _processor_template(Path(info.path))
    pin_date(tokenizer, date)
    return tokenizer


def _processor_template(folder: Path) -> str | None:
    """The chat template that a multimodal model keeps beside its tokenizer (Gemma 3, Mistral Small), or None."""
    path = folder / "chat_template.json"
    if not path.is_file():
        return None
    try:
        template = json.loads(path.read_text(encoding="utf-8"))["chat_template"]
    except (ValueError, KeyError, TypeError):
        template = None
    if not isinstance(template, str):
        raise ModelError(f"{path}: expected a text under 'chat_template'; download the model again")
    return template


def model_fingerprint(path: Path | str) -> str:
    """Content identity of a model's weights, cheap at any size and independent of how they are split into files.

    sha256 over every tensor's name, dtype, shape and 3 × 256 sampled bytes, in order of name. Two checkpoints that
    differ only in unsampled bytes share a fingerprint; an edit of whole matrices never does.

    Returns: hexadecimal; with "bin:" before it for a model that has only pickled weights, whose files are sampled.
    Raises: ModelError when the folder holds no weights.
    """
    folder = Path(path)
    files = weight_files(folder)
    if not files:
        return "bin:" + _file_fingerprint(folder)
    tensors = [tensor for file in files for tensor in read_shard(file).tensors]
    digest = hashlib.sha256()
    with ExitStack() as stack:
        handles = {file: stack.enter_context(open(file, "rb")) for file in files}
        for tensor in sorted(tensors, key=lambda tensor: tensor.name):
            digest.update(json.dumps([tensor.name, tensor.dtype, tensor.shape]).encode())
            for start, length in _samples(tensor.start, tensor.end):
                digest.update(read_range(handles[tensor.path], start, length))
    return digest.hexdigest()


def check_same_model(artifact_header: Mapping[str, Any], info: ModelInfo, what: str, allow_other: bool = False) -> None:
    """Refuse an artifact that was made from another model.

    Args:
        artifact_header: header of the artifact; one without a model record (a file of another program) passes.
        what: the artifact's name for the message, e.g. its path.
        allow_other: accept other weights of the same shape; another d_model or n_layers is never accepted.
    Raises: MismatchError naming both models' shapes and fingerprints.
    """
    if not artifact_header.get("model"):
        return
    made_from = ModelInfo.from_json(artifact_header["model"])
    for name in ("d_model", "n_layers"):
        expected, found = getattr(info, name), getattr(made_from, name)
        if expected != found:
            raise MismatchError(
                f"{what} has {name} {found} (from {made_from.model}, fingerprint {made_from.fingerprint[:12]}) but "
                f"{info.model} has {expected} (fingerprint {info.fingerprint[:12]}); extract vectors from this model"
            )
    if made_from.fingerprint != info.fingerprint and not allow_other:
        raise MismatchError(
            f"{what} was made from {made_from.model} (fingerprint {made_from.fingerprint[:12]}, d_model "
            f"{made_from.d_model}) but {info.model} has fingerprint {info.fingerprint[:12]} (d_model {info.d_model}); "
            "extract vectors from this model or pass --allow-other-model"
        )


def check_fits(source: Mapping[str, Any], info: ModelInfo, allow_other: bool = False) -> None:
    """Refuse a subspace that was made from another model, or has another's width.

    Args:
        source: what `load_basis` tells of it.
        allow_other: as in `check_same_model`.
    Raises: MismatchError, ShapeError.
    """
    check_same_model(source["header"], info, source["path"], allow_other)
    if source["d_model"] != info.d_model:
        raise ShapeError(
            f"{source['path']} has d_model {source['d_model']} but {info.model} has {info.d_model}; extract vectors from "
            "this model"
        )
    if source["n_layers"] not in (None, info.n_layers):
        raise MismatchError(
            f"{source['path']} has RVs of {source['n_layers']} layers but {info.model} has {info.n_layers}; extract "
            "vectors from this model"
        )


def locate_model(model: str, revision: str | None = None) -> tuple[Path, str | None]:
    """A model's local folder, downloaded if need be, and its commit (None for a folder).

    Raises: ModelError: no such model, no access, not cached while offline.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise ModelError(f"{model} is a local folder; a revision ({revision}) applies to hub models only")
        return folder.resolve(), None
    if folder.exists():
        raise ModelError(f"{model} is a file; expected a model folder or a Hugging Face model id")
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise ModelError(f"{model}: no such folder")
    snapshot = _download(model, revision)
    return snapshot, snapshot.name


def _download(model: str, revision: str | None) -> Path:
    snapshot = _snapshot(model, revision, [*_DOWNLOADED, "*.safetensors"])
    if not weight_files(snapshot):
        snapshot = _snapshot(model, revision, [*_DOWNLOADED, "*.bin"])
    return snapshot


def _snapshot(model: str, revision: str | None, patterns: list[str]) -> Path:
    import httpx
    from huggingface_hub import errors as hub
    from huggingface_hub import snapshot_download

    at = f"{model} (revision {revision})" if revision else model
    try:
        return Path(
            snapshot_download(model, revision=revision, allow_patterns=patterns, ignore_patterns=_NOT_DOWNLOADED)
        )
    except hub.HFValidationError as err:
        raise ModelError(f"{model}: neither a folder nor a Hugging Face model id") from err
    except hub.GatedRepoError as err:
        raise ModelError(f"{at}: access is gated; accept its terms on huggingface.co and set HF_TOKEN") from err
    except hub.RevisionNotFoundError as err:
        raise ModelError(f"{model}: has no revision {revision!r}") from err
    except hub.RepositoryNotFoundError as err:
        raise ModelError(
            f"{at}: no such folder and no such public model on huggingface.co (private: set HF_TOKEN)"
        ) from err
    except (hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled) as err:
        raise ModelError(f"{at}: {_why_not_cached()}; give a local folder or download it first") from err
    except (hub.HfHubHTTPError, httpx.HTTPError, OSError) as err:
        raise ModelError(f"{at}: cannot be downloaded ({_first_line(err)})") from err


def _why_not_cached() -> str:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "no such folder and not in the cache, and HF_HUB_OFFLINE is set"
    return "no such folder, not in the cache, and huggingface.co cannot be reached"


def _shape(folder: Path, config: Mapping[str, Any]) -> dict[str, int]:
    """d_model, n_layers and vocab_size; transformers is asked where config.json has other names or leaves them out."""
    names = {"d_model": "hidden_size", "n_layers": "num_hidden_layers", "vocab_size": "vocab_size"}
    text = text_config(config)
    shape: dict[str, Any] = {ours: text.get(theirs) for ours, theirs in names.items()}
    if not all(isinstance(value, int) for value in shape.values()):
        loaded = load_config(folder).get_text_config()
        shape = {ours: getattr(loaded, theirs) for ours, theirs in names.items()}
    return shape


def _stored_dtype(folder: Path, config: Mapping[str, Any]) -> str:
    sizes: Counter[str] = Counter()
    for file in weight_files(folder):
        for tensor in read_shard(file).tensors:
            sizes[tensor.dtype] += tensor.n_bytes
    if sizes:
        stored = sizes.most_common(1)[0][0]
        return FLOAT_DTYPES.get(stored, stored)
    text = text_config(config)
    stated = (source.get(key) for source in (config, text) for key in ("dtype", "torch_dtype"))
    return str(next(filter(None, stated), "float32")).removeprefix("torch.")


def _file_fingerprint(folder: Path) -> str:
    files = sorted(folder.glob("*.bin"))
    if not files:
        raise ModelError(f"{folder}: has no weights (no model.safetensors, safetensors index or .bin file)")
    digest = hashlib.sha256()
    for file in files:
        size = os.path.getsize(file)
        digest.update(json.dumps([file.name, size]).encode())
        with open(file, "rb") as handle:
            for start, length in _samples(0, size):
                digest.update(read_range(handle, start, length))
    return digest.hexdigest()


def _samples(start: int, end: int) -> list[tuple[int, int]]:
    """(offset, length) of what is sampled of a byte range: all of a short one, else its start, middle and end."""
    if end - start <= 3 * _SAMPLE:
        return [(start, end - start)]
    return [(at, _SAMPLE) for at in (start, (start + end) // 2, end - _SAMPLE)]


def _first_line(err: BaseException) -> str:
    return next((line.strip() for line in str(err).splitlines() if line.strip()), type(err).__name__)[:200]
