"""What a recipe holds, and reading one: everything in it is checked before anything runs."""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from eval.studies.recipes.claims import CLAIMS
from surgery.console.errors import LayerRangeError, RefusalError
from surgery.residual.layers import format_layers, parse_layers

FORMAT_VERSION = 1
MODEL_FOLDER = "{model}"  # in a source: the folder of the model
_SHIPPED = resources.files("eval.studies.recipes") / "shipped"


class RecipeError(RefusalError):
    """A recipe that cannot be carried out."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Shape(_Strict):
    """The model's size, for what must be known before the model is there."""

    n_layers: Annotated[int, Field(gt=0)]
    parameters: Annotated[float, Field(gt=0)]
    prompts: int | None = None


class Published(_Strict):
    """Figures of the write-up to stand beside ours.

    Attributes:
        cohens_d: layer -> Cohen's d of the general extraction set.
        general, tier2: source layer -> (mean compliance, mean coherence) over `n` harmful prompts.
        subspace: mean compliance under the headline subspace.
    """

    source: str
    n: int
    cohens_d: Mapping[int, float] = {}
    general: Mapping[int, tuple[float, float]] = {}
    tier2: Mapping[int, tuple[float, float]] = {}
    subspace: float | None = None


class Recipe(_Strict):
    """One study.

    Attributes:
        format_version: of the recipe's keys; a newer one than ours is refused.
        model: Hugging Face id, folder, or an organism's name when `prepare` is "organism".
        prepare: what is done to have the model: nothing, `refusal organism`, or `refusal convert`.
        pairs, held_out, prompts, safe_prompts: sources; "{model}" in them is the model's folder.
        tag: whose vectors are ablated beside those of all pairs, e.g. "tier 2"; None for no second set.
        depth: the layers below are written for a model of this many layers and scaled to the model's own; None: as
            they are.
        subspace, wider: layers of the headline subspace, and of the one with the later layers added.
        limit: prompts of each set; None for all.
        tasks: of `refusal benchmark`.
        claims: names in eval.studies.recipes.claims.
    """

    format_version: Annotated[int, Field(ge=1)] = FORMAT_VERSION
    title: str
    model: str
    prepare: Literal["none", "organism", "convert"] = "none"
    shape: Shape | None = None
    pairs: str = "builtin"
    held_out: str | None = None
    prompts: str = "builtin"
    safe_prompts: str = "builtin"
    tag: str | None = None
    depth: Annotated[int, Field(gt=0)] | None = None
    subspace: str
    wider: str
    alphas: Annotated[tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...], Field(min_length=1)] = (
        0.5,
        1.0,
        1.5,
    )
    n_random: Annotated[int, Field(ge=0)] = 2
    max_tokens: Annotated[int, Field(gt=0)] = 256
    limit: Annotated[int, Field(gt=1)] | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    tasks: str = "local"
    claims: Annotated[tuple[Literal[tuple(CLAIMS)], ...], Field(min_length=1)]  # type: ignore[valid-type]
    published: Published | None = None

    @field_validator("format_version")
    @classmethod
    def _is_known(cls, version: int) -> int:
        if version > FORMAT_VERSION:
            raise ValueError(f"expected {FORMAT_VERSION} or older; upgrade this program")
        return version

    @field_validator("alphas")
    @classmethod
    def _each_once(cls, alphas: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(map("{:g}".format, alphas))) < len(alphas):
            raise ValueError("expected each strength once")
        return alphas

    @property
    def alphas_text(self) -> str:
        """As the commands take them."""
        return ",".join(f"{alpha:g}" for alpha in self.alphas)

    def at_depth(self, n_layers: int) -> "Recipe":
        """The recipe with its layers for a model of this depth.

        Raises: RecipeError when the model has no such layers, or the two subspaces are the same there.
        """
        found = {name: self._layers(name, n_layers) for name in ("subspace", "wider")}
        if found["subspace"] == found["wider"]:
            raise RecipeError(
                f"subspace and wider are both layers {found['wider']} in a model of {n_layers} layers; name others"
            )
        return self.model_copy(update={**found, "depth": None})

    def _layers(self, name: str, n_layers: int) -> str:
        asked = getattr(self, name)
        try:
            layers = parse_layers(asked, n_layers if asked == "all" else self.depth or 10**4)
        except LayerRangeError as err:
            raise RecipeError(f"{name}: {err}") from err
        if self.depth and asked != "all":
            layers = tuple(round((layer + 0.5) / self.depth * n_layers - 0.5) for layer in layers)
        if max(layers) >= n_layers:
            raise RecipeError(
                f"{name}: layers {format_layers(layers)} asked for, but the model has {n_layers} (0-{n_layers - 1}); "
                "use a recipe with other layers, or generic, which scales them to the depth"
            )
        return format_layers(layers)


def shipped_recipes() -> dict[str, Recipe]:
    """The recipes that come with the package, by name."""
    shipped = (file for file in _SHIPPED.iterdir() if file.name.endswith(".yaml"))
    files = sorted(shipped, key=lambda file: file.name)
    return {file.name.removesuffix(".yaml"): _read(file.name, file.read_text(encoding="utf-8")) for file in files}


def load_recipe(name: str) -> Recipe:
    """A shipped recipe by its name, or one of the user's by its path.

    Raises: RecipeError: no such recipe, not YAML, an unknown key, a value of the wrong kind.
    """
    if name.endswith((".yaml", ".yml")):
        try:
            return _read(name, Path(name).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as err:
            raise RecipeError(f"{name}: cannot be read ({err})") from err
    file = _SHIPPED / f"{name}.yaml"
    if not file.is_file():
        known = ", ".join(sorted(shipped_recipes()))
        raise RecipeError(f"no recipe {name!r}; choose one of {known}, or give the path of a .yaml file")
    return _read(file.name, file.read_text(encoding="utf-8"))


def _read(name: str, text: str) -> Recipe:
    import yaml

    try:
        content: Any = yaml.safe_load(text)
        if content is None:
            raise RecipeError(f"{name}: is empty; refusal reproduce --list names recipes to begin from")
        if not isinstance(content, dict):
            raise RecipeError(f"{name}: expected keys and values, found {type(content).__name__}")
        return Recipe.model_validate(content)
    except yaml.YAMLError as err:
        raise RecipeError(f"{name}: not YAML ({' '.join(str(err).split())})") from err
    except RecursionError as err:
        raise RecipeError(f"{name}: is nested too deeply to be read") from err
    except ValidationError as err:
        raise RecipeError(f"{name}: {'; '.join(map(_fault, err.errors()))}") from err


def _fault(error: Any) -> str:
    place = ".".join(map(str, error["loc"])) or "recipe"
    if error["type"] == "extra_forbidden":
        return f"unknown key {place}"
    return f"{place}: {error['msg']}" + ("" if error["type"] == "missing" else f", found {error['input']!r}")
