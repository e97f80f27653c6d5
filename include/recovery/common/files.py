"""Files and folders that tasks share: written atomically, read as records, locked."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from recovery.common.errors import StagingError
from recovery.common.json_text import read_json
from recovery.common.units import human_size

log = logging.getLogger(__name__)
Record = TypeVar("Record", bound=BaseModel)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all, also after a power cut.

    Raises:
        StagingError: if its folder is full.
    """
    partial = path.with_name(f"{path.name}.partial")
    with written_in(path.parent):
        with partial.open("wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        partial.rename(path)
        fsync_folder(path.parent)


def fsync_folder(folder: Path) -> None:
    """Make sure that a folder's entries survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_record(path: Path, record: BaseModel) -> None:
    """Write a record as JSON, atomically."""
    write_atomically(path, record.model_dump_json(indent=1).encode())


def read_record(path: Path, kind: type[Record]) -> Record:
    """Read a record.

    Raises:
        StagingError: if it is not there or is not one, with what the staging folder must be.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise StagingError(
            f"{path} is not there on the worker {socket.gethostname()}, though an earlier task of this run wrote it.",
            "Let this worker mount the staging folder that all workers of the plan share; if somebody emptied it, start a new run.",
        ) from None
    except ValidationError as error:
        raise StagingError(f"{path} is damaged: {error.error_count()} fields are not as written.", "Start a new run.") from error


def read_lists(path: Path, kind: str) -> Iterator[list[Any]]:
    """The rest of each list that begins with a kind, of a file with a list as JSON on each line; nothing if there is no file.

    Raises:
        StagingError: if a line is no list.
    """
    if not path.exists():
        return
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                what, *rest = read_json(line)
            except (ValueError, TypeError) as error:
                why = f"Line {number} of {path} is not what was written there ({error})."
                raise StagingError(why, "Find out who can write to the staging folder, and compare the live data with the set.") from None
            if what == kind:
                yield rest


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock among all workers that share the folder, and wait for it.

    The lock belongs to the process: a killed one lets go of it.
    """
    make_private(path.parent)
    with written_in(path.parent):
        lock = path.open("ab")
    with lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        yield


def is_locked(path: Path) -> bool:
    """Whether another process holds a lock, as far as this moment tells. If this process held it, it would lose it here."""
    try:
        lock = path.open("r+b")
    except FileNotFoundError:
        return False
    with lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in {errno.EACCES, errno.EAGAIN}:
                raise
            return True
    return False


def make_private(folder: Path) -> None:
    """Make a folder, and those above it that are missing, for this user alone: dumps hold everything."""
    for missing in reversed([each for each in (folder, *folder.parents) if not each.exists()]):
        with written_in(missing.parent):
            missing.mkdir(mode=0o700, exist_ok=True)


def empty_folder(folder: Path) -> Path:
    """Make a folder for this user alone, empty whatever an earlier attempt left there; the folder."""
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)
    folder.mkdir(mode=0o700, parents=True)
    return folder


def check_space(folder: Path, needed: int, what: str) -> None:
    """Refuse to begin what can't end.

    Raises:
        StagingError: if a folder has less free space than ``needed`` bytes.
    """
    free = shutil.disk_usage(folder).free
    log.info("%s needs about %s in %s, %s are free", what, human_size(needed), folder, human_size(free))
    if free < needed:
        raise StagingError(
            f"{folder} has {human_size(free)} free, but {what} needs about {human_size(needed)}.",
            "Free some space there, or give the plan a larger staging folder.",
        )


@contextmanager
def written_in(folder: Path) -> Iterator[None]:
    """Say in words that a folder of staging is full, or lets nothing be written.

    Raises:
        StagingError: in place of such an operating system's error.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EROFS}:
            raise
        raise StagingError(
            f"{folder} can't be written: {error.strerror}.",
            "Free some space there, or give the plan a larger staging folder; then clear this task.",
        ) from error


def folder_size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
