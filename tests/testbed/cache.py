"""Folders that are made once and found again by the hash of what they were made from."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from testbed.files import locked
from testbed.paths import cache_root

UNUSED_AFTER_SECONDS = 30 * 24 * 3600


def content_hash(folder: Path, names: Iterable[Path], *extra: str) -> str:
    """Hash files by their path below ``folder`` and their content, and further inputs.

    Neither the order of ``names`` nor file times nor the place of ``folder`` count: a fresh clone
    anywhere on the machine finds what another one built.
    """
    digest = hashlib.sha256()
    for name in sorted(names):
        content = hashlib.sha256(name.read_bytes()).hexdigest()
        digest.update(f"{name.relative_to(folder).as_posix()} {content}\n".encode())
    for item in (platform.system(), platform.machine(), *extra):
        digest.update(f"{len(item)}:{item}\n".encode())
    return digest.hexdigest()[:16]


def entry(name: str, digest: str) -> Path:
    """The folder of a cache entry, whether it exists or not."""
    return cache_root() / f"{name}-{digest}"


def ensure(name: str, digest: str, make: Callable[[Path], None]) -> Path:
    """Return the entry, calling ``make(empty folder)`` first when it is not there yet.

    The folder is made under another name and renamed when it is complete, so an interrupted build
    leaves nothing that looks finished. Two processes do not build the same entry at once.
    """
    target = entry(name, digest)
    if not target.is_dir():
        with locked(cache_root() / "locks" / f"{target.name}.lock"):
            if not target.is_dir():
                _make(target, make)
                _forget_unused(name, keep=target)
    os.utime(target)
    return target


def _make(target: Path, make: Callable[[Path], None]) -> None:
    draft = target.with_name(f".{target.name}.part")
    # Left by a process that was killed: the lock is ours, so nobody is writing it.
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        make(draft)
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _forget_unused(name: str, keep: Path) -> None:
    """Remove entries of the same name that nobody has used for a month: each is 50 to 250 MB."""
    oldest = time.time() - UNUSED_AFTER_SECONDS
    for other in cache_root().glob(f"{name}-*"):
        if other != keep and other.stat().st_mtime < oldest:
            shutil.rmtree(other, ignore_errors=True)
