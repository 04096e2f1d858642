"""A graph checked in a process of its own: a runtime that dies, or a run that does not end, costs one verdict."""

from __future__ import annotations

import os
from collections.abc import Collection
from multiprocessing import get_context
from multiprocessing.connection import Connection

from tools.fuzz.checking import NAMES, RUNNING, Verdict, judged

_LONGEST = 300  # seconds between two steps, on a machine that others use too
_FORKING = get_context("fork")  # what is imported is there; nothing here has run a session, whose threads would be lost


def judged_apart(seed: int, names: Collection[str] = NAMES) -> list[Verdict]:
    """Check one graph in some variations; one that kills the process is a verdict too, and the others go on."""
    left, verdicts = [name for name in NAMES if name in names], []
    while left:
        found, died = _judged(seed, left)
        verdicts += found
        left = left[len(found) :]
        if died and left:
            own = died.startswith(RUNNING)
            verdicts.append(Verdict(seed, left.pop(0), "" if own else died, compared=False))
    return verdicts


def _judged(seed: int, names: list[str]) -> tuple[list[Verdict], str]:
    """Return the verdicts that a process of its own came to, and how it died, if it did."""
    receiver, sender = _FORKING.Pipe(duplex=False)
    process = _FORKING.Process(target=_judge, args=(seed, names, sender))
    process.start()
    sender.close()
    found: list[Verdict] = []
    step = "starting"
    try:
        while receiver.poll(_LONGEST):
            said = receiver.recv()
            if isinstance(said, str):
                step = said
            else:
                found.append(said)
            if len(found) == len(names):
                return found, ""
        return found, f"{step}: not done after {_LONGEST} seconds"
    except EOFError:
        process.join()
        return found, f"{step}: the process died, exit code {process.exitcode}"
    finally:
        process.kill()
        process.join()
        receiver.close()


def _judge(seed: int, names: list[str], sender: Connection) -> None:
    """Run in the other process: tell each step, and each verdict as soon as it stands."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what runtimes log
    judged(seed, names, sender.send)
