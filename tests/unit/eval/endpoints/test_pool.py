"""The pool without a wire: what becomes of requests that wait while replicas are out, and of trials that are broken off."""

import asyncio

import pytest

from eval.endpoints.pool import NoneLeft, Pool
from eval.endpoints.replica import Fault, Replica


def replica(**settings):
    settings = {"concurrency": (1, 1), "out_after": 1, "cooldown": 0.01, "longest_out": 0.01, **settings}
    return Replica("http://h/v1", **settings)


async def dead(_):
    raise Fault("dead")


async def dead_late(_):
    await asyncio.sleep(0.3)
    raise Fault("dead")


async def well(_):
    return "answer"


def test_every_request_that_waits_is_told_when_no_replica_is_left_and_of_the_replica_once():
    told = []

    async def scenario():
        one = replica(grace=0.05, concurrency=(2, 2))
        pool = Pool([one], readmit=dead, gone=lambda one, fault: told.append(str(fault)), backoff=0.01)
        return await asyncio.gather(*(pool.ask(send) for send in (dead_late, dead, dead)), return_exceptions=True)

    assert [type(found) for found in asyncio.run(scenario())] == [NoneLeft] * 3
    assert told == ["dead"]


def test_a_replica_is_asked_if_it_is_back_before_any_request_goes_there():
    order = []

    async def readmit(_):
        order.append("asked")
        if len(order) < 4:
            raise Fault("not yet")

    async def send(_):
        order.append("sent")
        if len(order) == 1:
            raise Fault("fails")
        return "answer"

    async def scenario():
        pool = Pool([replica()], readmit=readmit, max_attempts=2, backoff=0.0)  # what is only asked is no attempt
        return await asyncio.gather(pool.ask(send), pool.ask(send))

    assert asyncio.run(scenario()) == ["answer", "answer"]
    assert order == ["sent", "asked", "asked", "asked", "sent", "sent"]


@pytest.mark.parametrize("readmit", [None, "hangs"])
def test_a_trial_that_is_broken_off_leaves_the_way_free_for_the_next(readmit):
    hangs = [True]

    async def hang(_):
        if hangs[0]:
            await asyncio.sleep(30)
        return "answer"

    async def scenario():
        one = replica()
        pool = Pool([one], readmit=hang if readmit else None, max_attempts=1)
        with pytest.raises(Fault, match="dead"):
            await pool.ask(dead)
        await asyncio.sleep(0.02)
        trial = asyncio.create_task(pool.ask(hang))
        await asyncio.sleep(0.01)
        assert one.is_out and not one.admits(1e12)
        trial.cancel()
        await asyncio.wait([trial])
        hangs[0] = False
        return await asyncio.wait_for(pool.ask(well), 5)

    assert asyncio.run(scenario()) == "answer"
