"""A folder of files that is there whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from onnxsqueeze.deployment.manifest import MANIFEST, listed_files
from onnxsqueeze.errors import SqueezeError, UsageError, one_line
from onnxsqueeze.model.files import InputFiles
from onnxsqueeze.model.temporary import hold, temporary_beside

_WRONG_PATH = {errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP}


def usable_folder(path: Path, read: InputFiles, force: bool) -> Path:
    """Return the folder that a path means, links followed, before any work is done for it.

    Args:
        path: where a deployment is to go.
        read: what the deployment reads: none of it may lie in what is replaced.
        force: whether an earlier deployment may be replaced.

    Raises:
        UsageError: when something stands there that must not be replaced, or the folder around it does not exist.
    """
    if str(path) == "-":
        raise UsageError("-o - is refused: a deployment is a folder; give its name")
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise UsageError(f"{path}: the folder {target.parent} does not exist; create it or choose another folder")
    if not os.path.lexists(target):
        return target
    if not target.is_dir():
        raise UsageError(f"{path} is a file; give the name of a folder")
    if not force:
        raise UsageError(f"{path} exists; choose another folder, or replace an earlier deployment with --force")
    _check_replaceable(path, target, read)
    return target


def _check_replaceable(path: Path, target: Path, read: InputFiles) -> None:
    """Refuse to replace a folder that holds anything but what an earlier deployment has written."""
    listed = listed_files(target)
    if listed is None:
        raise UsageError(f"{path} holds no {MANIFEST} of a deployment, so it is not replaced; choose another folder")
    if inside := read.within(target):
        raise UsageError(f"{inside} lies in {path}, which would be replaced; choose another folder")
    found = {str(entry.relative_to(target)) for entry in target.rglob("*") if entry.is_symlink() or not entry.is_dir()}
    if foreign := sorted(found - listed - {MANIFEST}):
        raise UsageError(f"{path} holds '{foreign[0]}', which no deployment has written, so it is not replaced")


@contextmanager
def appearing_folder(target: Path) -> Iterator[Path]:
    """Give a hidden folder beside the target, which takes the target's place once it is whole and on the disk.

    An error or an interruption removes it, and the target is as it was. Errors name the target, not the hidden folder.

    Raises:
        UsageError: when a folder cannot be made there.
        SqueezeError: when the writing fails, as on a full disk.
    """
    hidden = temporary_beside(target)
    try:
        os.mkdir(hidden)  # not of tempfile, whose folders nobody else may read
        with _held(hidden):
            yield hidden
        _put_on_disk(hidden)
        _take_place(hidden, target)
    except OSError as error:
        failure = f"{target}: cannot be written: {one_line(error)}"
        kind = UsageError if error.errno in _WRONG_PATH else SqueezeError
        raise kind(f"{failure}; free some space or choose another folder") from None
    except SqueezeError as error:
        error.args = tuple(_renamed(value, hidden, target) for value in error.args)
        raise
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _renamed(value: object, hidden: Path, target: Path) -> object:
    return value.replace(str(hidden), str(target)) if isinstance(value, str) else value


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Show other runs that a folder is in use."""
    if os.name != "posix":  # where a folder cannot be opened
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        hold(descriptor)
        yield
    finally:
        os.close(descriptor)


def _put_on_disk(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        with suppress(OSError) if path.is_dir() else nullcontext():  # some systems cannot sync a folder
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _take_place(folder: Path, target: Path) -> None:
    """Rename a folder; what it replaces is moved aside first and comes back if that fails."""
    if not target.exists():
        os.rename(folder, target)
        return
    former = target.with_name(f".onnxsqueeze-{secrets.token_hex(8)}.former")  # which no later run would remove
    os.rename(target, former)
    try:
        os.rename(folder, target)
    except BaseException:
        os.rename(former, target)
        raise
    shutil.rmtree(former, ignore_errors=True)
