"""The ablations that an engine holds, and the room that it has for others."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from surgery.console.errors import AlphaError, RefusalError
from surgery.residual.sites import EDIT_SITES, WRITES

if TYPE_CHECKING:
    import torch

KEY = "ablation"
NONE = "none"
MAX_RANK = 64
MAX_MODULES = 1024
MAX_ALPHA = 4.0
"""The largest |alpha| that an engine admits unless its settings say otherwise."""


class ConfigError(RefusalError):
    """The engine's ablation settings cannot be used; the engine does not start, or does not load the module."""


class NoRoomError(ConfigError):
    """All the modules that an engine has room for are loaded."""


@dataclass(frozen=True)
class AblationModule:
    """One named intervention of the engine.

    Attributes:
        name: what a request asks for.
        path: the safetensors file that it came from.
        basis: [rank, d_model] float32, orthonormal rows.
        offset: [rank] float32 reference projection (affine ablation), or None for zero.
        alpha, layers: defaults of a request that gives none; layers are decoder block indices, ascending.
        site: "stream" (block outputs) or "writes" (attention and MLP outputs before they are added).
        sha256: of basis and offset, hexadecimal; part of every cache key.
        file_sha256: of the file.
    """

    name: str
    path: str
    basis: "torch.Tensor"
    offset: "torch.Tensor | None"
    alpha: float
    layers: tuple[int, ...]
    site: str
    sha256: str
    file_sha256: str

    @property
    def rank(self) -> int:
        """Dimension of the subspace."""
        return self.basis.shape[0]


@dataclass(frozen=True)
class Room:
    """What an engine has room for, fixed when it starts: its graphs are compiled for tables of these shapes.

    Attributes:
        n_modules: modules at one time.
        rank: the largest rank of a module; every token of the engine pays for it.
        sites: where blocks are edited, in the order of EDIT_SITES.
    """

    n_modules: int
    rank: int
    sites: tuple[str, ...]

    def including(self, modules: Collection[AblationModule]) -> "Room":
        """This room, made large enough for these modules."""
        used = {*self.sites, *(module.site for module in modules)}
        rank = max((self.rank, *(module.rank for module in modules)))
        return Room(max(self.n_modules, len(modules)), rank, tuple(site for site in EDIT_SITES if site in used))


@dataclass(frozen=True)
class AblationConfig:
    """All modules of an engine. A module loaded or unloaded while it runs makes another config with the same room.

    Attributes:
        modules: by name, in the order of the settings.
        default: the module applied to a request that names none, or None.
        n_layers, d_model: of the served model.
        max_slots: distinct interventions in flight at one time.
        room: at least what the modules need.
        max_alpha: the largest |alpha| of a request or a module.
        narrow: the stream is float16.
    """

    modules: Mapping[str, AblationModule]
    default: str | None
    n_layers: int
    d_model: int
    max_slots: int
    room: Room = Room(0, 0, ())
    max_alpha: float = MAX_ALPHA
    narrow: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "room", self.room.including(self.modules.values()))
        for name, module in self.modules.items():
            try:
                self.check_alpha(module.alpha, module.site)
            except AlphaError as err:
                raise AlphaError(f"ablation {name!r}: {err}") from err

    def check_alpha(self, alpha: float, site: str) -> None:
        """Raises: AlphaError when a strength is beyond what the engine admits at a site.

        A strength outside 0 to 2 makes a component longer, at site stream in every block anew. In float16 the sum of
        such writes could leave the dtype's range; a stream is kept inside it by the edit itself.
        """
        low, high = (
            (0.0, min(2.0, self.max_alpha)) if self.narrow and site == WRITES else (-self.max_alpha, self.max_alpha)
        )
        if not low <= alpha <= high:
            where = f" at site {site} in float16" if self.narrow and site == WRITES else ""
            raise AlphaError(
                f"alpha {alpha:g} is outside {low:g} to {high:g}, what this engine admits{where}; use a smaller one"
                + ("" if where else ", or start with another max_alpha")
            )

    @property
    def rank(self) -> int:
        """The largest rank that there is room for."""
        return self.room.rank

    @property
    def sites(self) -> tuple[str, ...]:
        """Sites where blocks are edited, in the order of EDIT_SITES."""
        return self.room.sites

    def with_module(self, module: AblationModule) -> "AblationConfig":
        """The config with one module more, in the room that there is.

        Raises: NoRoomError, ConfigError when the name is taken or the module does not fit the room.
        """
        if module.name in self.modules:
            raise ConfigError(f"ablation {module.name!r} is loaded already; unload it first, or use another name")
        if len(self.modules) >= self.room.n_modules:
            raise NoRoomError(
                f"ablation {module.name!r}: all {self.room.n_modules} ablations that there is room for are loaded; "
                "unload one, or start with a larger max_modules"
            )
        if module.rank > self.room.rank:
            raise ConfigError(
                f"ablation {module.name!r}: {module.path} has rank {module.rank} but the engine has room for rank "
                f"{self.room.rank}; use a smaller subspace, or start with a larger max_rank"
            )
        if module.site not in self.room.sites:
            raise ConfigError(
                f"ablation {module.name!r}: site {module.site} was not set up when the engine started (it has "
                f"{', '.join(self.room.sites)}); name it in the setting sites at the start"
            )
        return replace(self, modules={**self.modules, module.name: module})

    def without(self, name: str) -> "AblationConfig":
        """The config with one module less; its room stays."""
        return replace(self, modules={other: one for other, one in self.modules.items() if other != name})


def check_default(default: str | None, modules: Collection[str]) -> str | None:
    """The default module's name, None for no intervention. Raises: ConfigError when there is no such module."""
    if default in (None, NONE):
        return None
    if default not in modules:
        raise ConfigError(
            f"default ablation {default!r} is not among the modules: {', '.join(modules) or 'none given'}"
        )
    return default


def check_keys(settings: Any, known: set[str], where: str) -> None:
    """Raises: ConfigError when settings are not an object, or have a key that is not known."""
    if not isinstance(settings, dict):
        raise ConfigError(f"{where}: expected a JSON object, found {settings!r}")
    unknown = sorted(set(settings) - known)
    if unknown:
        raise ConfigError(f"{where}: unknown setting {', '.join(unknown)}; known: {', '.join(sorted(known))}")
