"""What a server says it serves (/v1/models), and which of it is the ablation that a condition needs."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from surgery.console.errors import RefusalError
from surgery.residual.layers import format_layers
from vllm_refusal.settings.modules import NONE, AblationModule
from vllm_refusal.settings.request import ALPHA, LAYERS, NAME


class ServersError(RefusalError):
    """The servers cannot answer the run: not what it needs, or none is left."""


@dataclass(frozen=True)
class Needs:
    """The ablations that a run asks servers for.

    Attributes:
        modules: by the name that requests give, as loaded here.
        settings: name -> what was loaded: {"path": FILE} with any of site, source_layer, source_layers.
    """

    modules: Mapping[str, AblationModule]
    settings: Mapping[str, Mapping[str, Any]]

    def options(self, modules: Sequence[AblationModule]) -> str:
        """Options of `refusal serve` under which it has these modules."""
        return " ".join(f"--ablation {self._option(module.name)}" for module in modules)

    def _option(self, name: str) -> str:
        settings = dict(self.settings[name])
        words = [f"{name}={settings.pop('path')}"]
        for key in ("source_layer", "source_layers", "site"):
            value = settings.get(key)
            if value is not None:
                words.append(f"{key}={format_layers(value) if isinstance(value, (list, tuple)) else value}")
        return shlex.quote(",".join(words))


@dataclass(frozen=True)
class ServedModels:
    """The models of one server.

    Attributes:
        url: its address.
        base: name of the unedited model.
        ablations: name -> what is removed there ("basis_sha256", "site" and more, as vllm_refusal.server.names lists it).
        max_model_len: longest prompt and response together, in tokens; None where it does not say.
        date: that it tells chat templates; None where it does not say. Prompts that come in token ids do not meet it.
    """

    url: str
    base: str
    ablations: Mapping[str, Mapping[str, Any]]
    max_model_len: int | None = None
    date: str | None = None

    @classmethod
    def from_listing(cls, url: str, listing: Any, wanted: str | None = None) -> "ServedModels":
        """Read the reply of /v1/models.

        Args:
            wanted: name of the unedited model; None for the only one there is.
        Raises: ServersError when the reply is no listing, or the unedited model is not to be found in it.
        """
        try:
            cards = [card for card in listing["data"] if isinstance(card["id"], str)]
        except (TypeError, KeyError) as err:
            raise ServersError(f"{url}: expected a listing of models at {url}/models, found something else") from err
        ablations = {card["id"]: card["ablation"] for card in cards if isinstance(card.get("ablation"), Mapping)}
        unedited = {card["id"]: card for card in cards if not card.get("parent") and card["id"] not in ablations}
        base = _base(url, list(unedited), wanted)
        return cls(url, base, ablations, unedited[base].get("max_model_len"), unedited[base].get("date"))

    def name_of(self, module: AblationModule) -> str | None:
        """The model name under which this server has a module: one with the same basis at the same site; else None."""
        same = [name for name, served in self.ablations.items() if _is_same(served, module)]
        return module.name if module.name in same else next(iter(same), None)

    def check(self, needs: "Needs") -> None:
        """Raises: ServersError when this server lacks an ablation; one of its name that removes something else is none."""
        missing = [module for module in needs.modules.values() if self.name_of(module) is None]
        if missing:
            first = missing[0]
            raise ServersError(
                f"{self.url} does not serve {len(missing)} of the {len(needs.modules)} ablations needed: "
                f"{first.name!r} ({_describe(first)}){_hint(self.ablations.get(first.name))}; it serves "
                f"{', '.join(self.ablations) or 'none'}; start it with {needs.options(missing)}"
            )

    def asks_for(self, keys: Mapping[str, Any], needs: "Needs") -> dict[str, Any]:
        """Fields of a request for one condition: the model's name and the keys beside it.

        Strength and layers are always given, since the server's defaults may be others than ours; and the baseline asks
        for no ablation by name, since the server may apply one by default.

        Args:
            keys: of the condition ("ablation", "ablation_alpha", "ablation_layers"); empty for the baseline.
            needs: met by this server (`check`).
        """
        if not keys:
            return {"model": self.base} | ({"vllm_xargs": {NAME: NONE}} if self.ablations else {})
        module = needs.modules[keys[NAME]]
        layers = keys.get(LAYERS, format_layers(module.layers))
        return {
            "model": self.name_of(module),
            "vllm_xargs": {ALPHA: keys.get(ALPHA, module.alpha), LAYERS: layers},
        }


def _base(url: str, unedited: Sequence[str], wanted: str | None) -> str:
    if wanted is not None:
        if wanted not in unedited:
            raise ServersError(
                f"{url} does not serve {wanted!r} unedited; it serves {', '.join(unedited) or 'nothing'}"
            )
        return wanted
    if len(unedited) != 1:
        raise ServersError(
            f"{url} serves {len(unedited)} unedited models ({', '.join(unedited) or 'none'}); name MODEL's by --served-model"
        )
    return unedited[0]


def _is_same(served: Mapping[str, Any], module: AblationModule) -> bool:
    return served.get("basis_sha256") == module.sha256 and served.get("site") == module.site


def _describe(module: AblationModule) -> str:
    return f"rank {module.rank}, site {module.site}, basis sha256 {module.sha256[:12]}"


def _hint(namesake: Mapping[str, Any] | None) -> str:
    if namesake is None:
        return ""
    found = namesake.get("basis_sha256")
    if found is None:
        return ", and does not say what is removed by its model of that name"
    return (
        f", and its model of that name removes something else (site {namesake.get('site')}, sha256 {str(found)[:12]})"
    )
