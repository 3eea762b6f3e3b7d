"""The folder from which a running server may load ablations: what in it a client may name."""

import re
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from surgery.console.errors import RefusalError
from vllm_refusal.settings.modules import NONE

MAX_BYTES = 64 * 2**20
"""Size limit of a file: 64 MiB holds the RVs of 126 layers at d_model 16,384 eight times."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class PathError(RefusalError):
    """A client names a file that may not be loaded."""


class BadNameError(RefusalError):
    """An ablation cannot have this name."""


def check_name(name: object) -> str:
    """Returns: the name. Raises: BadNameError unless it is 1 to 64 letters, digits, ".", "_" or "-", and not "none"."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name == NONE:
        raise BadNameError(
            f"name {name!r}: expected 1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit, not 'none'"
        )
    return name


@dataclass(frozen=True)
class AllowedFolder:
    """A folder whose safetensors files may be loaded.

    Attributes:
        path: absolute, without symbolic links.
        other_models: whether the operator accepts vectors of other weights; no client may say so.
    """

    path: Path
    other_models: bool = False

    @classmethod
    def at(cls, path: Path | str, other_models: bool = False) -> "AllowedFolder":
        """The folder at a path. Raises: PathError when there is none."""
        folder = Path(path)
        if not folder.is_dir():
            raise PathError(f"{path}: no such folder to load ablations from")
        return cls(folder.resolve(), other_models)

    def find(self, asked: object) -> Path:
        """The file that a client names, relative to the folder or absolute inside it.

        Messages repeat what the client said and nothing of what lies outside.
        Returns: its absolute path, without symbolic links.
        Raises: PathError unless it is a regular safetensors file of at most MAX_BYTES in the folder.
        """
        if not isinstance(asked, str) or not asked or "\0" in asked:
            raise PathError(f"path {asked!r}: expected the path of a safetensors file")
        if ".." in PurePosixPath(asked).parts or not (self.path / asked).is_relative_to(self.path):
            raise PathError(f"path {asked!r}: outside the folder that ablations may be loaded from")
        if not asked.endswith(".safetensors"):
            raise PathError(f"path {asked!r}: only .safetensors files can be loaded")
        return self._checked(asked)

    def hidden(self, message: str) -> str:
        """A message for a client, in which files are named relative to the folder."""
        return message.replace(f"{self.path}/", "")

    def _checked(self, asked: str) -> Path:
        try:
            found = (self.path / asked).resolve(strict=True)
            inside, about = found.is_relative_to(self.path), found.stat()
        except (OSError, RuntimeError, ValueError) as err:  # missing, too long, no permission, a loop of links, no name
            raise PathError(f"path {asked!r}: no such file") from err
        if not inside:
            raise PathError(f"path {asked!r}: outside the folder that ablations may be loaded from")
        if not stat.S_ISREG(about.st_mode):
            raise PathError(f"path {asked!r}: not a regular file")
        if about.st_size > MAX_BYTES:
            raise PathError(f"path {asked!r}: {about.st_size:,} bytes, but at most {MAX_BYTES:,} can be loaded")
        return found
