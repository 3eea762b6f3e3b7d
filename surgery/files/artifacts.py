"""Tensors on disk: safetensors files of a named kind with one JSON header, written whole or not at all."""

import errno
import glob
import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.console.errors import ArtifactError, DiskError, OutputExistsError
from surgery.files.shards import METADATA_KEY, header_bytes

if TYPE_CHECKING:
    import torch

HEADER_KEY = "vllm_refusal"
FORMAT_VERSION = 1
_DISK_ERRORS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EIO,
    errno.ENAMETOOLONG,
}
_PACKAGES = ("vllm-refusal", "torch", "transformers", "safetensors", "numpy")


def save_artifact(
    path: Path | str, kind: str, tensors: Mapping[str, "torch.Tensor"], header: Mapping[str, Any], force: bool = False
) -> Path:
    """Write tensors and a JSON header as one safetensors file, beside the target and then renamed.

    Args:
        path: the file to write; its folder must exist.
        kind: what the file holds, e.g. "refusal_vectors".
        tensors: name -> tensor, any dtype; made contiguous.
        header: JSON-serializable provenance; `kind`, `format_version` and package versions are added.
    Raises: OutputExistsError, DiskError, ArtifactError (no such folder).
    """
    from safetensors.torch import save

    path = Path(path)
    record = {"kind": kind, "format_version": FORMAT_VERSION, **header, "versions": package_versions()}
    data = save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        metadata={HEADER_KEY: json.dumps(record, sort_keys=True), "format": "pt"},
    )
    with replacing(path, force) as part:
        part.write_bytes(_in_order(data))
    return path


def _in_order(data: bytes) -> bytes:
    """A safetensors file with its metadata sorted by key: the library's order changes from run to run."""
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header[METADATA_KEY] = dict(sorted(header[METADATA_KEY].items()))
    return header_bytes(header) + data[start:]


def load_artifact(path: Path | str, kinds: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, "torch.Tensor"]]:
    """Read a file written by `save_artifact`.

    Files made by other programs, without our header, are accepted with an empty header (`kind` is kinds[0]): the
    tensors then decide.
    Returns: (header, tensors).
    Raises: ArtifactError when the file is missing, not safetensors, of another kind or of a newer format.
    """
    with _opened(Path(path), kinds) as handle:
        header = _read_header(Path(path), handle.metadata() or {}, kinds)
        return header, {name: handle.get_tensor(name) for name in handle.keys()}


def read_header(path: Path | str, kinds: tuple[str, ...]) -> dict[str, Any]:
    """Read only the JSON header of an artifact; same errors as `load_artifact`."""
    with _opened(Path(path), kinds) as handle:
        return _read_header(Path(path), handle.metadata() or {}, kinds)


@contextmanager
def _opened(path: Path, kinds: tuple[str, ...]) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        found = "is a folder" if path.is_dir() else "no such file"
        raise ArtifactError(f"{path}: {found}; expected a {' or '.join(kinds)} safetensors file")
    try:
        with safe_open(path, framework="pt") as handle:
            yield handle
    except SafetensorError as err:
        raise ArtifactError(f"{path}: not a readable safetensors file ({err})") from err
    except PermissionError as err:
        raise ArtifactError(f"{path}: cannot be read ({err.strerror})") from err


def _read_header(path: Path, stored: Mapping[str, str], kinds: tuple[str, ...]) -> dict[str, Any]:
    if HEADER_KEY not in stored:
        return {"kind": kinds[0], "format_version": FORMAT_VERSION}
    try:
        header = json.loads(stored[HEADER_KEY])
    except json.JSONDecodeError as err:
        raise ArtifactError(f"{path}: its {HEADER_KEY} header is not JSON ({err})") from err
    if header.get("kind") not in kinds:
        raise ArtifactError(f"{path}: expected a file of kind {' or '.join(kinds)}, found {header.get('kind')!r}")
    if header.get("format_version", 0) > FORMAT_VERSION:
        raise ArtifactError(
            f"{path}: format version {header['format_version']} is newer than this program's {FORMAT_VERSION}; upgrade"
        )
    return header


@contextmanager
def replacing(path: Path, force: bool = False) -> Iterator[Path]:
    """Yield a temporary file beside `path`; rename it over `path` on success, delete it on any failure."""
    part = _part_beside(path, force)
    try:
        with explaining_disk_errors(path):
            yield part
            os.chmod(part, 0o666 & ~_umask())
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def check_output_file(path: Path | str, force: bool = False) -> None:
    """Find out before the work whether a file can be written after it, by making and deleting one beside it.

    Raises: OutputExistsError, ArtifactError (a folder is there, or its own folder is missing), DiskError.
    """
    _part_beside(Path(path), force).unlink()


def _part_beside(path: Path, force: bool) -> Path:
    if path.is_dir():
        raise ArtifactError(f"{path}: is a folder; expected the name of a file to write")
    if path.exists() and not force:
        raise OutputExistsError(path)
    if not path.parent.is_dir():
        raise ArtifactError(f"{path}: folder {path.parent} does not exist; create it first")
    for abandoned in abandoned_parts(path):
        abandoned.unlink(missing_ok=True)
    try:
        handle, name = tempfile.mkstemp(prefix=part_prefix(path), suffix=".part", dir=path.parent)
    except OSError as err:
        raise DiskError(f"cannot write {path}: {err.strerror}; choose another output") from err
    os.close(handle)
    return Path(name)


def part_prefix(path: Path) -> str:
    """How the names of this process's unfinished versions of `path` begin."""
    return f".{path.name}.{platform.node()}.{os.getpid()}."


def abandoned_parts(path: Path) -> list[Path]:
    """Unfinished versions of `path` beside it whose writers, processes of this machine, were killed."""
    found = path.parent.glob(glob.escape(f".{path.name}.{platform.node()}.") + "*.*.part")
    return [part for part in found if not _is_running(part.name.split(".")[-3])]


def _is_running(pid: str) -> bool:
    """Whether a process has this number; true of what is no number, so that nothing unknown is taken for abandoned."""
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (ValueError, PermissionError):  # PermissionError: somebody else's
        return True
    return True


@contextmanager
def explaining_disk_errors(path: Path | str, after: str = "nothing was left behind") -> Iterator[None]:
    """Turn a full or failing disk, a quota or a missing permission while writing `path` into a DiskError.

    Args:
        after: how things stand after the failure, for the message.
    """
    try:
        yield
    except OSError as err:
        if err.errno in _DISK_ERRORS:
            raise DiskError(f"cannot write {path}: {os.strerror(err.errno)}; {after}") from err
        raise


def shortened(names: Sequence[str]) -> str:
    """Names for a message: the first four, and how many more there are."""
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return (", ".join(names[:4]) or "none") + more


def file_sha256(path: Path | str) -> str:
    """sha256 of a file's bytes, hexadecimal."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def json_sha256(value: Any) -> str:
    """sha256 of a value's canonical JSON, hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def package_versions() -> dict[str, str]:
    """Versions of the packages that decide a result, and of Python."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
