"""Loading and unloading the ablations of a running server, in an order that lets no request through unsteered.

Loading: the front end checks the file; every worker reads it itself and must find the same digests; its effect is proven;
only then is the name admitted. Unloading: the name is admitted no more; every engine says that it has no request for it;
then the workers let go of it.
"""

import asyncio
import functools
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from surgery.console.errors import RefusalError
from vllm_refusal.admission.refusals import refuse_unloaded
from vllm_refusal.model.proof import prove_module, proving
from vllm_refusal.model.worker import ask_workers, check_loaded, digests_of
from vllm_refusal.server.allowed_folder import AllowedFolder, check_name
from vllm_refusal.server.metrics import ServerMetrics
from vllm_refusal.settings.engine_settings import load_another
from vllm_refusal.settings.modules import AblationConfig, AblationModule
from vllm_refusal.settings.request import RequestError, UnknownAblationError

DRAIN_SECONDS = 2.0
"""How long an engine may take to drop requests that the front end has finished; in milliseconds, as a rule."""


class ConflictError(RefusalError):
    """What is asked does not go with what is loaded or in use now."""


class RuntimeAblations:
    """Loads and unloads one ablation at a time.

    Args:
        client: the server's AsyncLLM; its input processor holds the config that requests are admitted under.
        folder: where files may come from.
        taken_names: asked at each loading for the names that models and adapters have.
    """

    def __init__(
        self, client: Any, folder: AllowedFolder, metrics: ServerMetrics, taken_names: Callable[[], Collection[str]]
    ):
        self._client, self._folder, self._metrics, self._taken_names = client, folder, metrics, taken_names
        self._turn = asyncio.Lock()
        processor = client.output_processor
        processor.add_request = self._refusing_unloaded(processor.add_request)

    @property
    def config(self) -> AblationConfig:
        """What requests are admitted under at this moment."""
        return self._client.input_processor.ablation

    async def load(self, name: object, settings: Mapping[str, Any]) -> AblationModule:
        """Load a module on every worker, prove its effect, and admit requests for it.

        Args:
            settings: a module's settings as at the start but allow_other_model, its path inside the folder.
        Returns: the module; the one that is there when an identical one is loaded already.
        Raises: RefusalError, one line that shows no path outside the folder; nothing has changed then.
        """
        async with self._turn:
            try:
                return await self._load(check_name(name), settings)
            except RefusalError as err:
                raise type(err)(self._folder.hidden(str(err))) from err

    async def unload(self, name: object) -> AblationModule:
        """Refuse new requests for a module and let go of it.

        Raises: UnknownAblationError; ConflictError while requests use it, or when it is the default.
        """
        async with self._turn:
            config = self.config
            if not isinstance(name, str) or name not in config.modules:
                loaded = ", ".join(config.modules) or "none"
                raise UnknownAblationError(f"ablation {name!r} is not loaded; loaded: {loaded}")
            if name == config.default:
                raise ConflictError(f"ablation {name!r} is the server's default; it cannot be unloaded")
            await self._withdraw(config, name)
            await ask_workers(self._client, "unload_ablation", name)
            self._metrics.remove(config.modules[name])
            return config.modules[name]

    async def _load(self, name: str, settings: Mapping[str, Any]) -> AblationModule:
        if "allow_other_model" in settings:
            raise RequestError("allow_other_model is the operator's to say, by refusal serve --allow-other-model")
        path = str(self._folder.find(settings.get("path")))
        spec = {**settings, "path": path, "allow_other_model": self._folder.other_models}
        module = await asyncio.to_thread(load_another, name, spec, self._client.vllm_config)
        loaded = self.config.modules.get(name)
        if loaded is not None:
            return self._identical(loaded, module)
        if name in self._taken_names():
            raise ConflictError(f"ablation {name!r}: a model of this server has that name; choose another")
        config = self.config.with_module(replace(module, path=self._folder.hidden(module.path)))
        try:
            await self._load_on_workers(module, spec)
            await self._prove(config, module)
        except BaseException:
            await ask_workers(self._client, "unload_ablation", name)
            raise
        self._metrics.add(module)
        self._client.input_processor.ablation = config
        return config.modules[name]

    def _identical(self, loaded: AblationModule, module: AblationModule) -> AblationModule:
        same = all(
            getattr(loaded, field) == getattr(module, field)
            for field in ("sha256", "file_sha256", "alpha", "layers", "site")
        )
        if not same:
            raise ConflictError(
                f"ablation {module.name!r} is loaded with another file or other settings; unload it first"
            )
        return loaded

    async def _load_on_workers(self, module: AblationModule, spec: Mapping[str, Any]) -> None:
        engines = await ask_workers(self._client, "load_ablation", module.name, dict(spec), digests_of(module))
        check_loaded(module.name, [answer for workers in engines for answer in workers])

    async def _prove(self, config: AblationConfig, module: AblationModule) -> None:
        token = proving.set(config)
        try:
            await prove_module(self._client, module)
        finally:
            proving.reset(token)

    async def _withdraw(self, config: AblationConfig, name: str) -> None:
        """Admit no more requests for a module, and see that none is left; admit them again where one is."""
        self._check_unused(name, self._n_admitted(name))
        self._client.input_processor.ablation = config.without(name)
        try:
            self._check_unused(name, await self._n_running(name))
        except BaseException:
            self._client.input_processor.ablation = config
            raise

    def _check_unused(self, name: str, n_requests: int) -> None:
        if n_requests:
            raise ConflictError(f"ablation {name!r} is in use by {n_requests} requests; unload it when they have ended")

    def _n_admitted(self, name: str) -> int:
        """Requests that this process has admitted and not seen the end of: queued, running or preempted."""
        return sum(state.ablation == name for state in self._client.output_processor.request_states.values())

    async def _n_running(self, name: str) -> int:
        """Requests that the engines still have, once those that the front end has ended had time to go."""
        deadline = asyncio.get_running_loop().time() + DRAIN_SECONDS
        while True:
            counts = await self._client.engine_core.call_utility_all_async("count_ablation_requests", name)
            if not sum(counts) or asyncio.get_running_loop().time() > deadline:
                return sum(counts)
            await asyncio.sleep(0.02)

    def _refusing_unloaded(self, original: Any) -> Any:
        """Here a request becomes one of the server's: what was unloaded since its keys were read is refused."""

        @functools.wraps(original)
        def add_request(request: Any, *args: Any, **kwargs: Any) -> Any:
            refuse_unloaded(request, proving.get() or self.config)
            return original(request, *args, **kwargs)

        return add_request
