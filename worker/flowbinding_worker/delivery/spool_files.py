"""The files of a spool. Everything here blocks: call it from a thread.

Records that are stored together become one file, written under another name, synced and renamed:
a file is there as a whole or not at all. What became of its records is appended to the same file,
so that each file can be deleted by itself, in any order, once all its records are settled.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from flowbinding_worker.delivery.spool_codec import Entry, Found, decode, mark, scan

BLOCK_BYTES = 4096
"""Files take whole blocks of the disk."""
_SUFFIX = ".spool"


class SpoolFiles:
    """One worker's directory of records, locked against other processes.

    Args:
        directory: Parent of the directories of all consumer groups that used this place.
        group: The consumer group.

    Raises:
        OSError: It cannot be written, or another process uses it.
    """

    def __init__(self, directory: Path, group: str) -> None:
        # A group's name may be too long for a file's, and hold any character.
        name = hashlib.blake2b(group.encode(), digest_size=8).hexdigest()
        self._directory = directory / name
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for left in self._directory.glob("*.tmp"):
                left.unlink()
            numbers = [int(path.stem) for path in self._directory.glob(f"*{_SUFFIX}")]
        except BaseException:
            os.close(self._lock)
            raise
        self._next = max(numbers, default=0) + 1

    def scan(self) -> Iterator[tuple[int, int, Sequence[Found | None]]]:
        """Number, size in blocks and contents of every file, oldest first."""
        for path in sorted(self._directory.glob(f"*{_SUFFIX}")):
            try:
                data = path.read_bytes()
            except OSError:
                yield int(path.stem), 0, [None]
                continue
            yield int(path.stem), blocks(len(data)), list(scan(data))

    def write(self, frames: Sequence[bytes]) -> int:
        """Store frames as one file, which is there after a crash; its number.

        Raises:
            OSError: The disk is full or broken; nothing is left of it.
        """
        number, self._next = self._next, self._next + 1
        unfinished = self._directory / f"{number:016d}.tmp"
        try:
            with unfinished.open("xb") as file:
                file.writelines(frames)
                file.flush()
                os.fsync(file.fileno())
            unfinished.rename(self._path(number))
            self._sync()
        except BaseException:
            unfinished.unlink(missing_ok=True)
            self._path(number).unlink(missing_ok=True)
            raise
        return number

    def read(self, file: int, start: int, end: int) -> Entry | None:
        """The entry at that place; None when it is gone or broken."""
        try:
            with self._path(file).open("rb") as opened:
                return decode(os.pread(opened.fileno(), end - start, start))
        except OSError:
            return None

    def mark(self, file: int, marks: Sequence[tuple[int, bool]]) -> None:
        """Say what became of entries. Survives the process; not synced: a lost mark costs a repeat.

        Args:
            file: The file's number.
            marks: Where entries begin, and whether each was delivered.

        Raises:
            OSError: The disk is full or broken.
        """
        # Deleted meanwhile: then nobody asks any more.
        with (
            contextlib.suppress(FileNotFoundError),
            self._path(file).open("r+b", buffering=0) as opened,
        ):
            end = opened.seek(0, os.SEEK_END)
            data = b"".join(mark(at, delivered=delivered) for at, delivered in marks)
            if opened.write(data) != len(data):
                # Nothing can be found behind half a mark.
                opened.truncate(end)
                raise OSError(errno.ENOSPC, "the marks were written in part")

    def delete(self, file: int) -> None:
        """Delete a file; on a broken disk it may stay."""
        with contextlib.suppress(OSError):
            self._path(file).unlink()

    def close(self) -> None:
        """Let another process use the directory."""
        os.close(self._lock)

    def _path(self, number: int) -> Path:
        return self._directory / f"{number:016d}{_SUFFIX}"

    def _sync(self) -> None:
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def blocks(size: int) -> int:
    """Bytes of disk that a file of this size takes."""
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES
