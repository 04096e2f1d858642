"""Hidden files beside what a run writes: they take its place when they are whole, and no run leaves one behind.

One that is killed outright cannot help it. A later run that writes into the same folder removes what such a run left
there: by its name, if it is old and no run that lives holds it.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # on Windows, where nobody can remove a file that is open
    fcntl = None  # type: ignore[assignment]

_NAME = re.compile(r"\.onnxsqueeze-[0-9a-f]{16}\.tmp")
_OLD = 24 * 3600  # seconds since it was last written to: longer than any run takes


def temporary_beside(target: Path) -> Path:
    """Return a name that nothing has, in the folder of a target, and remove what killed runs left in that folder."""
    sweep(target.parent)
    return target.with_name(f".onnxsqueeze-{secrets.token_hex(8)}.tmp")


@contextmanager
def replacing(target: Path) -> Iterator[BinaryIO]:
    """Give a hidden file beside the target, which takes the target's place once all is written and on the disk."""
    with temporary_file(target) as file:
        if target.exists():
            os.chmod(file.name, stat.S_IMODE(target.stat().st_mode))
        yield file
        put_on_disk(file)
        os.replace(file.name, target)
    sync_folder(target.parent)


@contextmanager
def temporary_file(target: Path) -> Iterator[BinaryIO]:
    """Give a hidden file beside the target, which is gone afterwards, unless it was given another name.

    Its mode is that of open(): what the umask leaves of 0o666.
    """
    temporary = temporary_beside(target)
    try:
        with open(temporary, "xb") as file:
            hold(file.fileno())
            yield file
    finally:
        remove(temporary)


def put_on_disk(file: BinaryIO) -> None:
    """Write what is still in memory, and close the file, since Windows renames none that is open."""
    file.flush()
    os.fsync(file.fileno())
    file.close()


def remove(path: Path) -> None:
    """Remove a file if it is there."""
    with suppress(OSError):
        path.unlink()


def hold(descriptor: int) -> bool:
    """Show other runs that a file or folder is in use, for as long as it is open; False if it is by another one."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system that knows no locks: its age has to do
        return True
    return True


def sweep(folder: Path) -> None:
    """Remove what killed runs of this user left in a folder, and nothing else."""
    with suppress(OSError):
        for entry in list(os.scandir(folder)):
            if _NAME.fullmatch(entry.name):
                with suppress(OSError):
                    _remove_if_left(Path(entry.path))


def _remove_if_left(path: Path) -> None:
    status = path.lstat()
    is_folder = stat.S_ISDIR(status.st_mode)
    if not (is_folder or stat.S_ISREG(status.st_mode)) or status.st_uid != getattr(os, "getuid", lambda: 0)():
        return
    ages = [time.time() - entry.lstat().st_mtime for entry in [path, *(path.rglob("*") if is_folder else ())]]
    if min(ages) < _OLD:
        return
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    try:
        if not hold(descriptor):
            return
        if is_folder:
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Put the folder's new entry on the disk, where the system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
