"""Spools, and entries for them."""

from __future__ import annotations

import asyncio
from pathlib import Path

from flowbinding_worker.delivery.spool import Spool, Stored, open_spool
from flowbinding_worker.delivery.spool_codec import Entry, Kind, Message, source_of
from flowbinding_worker.ports import Partition, Record

MIB = 1 << 20


def record(offset: int = 0, value: bytes = b"v", partition: int = 0) -> Record:
    return Record(Partition("in", partition), offset, b"k", value, (), 1_000)


def entry(offset: int = 0, value: bytes = b"result", kind: Kind = Kind.RESULT) -> Entry:
    return Entry(kind, source_of(record(offset)), Message("out", b"k", value, [("h", None)]))


class Broken:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def opened(folder: Path, limit: int = MIB, broken: Broken | None = None) -> Spool:
    return open_spool(folder, "group", limit, broken or Broken())


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.spool"))


async def stored(spool: Spool, *offsets: int, value: bytes = b"result") -> list[Stored]:
    found = await asyncio.gather(*(spool.put(entry(o, value), owner=object()) for o in offsets))
    assert None not in found
    return [one for one in found if one is not None]
