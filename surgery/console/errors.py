"""Faults of the user's input: one family, one line each, shown without a traceback."""

from pathlib import Path


class RefusalError(Exception):
    """A fault the user can mend: what is wrong, expected against found, what to do."""


class ShapeError(RefusalError):
    """A tensor's shape does not fit what it is used with."""


class LayerRangeError(RefusalError):
    """A layer index or layer list cannot be read, or lies outside the model."""


class PositionError(RefusalError):
    """A token position cannot be read, or is not one of the chat template's."""


class AlphaError(RefusalError):
    """An ablation strength is not a finite number."""


class PromptFileError(RefusalError):
    """A prompt file is missing, empty or malformed; the line is named."""


class ArtifactError(RefusalError):
    """A file of ours is missing, of the wrong kind, or of a newer format."""


class ModelError(RefusalError):
    """A model cannot be found, read, or used for what was asked."""


class MismatchError(RefusalError):
    """An artifact belongs to another model than the one it is used with."""


class OutputExistsError(RefusalError):
    """The output is already there and would be overwritten."""

    def __init__(self, path: Path | str):
        super().__init__(f"{path} already exists; choose another output or pass --force to replace it")
        self.path = Path(path)


class DiskError(RefusalError):
    """The disk cannot hold what is to be written."""
