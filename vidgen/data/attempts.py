"""Many files through decoding processes, and what was disturbed once more, alone.

    results, refused = each(range(len(source)), job, limits=limits, workers=2)

A failure is the file's (`Unreadable`: it is refused, by name) or may be of the moment (`Disturbed`:
the process was killed, the disk did not answer). What is of the moment never counts as the file's.
"""

import concurrent.futures
import contextlib
import functools
import queue
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from vidgen.data.limits import Limits
from vidgen.data.workers import Disturbed, Worker
from vidgen.errors import DataError
from vidgen.video.decoding import Unreadable

Result = TypeVar("Result")
HELP = (
    "the machine is at fault, not the file: run it again when less else runs there; if it stays, "
    "raise data.limits.seconds (for files that are slow to read), give the machine more memory, or "
    "leave this file out"
)


def each(
    order: Sequence[int],
    job: Callable[[int, Worker, int], Result],
    *,
    limits: Limits,
    workers: int,
    name: Callable[[int], str] = str,
    refuse: Callable[[int, str], None] = lambda number, why: None,
    progress: Callable[[int, int, str], None] | None = None,
    text: str = "",
) -> tuple[dict[int, Result], dict[int, str]]:
    """Runs a job for each number, on several processes at a time.

    What is disturbed is done again after the others, alone, each in a fresh process. A file that
    crashes its process there, too, is refused; whatever else stays ends all.

    Args:
      order: The numbers.
      job: Called in a thread as `job(slot, worker, number)`, where no two calls share a slot at a
        time; raises Unreadable for a clip of no use, and Disturbed for one to be done again.
      limits: For the workers.
      workers: How many; slots are below this.
      name: Returns what a person calls a number.
      refuse: Called in a thread with the number and the reason of an Unreadable, at once; may
        raise, which ends all.
      progress: Called in this thread with (done, total, text), twice a second at least.
      text: What the progress says.

    Returns:
      What the job returned, and the reasons of those that were refused, both by number.

    Raises:
      DataError: The machine was at fault, and was again when nothing else was decoded.
      Whatever `job`, `refuse` or `progress` raises, once all threads and processes have ended.
    """
    results: dict[int, Result] = {}
    refused: dict[int, str] = {}
    disturbed: dict[int, Disturbed] = {}
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in order:
        todo.put(number)
    stop = threading.Event()

    def alive() -> None:
        if progress is not None:
            progress(len(results) + len(refused), len(order), text)

    def work(slot: int, worker: Worker) -> None:
        while not stop.is_set():
            try:
                number = todo.get_nowait()
            except queue.Empty:
                return
            try:
                results[number] = job(slot, worker, number)
            except Disturbed as error:
                if not stop.is_set():  # else it was ended from here, and is no worse than others
                    disturbed[number] = error
            except Unreadable as error:
                refused[number] = str(error)
                refuse(number, str(error))

    with contextlib.ExitStack() as stack:
        count = max(1, min(workers, len(order)))
        pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(count))
        helpers = [stack.enter_context(Worker(limits)) for _ in range(count)]
        stack.callback(stop.set)  # leaving: first the flag, then the processes, then the threads
        pending = {pool.submit(work, slot, helper) for slot, helper in enumerate(helpers)}
        while pending:
            done, pending = concurrent.futures.wait(
                pending, timeout=0.4, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for future in done:
                future.result()
            alive()
    for number, first in sorted(disturbed.items()):
        try:
            alone = functools.partial(_in_slot, job, number)
            results[number] = _again(alone, limits, first, alive)
        except Unreadable as error:
            refused[number] = str(error)
            refuse(number, str(error))
        except Disturbed as error:
            raise DataError(f"{name(number)}: {error}, again when tried alone", HELP) from None
        alive()
    return results, refused


def _in_slot(job: Callable[[int, Worker, int], Result], number: int, worker: Worker) -> Result:
    return job(0, worker, number)


def watched(
    job: Callable[[Worker], Result], limits: Limits, alive: Callable[[], None] = lambda: None
) -> Result:
    """Runs a job in a thread, with a fresh process.

    Args:
      job: Gets the process.
      limits: Of the process.
      alive: Called in this thread twice a second at least; what it raises ends the job.

    Raises:
      Whatever `job` or `alive` raises.
    """
    pool = concurrent.futures.ThreadPoolExecutor(1)
    with pool, Worker(limits) as worker:  # leaving: first the process ends, then the thread
        future = pool.submit(job, worker)
        while not concurrent.futures.wait([future], timeout=0.4).done:
            alive()
        return future.result()


def once_more(job: Callable[[Worker], Result], worker: Worker, name: str) -> Result:
    """Returns what a job returns, which is done again, in a fresh process, where it is disturbed.

    Raises:
      Unreadable: As the job does; or it crashed its process each time.
      DataError: The machine was at fault each time.
    """
    try:
        return job(worker)
    except Disturbed as first:
        try:
            return _again(job, worker.limits, first)
        except Disturbed as error:
            raise DataError(f"{name}: {error}, again when tried again", HELP) from None


def _again(
    job: Callable[[Worker], Result],
    limits: Limits,
    last: Disturbed,
    alive: Callable[[], None] = lambda: None,
) -> Result:
    """Does a job again, in a fresh process each time; see `watched`.

    Raises:
      Unreadable: As the job does; or it crashed its process twice in a row.
      Disturbed: It was disturbed otherwise.
    """
    for _ in range(2):  # the second time where a crash follows what was none
        try:
            return watched(job, limits, alive)
        except Disturbed as error:
            if error.crash and last.crash:
                raise Unreadable(str(error)) from None
            last = error
        if not last.crash:
            break
    raise last
