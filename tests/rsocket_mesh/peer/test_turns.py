"""Handlers that share a task until one of them waits, and never notice."""

import asyncio
from contextvars import ContextVar

import pytest

from rsocket_mesh.peer.turns import Turns
from tests.support.waiting import settled, until

SEEN = ContextVar("SEEN", default=())


class Job:
    """One that is run for; the test says what it does and reads what became of it."""

    def __init__(self, name):
        self.name = name
        self.task = None
        self.ended = False


class Played:
    """Turns that run functions of the test, `await handler(job)`."""

    def __init__(self):
        self.began = []
        self.tasks = []
        self.turns = Turns(asyncio.get_running_loop(), self.work)

    async def work(self, job, handler):
        self.began.append(job.name)
        self.tasks.append(asyncio.current_task())
        try:
            await handler(job)
        finally:
            job.ended = True

    def put(self, *handlers):
        jobs = [Job(number) for number in range(len(handlers))]
        for job, handler in zip(jobs, handlers, strict=True):
            self.turns.put(job, handler)
        return jobs


@pytest.fixture
async def played():
    return Played()


async def quick(job):
    pass


def waiting(gate):
    async def wait(job):
        await gate.wait()

    return wait


async def test_handlers_that_do_not_wait_share_a_task_and_begin_in_order(played):
    jobs = played.put(quick, quick, quick)
    assert played.began == []  # not in the turn that received them
    await asyncio.sleep(0)
    assert played.began == [0, 1, 2]
    assert len(set(played.tasks)) == 1
    assert all(job.ended and job.task is played.tasks[0] for job in jobs)


async def test_what_comes_later_begins_with_a_task_again(played):
    played.put(quick)
    await settled()
    (job,) = played.put(quick)
    await asyncio.sleep(0)
    assert job.ended


async def test_a_handler_that_waits_has_its_task_alone_and_holds_up_nobody(played):
    gate = asyncio.Event()
    jobs = played.put(quick, waiting(gate), quick, waiting(gate))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert played.began == [0, 1, 2, 3]
    assert jobs[2].ended
    assert len({job.task for job in jobs[1:]}) == 3
    (later,) = played.put(quick)
    await settled()
    assert later.ended
    assert later.task not in {job.task for job in jobs}
    gate.set()
    await settled()
    assert all(job.ended for job in jobs)
    assert all(job.task.done() for job in jobs)


async def test_a_task_that_was_cancelled_before_it_began_takes_no_request_along(played):
    first = played.put(quick, quick)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await settled()
    assert played.began == []
    (second,) = played.put(quick)
    await settled()
    assert played.began == [0, 1, 0]
    assert all(job.ended for job in (*first, second))


async def test_when_it_is_over_nothing_begins_and_what_has_begun_goes_on(played):
    gate = asyncio.Event()
    jobs = played.put(waiting(gate))
    await settled()
    played.put(quick, quick)
    played.turns.close()
    played.turns.put(Job("late"), quick)
    await settled()
    assert played.began == [0]
    gate.set()
    await settled()
    assert jobs[0].ended


async def test_cancelling_one_that_waits_cancels_no_other(played):
    gate = asyncio.Event()
    jobs = played.put(waiting(gate), waiting(gate), quick)
    await settled()
    jobs[0].task.cancel()
    await settled()
    assert [job.ended for job in jobs] == [True, False, True]
    assert jobs[0].task.cancelled()
    gate.set()
    await settled()
    assert jobs[1].ended
    assert not jobs[1].task.cancelled()


async def test_a_handler_may_refuse_to_be_cancelled_and_go_on(played):
    gate = asyncio.Event()

    async def stubborn(job):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await gate.wait()

    (job,) = played.put(stubborn)
    await settled()
    job.task.cancel()
    await settled()
    assert not job.ended
    gate.set()
    await settled()
    assert job.ended


@pytest.mark.parametrize("error", [asyncio.CancelledError, ZeroDivisionError])
async def test_an_exception_of_one_takes_no_other_along(played, error):
    async def fail(job):
        raise error

    jobs = played.put(quick, fail, quick)
    await settled()
    assert all(job.ended for job in jobs)
    assert jobs[2].task is not jobs[1].task
    if error is ZeroDivisionError:
        assert type(jobs[1].task.exception()) is error
    else:
        assert jobs[1].task.cancelled()


async def test_one_that_cancels_its_own_task_in_passing_cancels_no_other(played):
    async def cancel_self(job):
        asyncio.current_task().cancel()

    jobs = played.put(cancel_self, quick, quick)
    await settled()
    assert all(job.ended for job in jobs)
    assert jobs[1].task is not jobs[0].task


async def test_context_variables_are_kept_over_waits_and_seen_by_no_other(played):
    seen = {}

    async def mark(job):
        seen[job.name] = [SEEN.get()]
        SEEN.set((job.name,))
        if job.name >= 2:  # the first two share a task
            await asyncio.sleep(0)
            await asyncio.create_task(child(job))
        seen[job.name].append(SEEN.get())

    async def child(job):
        assert SEEN.get() == (job.name,)

    played.put(mark, mark, mark, mark)
    await settled()
    assert seen == {name: [(), (name,)] for name in range(4)}
    assert SEEN.get() == ()


async def test_a_time_out_that_begins_in_the_first_step_ends_the_right_handler(played):
    gate = asyncio.Event()
    outcome = []

    async def impatient(job):
        try:
            async with asyncio.timeout(0.01):
                await gate.wait()
        except TimeoutError:
            outcome.append(job.name)
            await asyncio.sleep(0)

    async def patient(job):
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0.02))

    jobs = played.put(quick, impatient, patient, quick)
    await until(lambda: all(job.ended for job in jobs), "all of them to end")
    assert outcome == [1]
    assert not jobs[2].task.cancelled()
