"""What makes rules the same rules: their source, wherever it lies and whatever it imports."""

import ast
import hashlib
from pathlib import Path
from types import ModuleType

_SAME = {
    "dd94cc332a3d821778e59c5ee7ed40f0a1c6948ae4b3b59133ebb9c8b5797af6": "e09867c689a1971e6ddf3f2f6df45cb178b43a6b188fd7ce279e38bf3767fbcc",
    "a68da4e3ddac9ae4827a82a6f0e15a7523d8474f5c3fbc206e58486e68cd8914": "fc8dd2c93b6d69048eb8d12216b2c91d4c9b3787c5594255af207461185db29e",
}
"""Digest -> the one under which the same rules were known before code moved. An entry is right only while no verdict changes."""


def rules_digest(*sources: ModuleType | str, beside: str = "") -> str:
    """sha256, hexadecimal, over the source of modules without their import statements.

    Args:
        sources: modules, or paths of files.
        beside: what else decides.
    """
    digest = hashlib.sha256(beside.encode())
    for source in sources:
        path = source if isinstance(source, str) else source.__file__
        assert path is not None, f"{source} has no file"
        digest.update(_without_imports(Path(path).read_text(encoding="utf-8")).encode())
    found = digest.hexdigest()
    return _SAME.get(found, found)


def _without_imports(text: str) -> str:
    lines = text.splitlines()
    for node in ast.parse(text).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            lines[node.lineno - 1 : node.end_lineno] = [""] * ((node.end_lineno or node.lineno) - node.lineno + 1)
    return "\n".join(line for line in lines if line)
