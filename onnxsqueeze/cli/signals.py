"""What a run does when it is told to end: nothing is left behind, and one line is said. Imports nothing heavy."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

INTERRUPTED = 130
MESSAGE = "interrupted; nothing is left half written"
_ENDING = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)
)  # no SIGHUP on Windows
_AGAIN = 0.05  # seconds after which a signal comes again that ended in a place from where nothing can be raised


def _words(number: int) -> str:
    return MESSAGE if number == signal.SIGINT else f"ended by {signal.Signals(number).name}; {MESSAGE}"


class Ended(BaseException):
    """The process was told to end; no `Exception`, so that nothing takes it for a failure of its own.

    Attributes:
        code: the exit code, that of a process which the signal ends.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.code = 128 + number

    def __str__(self) -> str:
        return _words(self.code - 128)


def end_quietly() -> None:
    """Let every signal end the process with one line while it still imports what it needs, and has nothing open."""

    def end(number: int, frame: Any) -> NoReturn:
        os.write(2, f"onnxsqueeze: error: {_words(number)}\n".encode())
        os._exit(128 + number)

    for number in (signal.SIGINT, *_ENDING):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, end)


@contextmanager
def raised() -> Iterator[None]:
    """Let signals raise an exception wherever the process is, which puts everything back on its way out.

    That is `Ended`, within `interruptible` KeyboardInterrupt for Ctrl-C. They can come where nothing can be raised, as
    in a callback of a library: they are sent once more then.
    """
    if threading.current_thread() is not threading.main_thread():  # where no handler can be set
        yield
        return

    ended: list[int] = []

    def end(number: int, frame: Any) -> NoReturn:
        for other in _ENDING:  # the next one must not interrupt what puts things back, nor the exit
            signal.signal(other, signal.SIG_IGN)
        ended.append(number)
        raise Ended(number)

    def again(lost: Any) -> None:
        number = lost.exc_value.args[0] if isinstance(lost.exc_value, Ended) else signal.SIGINT
        if isinstance(lost.exc_value, (Ended, KeyboardInterrupt)):
            for one in set(handlers) & {number}:
                signal.signal(one, handlers[one])
            threading.Timer(_AGAIN, os.kill, (os.getpid(), number)).start()
        else:
            hook(lost)

    wanted = (signal.SIGINT, *_ENDING)
    handlers = {number: end for number in wanted if signal.getsignal(number) is not signal.SIG_IGN}
    before = {number: signal.signal(number, do) for number, do in handlers.items()}
    hook, sys.unraisablehook = sys.unraisablehook, again
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, former in before.items():
            if not ended:
                signal.signal(number, former)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C raise what Python's own raises, which a command may catch. (click would print a line of its own.)"""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
