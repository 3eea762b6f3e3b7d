"""Writing the slots of a step to a device: two sources in turn, each reused only when its last copy is done."""

import numpy as np
import pytest
import torch

from vllm_refusal.edit.staging import StagedTensor


class LoggedEvent:
    """Stands for a CUDA event: notes when it was recorded and waited for."""

    made: list["LoggedEvent"]
    log: list[tuple[str, int]]

    def __init__(self):
        self.number = len(self.made)
        self.made.append(self)

    def record(self):
        self.log.append(("record", self.number))

    def synchronize(self):
        self.log.append(("wait", self.number))


@pytest.fixture
def event_class():
    return type("Event", (LoggedEvent,), {"made": [], "log": []})


@pytest.mark.parametrize("on_device", [False, True])
def test_the_head_is_what_was_written_last_and_the_rest_is_zero(event_class, on_device):
    target = torch.zeros(8, dtype=torch.int64)
    staged = StagedTensor(target, event_class if on_device else None)
    address = target.data_ptr()
    for values in ([1, 2, 3, 4, 5], [6, 7], [], [8, 9, 10], [11]):
        staged.write(np.array(values, dtype=np.int64))
        assert target.tolist() == values + [0] * (8 - len(values))
    assert target.data_ptr() == address and staged.target is target


def test_a_source_is_written_only_after_its_own_last_copy(event_class):
    staged = StagedTensor(torch.zeros(4, dtype=torch.int64), event_class)
    for value in range(4):
        staged.write(np.array([value]))
    waits = [number for what, number in event_class.log if what == "wait"]
    assert waits in ([1, 0, 1, 0], [0, 1, 0, 1])  # in turn: never for the copy just issued
    assert event_class.log == [(what, number) for number in waits for what in ("wait", "record")]


def test_the_source_of_the_copy_in_flight_keeps_its_numbers(event_class):
    """A copy that has not run yet reads its source later: the next write must not have changed it."""
    staged = StagedTensor(torch.zeros(4, dtype=torch.int64), event_class)
    staged.write(np.array([1, 2, 3]))
    in_flight = staged._sources[staged._turn]
    staged.write(np.array([7]))
    assert in_flight[:3].tolist() == [1, 2, 3]
    staged.write(np.array([8]))
    assert in_flight[:1].tolist() == [8]  # two steps later it is reused


def test_without_events_one_source_is_enough():
    assert len(StagedTensor(torch.zeros(4, dtype=torch.int64))._sources) == 1
