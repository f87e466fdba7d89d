"""The door: one inside at a time, in the order of asking, nobody once it is closed, and nobody left waiting."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from typing import Any

import pytest

from idemtable import InProgressError, RetryTransactionError
from idemtable.claim.door import Door
from tests.support.crowd import until


def entered(door: Door, wait: float = 5) -> Any:
    turn = door.enter(wait, "scope")
    assert turn is not None
    return turn


def beside(work: Any) -> tuple[threading.Thread, list[Any]]:
    """Run in a thread; its answer or its error."""
    answers: list[Any] = []

    def run() -> None:
        try:
            answers.append(work())
        except BaseException as error:
            answers.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, answers


def test_a_turn_follows_the_other_in_the_order_of_asking() -> None:
    door = Door()
    order: list[int] = []
    first = entered(door)
    threads = []
    for number in range(5):

        def come(number: int = number) -> None:
            with entered(door):
                order.append(number)

        threads.append(beside(come)[0])
        until(lambda number=number: len(door._queue) == number + 1, "nobody comes to the door")
    assert order == []
    first.end()
    for thread in threads:
        thread.join(10)
    assert order == [0, 1, 2, 3, 4]
    assert not door.is_occupied


def test_a_turn_that_does_not_come_is_an_error_and_is_not_given_later() -> None:
    door = Door()
    with entered(door):
        with pytest.raises(InProgressError, match="still at work"):
            door.enter(0, "scope")
        with pytest.raises(InProgressError):
            asyncio.run(door.aenter(0.01, "scope"))
        assert not door._queue
    assert not door.is_occupied


def test_who_waits_when_it_is_closed_is_sent_away_and_who_comes_later_hears_so_at_once() -> None:
    door = Door()
    turn = entered(door)
    thread, answers = beside(lambda: door.enter(10, "scope"))
    until(lambda: door._queue, "nobody comes to the door")
    closing, _ = beside(lambda: door.shut(10))
    thread.join(10)
    assert isinstance(answers[0], RetryTransactionError)
    assert door.enter(10, "scope") is None
    assert asyncio.run(door.aenter(10, "scope")) is None
    assert closing.is_alive()
    turn.end()
    closing.join(10)
    assert not closing.is_alive()


def test_shutting_waits_at_most_so_long() -> None:
    door = Door()
    entered(door)
    door.shut(0.01)
    assert door.is_occupied
    assert not door.is_open
    asyncio.run(door.ashut(0.01))


def test_a_task_that_is_cancelled_while_it_waits_passes_its_turn_on() -> None:
    async def main() -> None:
        door = Door()
        turn = await door.aenter(1, "scope")
        assert turn is not None
        tasks = [asyncio.create_task(door.aenter(5, "scope")) for _ in range(2)]
        await asyncio.sleep(0)
        turn.end()  # the first one's turn has come, and it has not run since
        tasks[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]
        second = await tasks[1]
        assert second is not None
        second.end()
        assert not door.is_occupied

    asyncio.run(main())


def test_threads_and_tasks_of_several_loops_stand_in_one_queue() -> None:
    door = Door()
    inside = [0]
    most = [0]

    def one() -> None:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0)
        inside[0] -= 1

    def thread(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(50):
            try:
                turn = door.enter(chance.choice([0, 0.001, 5]), "scope")
            except InProgressError:
                continue
            assert turn is not None
            with turn:
                one()

    async def task(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(50):
            waiting = asyncio.ensure_future(door.aenter(chance.choice([0, 0.001, 5]), "scope"))
            if chance.random() < 0.3:
                await asyncio.sleep(0)
                waiting.cancel()
            try:
                turn = await waiting
            except (InProgressError, asyncio.CancelledError):
                if waiting.done() and not waiting.cancelled() and waiting.exception() is None:
                    found = waiting.result()
                    assert found is None
                continue
            assert turn is not None
            with turn:
                one()

    async def tasks(seed: int) -> None:
        await asyncio.gather(*(task(seed * 10 + number) for number in range(4)))

    threads = [beside(lambda seed=seed: thread(seed)) for seed in range(4)]
    threads += [beside(lambda seed=seed: asyncio.run(tasks(seed))) for seed in range(4, 7)]
    for runner, answers in threads:
        runner.join(60)
        assert answers == [None]
    assert most[0] == 1
    assert (door.is_occupied, len(door._queue)) == (False, 0)
