"""Judge cases in several processes, of which each may die without taking more than its case with it."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue

from .cases import load_cases
from .judging import BEFORE, Outcome, judge

PATIENCE = 120
"""Seconds until a stage counts as hanging; the slowest takes some seconds."""

Task = tuple[str, str]
"""A case's key and a variant."""


def judge_all(tasks: Iterable[Task], workers: int = 2) -> Iterator[Outcome]:
    """Yield an outcome for each task, worker by worker; they are begun in the order given."""
    queue = _queue(tasks)
    with ThreadPoolExecutor(workers) as threads:
        for future in [threads.submit(lambda: _drain(queue, _Worker())) for _ in range(workers)]:
            yield from future.result()


def judge_chosen(choose: Callable[[list[str]], Iterable[Task]]) -> Sequence[Outcome]:
    """Return an outcome for each task that is chosen from the keys of all cases, which one worker alone loads."""
    worker = _Worker()
    return _drain(_queue(choose(worker.keys())), worker)


def _queue(tasks: Iterable[Task]) -> SimpleQueue[Task]:
    queue: SimpleQueue[Task] = SimpleQueue()
    for task in tasks:
        queue.put(task)
    return queue


def _drain(queue: SimpleQueue[Task], worker: _Worker) -> Sequence[Outcome]:
    outcomes = []
    try:
        while True:
            outcomes.append(worker.judge(queue.get_nowait()))
    except Empty:
        return outcomes
    finally:
        worker.stop()


class _Worker:
    """A process that judges one task at a time, and is replaced when it dies."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # onnxruntime does not survive a fork
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def keys(self) -> list[str]:
        """Return the keys of all cases."""
        self._connection.send(None)
        found: list[str] = self._connection.recv()
        return found

    def judge(self, task: Task) -> Outcome:
        """Judge a task; a process that dies or hangs is a crash, but for what onnxruntime does to the original."""
        self._connection.send(task)
        stage = BEFORE
        try:
            while self._connection.poll(PATIENCE):
                message = self._connection.recv()
                if isinstance(message, Outcome):
                    return message
                if isinstance(message, Exception):
                    raise RuntimeError(f"the harness failed on {task}") from message
                stage = message
            return self._replace(task, stage, f"no end after {PATIENCE} s")
        except (EOFError, ConnectionError):
            self._process.join()
            return self._replace(task, stage, f"the process died with exit code {self._process.exitcode}")

    def _replace(self, task: Task, stage: str, message: str) -> Outcome:
        self.stop()
        self._start()
        failure = "" if stage == BEFORE else "crashed"
        return Outcome(*task, failure=failure, message=f"{message} (stage: {stage})")

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self._connection.close()


def _serve(connection: Connection) -> None:
    """Judge what comes until nothing more does; None asks for the keys of all cases."""
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        if task is None:
            connection.send(list(load_cases()))
            continue
        key, variant = task
        try:
            connection.send(judge(key, variant, connection.send))
        except Exception as error:  # of the harness itself, for the failures of a case are outcomes
            connection.send(RuntimeError("".join(traceback.format_exception(error))))
