"""Model Runner V2: per-request state lives in a ModelState subclass that the model provides."""

from functools import cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from torch import nn

if TYPE_CHECKING:
    from vllm.v1.worker.gpu.model_states.default import DefaultModelState as StockState
else:
    StockState = object  # whichever of vLLM's it is put in front of


def model_state_class(model: Any, stock: type) -> type:
    """The stock state class, or with ablation settings its subclass that keeps the slot tables."""
    return stock if model.ablation is None else _ablated_state_class(stock)


def resolve_stock_class(model: Any) -> type:
    """What vLLM would choose for this model if the model did not provide a class of its own."""
    from vllm.v1.worker.gpu.model_states import resolve_model_state_cls

    return resolve_model_state_cls(model.engine_config, cast(nn.Module, _WithoutOwnClass(model)))


class _WithoutOwnClass:
    """A view of a model that hides `get_model_state_cls`; vLLM's resolver looks only at its modules."""

    def __init__(self, model: Any):
        self.modules = model.modules


@cache
def _ablated_state_class(stock: type) -> type:
    return type("AblatedModelState", (SlotState, stock), {})


class SlotState(StockState):
    """Mixin in front of a state class of vLLM's: writes the slots of a batch before its graph is replayed."""

    def __init__(self, vllm_config: Any, model: Any, encoder_cache: Any, device: Any):
        super().__init__(vllm_config, model, encoder_cache, device)
        self.tables = model.ablation
        self.slot_of_index = np.zeros(self.max_num_reqs, dtype=np.int64)
        self.index_of_request: dict[str, int] = {}

    def add_request(self, req_index: int, new_req_data: Any) -> None:
        """A request enters the batch, or comes back."""
        super().add_request(req_index, new_req_data)
        params = new_req_data.sampling_params
        self.tables.remove_request(new_req_data.req_id)  # a resumed request comes back through here
        slot = self.tables.add_request(new_req_data.req_id, params.extra_args if params is not None else None)
        self.slot_of_index[req_index] = slot
        self.index_of_request[new_req_data.req_id] = req_index

    def remove_request(self, req_id: str) -> None:
        """A request leaves the batch."""
        self.tables.remove_request(req_id)
        index = self.index_of_request.pop(req_id, None)
        if index is not None:  # a dummy step, which is made of the first indices, must not find it
            self.slot_of_index[index] = 0
        super().remove_request(req_id)

    def prepare_inputs(self, input_batch: Any, req_states: Any) -> Any:
        """Before each real step."""
        n_requests = input_batch.num_reqs
        slots = self.slot_of_index[input_batch.idx_mapping_np[:n_requests]]
        self.tables.write_tokens(slots, input_batch.num_scheduled_tokens[:n_requests])
        return super().prepare_inputs(input_batch, req_states)

    def prepare_dummy_inputs(self, num_reqs: int, num_tokens: int) -> Any:
        """Before each dummy step."""
        self.tables.clear_tokens()
        return super().prepare_dummy_inputs(num_reqs, num_tokens)
