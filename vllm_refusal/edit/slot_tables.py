"""Per-engine state on a worker: which slot holds which intervention, and which token belongs to which slot."""

from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from surgery.residual.sites import WRITES
from vllm_refusal.edit.affine import ResidualEdit
from vllm_refusal.edit.post_norms import PostNormBases
from vllm_refusal.edit.staging import StagedTensor
from vllm_refusal.settings.modules import AblationConfig, AblationModule
from vllm_refusal.settings.request import NAME, RESOLVED, Intervention, digest_of, make_intervention, resolve


class SlotTables:
    """Slots of the interventions in flight. Slot 0 is "no intervention"; equal interventions share a slot.

    All tensors are allocated once and written in place, so that compiled graphs and CUDA graphs see every change.
    """

    def __init__(self, config: AblationConfig, max_num_tokens: int, device: torch.device | str):
        self.config = config
        n_slots = config.max_slots + 1
        self.bases, self.offsets = _stacked(config, device)
        self.before_norms = PostNormBases(config, self.bases)
        self.slot = torch.zeros(max_num_tokens, dtype=torch.int64, device=device)
        self.module_of_slot = torch.zeros(n_slots, dtype=torch.int64, device=device)
        shape = (config.n_layers, n_slots)
        self.alpha = {site: torch.zeros(shape, dtype=torch.float32, device=device) for site in config.sites}
        self._row = {name: row for row, name in enumerate(config.modules, start=1)}
        self._free_rows = list(range(len(self.bases) - 1, len(config.modules), -1))
        self._free = list(range(n_slots - 1, 0, -1))
        self._slot_of: dict[Intervention, int] = {}
        self._digests = [""] * n_slots  # of the intervention that is written in each slot
        self._users = np.zeros(n_slots, dtype=np.int64)
        self._slot_of_request: dict[str, int] = {}
        self._staged = StagedTensor(self.slot)
        self.n_intervened_tokens = 0
        self.n_tokens = 0  # of the step that runs

    def shapes(self) -> dict[str, list[int]]:
        """Shape of every tensor of the edits. A compiled graph holds for these shapes, and one loop step for each rank."""
        tensors = {"slot": self.slot, "module_of_slot": self.module_of_slot, "bases": self.bases, **self.alpha}
        return {name: list(tensor.shape) for name, tensor in tensors.items()}

    def edit_of(self, site: str, layer: int, bases: torch.Tensor | None = None) -> ResidualEdit:
        """The module that edits one site of one decoder block, with bases of its own or those of all sites."""
        bases = self.bases if bases is None else bases
        return ResidualEdit(self.slot, self.module_of_slot, bases, self.offsets, self.alpha[site][layer])

    def add_module(self, module: AblationModule) -> None:
        """Write one more module into a free row; the tensors stay where they are.

        Raises: ConfigError as `AblationConfig.with_module`, ModelError as `PostNormBases.write`, RuntimeError where the
            gains of post-norms were never read; nothing is changed then.
        """
        config = self.config.with_module(module)
        if module.site == WRITES:
            self.before_norms.check_filled()
        row = self._free_rows[-1]
        self.before_norms.write(row, module)
        _write_row(self.bases, self.offsets, row, module)
        self._row[module.name] = self._free_rows.pop()
        self.config = config

    def remove_module(self, name: str) -> None:
        """Free a module's row and its slots. To be called when the engine has no request for it any more.

        A worker may still know requests that have ended; they are forgotten.
        """
        slots = {slot for intervention, slot in self._slot_of.items() if intervention.module == name}
        for request_id in [request_id for request_id, slot in self._slot_of_request.items() if slot in slots]:
            self.remove_request(request_id)
        for intervention in [intervention for intervention in self._slot_of if intervention.module == name]:
            self._free.append(self._slot_of.pop(intervention))
        self._free_rows.append(self._row.pop(name))
        self.config = self.config.without(name)

    def add_request(self, request_id: str, extra_args: Mapping[str, Any] | None) -> int:
        """Give a request its slot, written where it is new. Returns the slot, 0 for no intervention."""
        intervention = self._intervention(request_id, extra_args)
        slot = 0 if intervention is None else self._slot_for(intervention)
        self._users[slot] += 1
        self._slot_of_request[request_id] = slot
        return slot

    def remove_request(self, request_id: str) -> None:
        """Forget a request; its slot stays written and is reused by equal interventions until it is needed."""
        slot = self._slot_of_request.pop(request_id, None)
        if slot is not None:
            self._users[slot] -= 1

    @property
    def rows(self) -> Mapping[str, int]:
        """The row of each module in `bases` and `offsets`."""
        return self._row

    def slot_of(self, request_id: str) -> int | None:
        """The slot of a known request, else None."""
        return self._slot_of_request.get(request_id)

    def slot_now(self, request_id: str, extra_args: Mapping[str, Any] | None) -> int:
        """The slot of a request, known or new; an id that comes again with another intervention is a new request."""
        slot = self.slot_of(request_id)
        if slot is not None and self._digests[slot] == digest_of(extra_args):
            return slot
        self.remove_request(request_id)
        return self.add_request(request_id, extra_args)

    def keep_requests(self, request_ids: Container[str]) -> None:
        """Forget every request but these."""
        for request_id in list(self._slot_of_request):
            if request_id not in request_ids:
                self.remove_request(request_id)

    @property
    def n_slots_in_use(self) -> int:
        """Distinct interventions of the requests that are known, at most `max_slots`."""
        return int(np.count_nonzero(self._users[1:]))

    def write_tokens(self, slots: Sequence[int], n_tokens: Sequence[int]) -> None:
        """Say which slot each token of the coming step has; tokens beyond the batch (padding) get slot 0.

        Args:
            slots: [n_requests], slot of each request in batch order.
            n_tokens: [n_requests], tokens scheduled for each.
        """
        per_token = np.repeat(np.asarray(slots, dtype=np.int64), np.asarray(n_tokens, dtype=np.int64))
        self.n_intervened_tokens += int(np.count_nonzero(per_token))
        self.n_tokens = len(per_token)
        self._staged.write(per_token)

    def clear_tokens(self) -> None:
        """No token of the coming (dummy) step has an intervention."""
        self.write_tokens([], [])

    def _intervention(self, request_id: str, extra_args: Mapping[str, Any] | None) -> Intervention | None:
        extra_args = extra_args or {}
        if RESOLVED not in extra_args:
            if NAME in extra_args and extra_args[NAME] != "none" and extra_args.get("ablation_alpha") != 0:
                self._check_unresolved(request_id, extra_args)
            return None
        carried = Intervention.from_wire(extra_args[RESOLVED])
        if carried.module not in self.config.modules:
            raise RuntimeError(f"request {request_id}: ablation {carried.module!r} is not loaded in this worker")
        own = make_intervention(self.config, carried.module, carried.alpha, carried.layers)
        if own.digest != carried.digest:
            raise RuntimeError(
                f"request {request_id}: ablation {carried.module!r} differs between the front end and this worker; "
                "its file was replaced while the engine started; start the engine again"
            )
        return own

    def _check_unresolved(self, request_id: str, extra_args: Mapping[str, Any]) -> None:
        """A request that names an ablation must have been resolved at admission, unless it amounts to none."""
        if resolve(extra_args, self.config) is not None:
            raise RuntimeError(
                f"request {request_id} asks for an ablation but did not pass admission; refusing to run it"
            )

    def _slot_for(self, intervention: Intervention) -> int:
        if intervention in self._slot_of:
            return self._slot_of[intervention]
        slot = self._take_slot()
        self._slot_of[intervention] = slot
        self._write_slot(slot, intervention)
        return slot

    def _take_slot(self) -> int:
        if not self._free:
            idle = [intervention for intervention, slot in self._slot_of.items() if self._users[slot] == 0]
            self._free += [self._slot_of.pop(intervention) for intervention in idle]
        if not self._free:
            raise RuntimeError(f"all {self.config.max_slots} ablation slots are in use; raise max_slots")
        return self._free.pop()

    def _write_slot(self, slot: int, intervention: Intervention) -> None:
        module = self.config.modules[intervention.module]
        if module.site == WRITES:
            self.before_norms.check_filled()
        for alpha in self.alpha.values():
            alpha[:, slot] = 0
        self.alpha[module.site][list(intervention.layers), slot] = intervention.alpha
        self.module_of_slot[slot] = self._row[module.name]
        self._digests[slot] = intervention.digest


def _stacked(config: AblationConfig, device: torch.device | str) -> tuple[torch.Tensor, torch.Tensor]:
    """Bases [n_rows, rank, d_model] and offsets [n_rows, rank], zero-padded; row 0 is all zeros, and so are free ones."""
    n_rows = config.room.n_modules + 1
    bases = torch.zeros(n_rows, config.rank, config.d_model, dtype=torch.float32)
    offsets = torch.zeros(n_rows, config.rank, dtype=torch.float32)
    for row, module in enumerate(config.modules.values(), start=1):
        _write_row(bases, offsets, row, module)
    return bases.to(device), offsets.to(device)


def _write_row(bases: torch.Tensor, offsets: torch.Tensor, row: int, module: AblationModule) -> None:
    bases[row].zero_()
    offsets[row].zero_()
    bases[row, : module.rank] = module.basis.to(bases.device)
    if module.offset is not None:
        offsets[row, : module.rank] = module.offset.to(offsets.device)
