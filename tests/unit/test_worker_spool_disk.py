"""A spool on a disk that is full, rots or gives nothing back."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from flowbinding_worker.delivery.spool_codec import Found, encode
from flowbinding_worker.delivery.spool_files import SpoolFiles
from spool_bench import Broken, entry, files, opened, record, stored


async def test_a_full_disk_is_no_reason_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = opened(tmp_path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert await spool.put(entry(1), owner=object()) is None
    assert list(tmp_path.rglob("*.tmp")) == files(tmp_path) == []
    assert spool.bytes == 0
    await stored(spool, 1)
    await spool.close()


def test_a_mark_that_fits_the_disk_in_part_leaves_nothing_behind(tmp_path: Path) -> None:
    store = SpoolFiles(tmp_path, "group")
    first, second = encode(entry(1)), encode(entry(2))
    number = store.write([first, second])
    [path] = files(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 5, hard))
    try:
        with pytest.raises(OSError, match="in part"):
            store.mark(number, [(0, True)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    store.mark(number, [(len(first), True)])
    [(_, _, found)] = store.scan()
    assert found[2:] == [Found(len(first), delivered=True)]
    store.close()


async def test_bytes_that_rot_are_found_out_when_read(tmp_path: Path) -> None:
    broken = Broken()
    spool = opened(tmp_path, broken=broken)
    [one] = await stored(spool, 1)
    [path] = files(tmp_path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert await spool.read(one) is None
    assert broken.count == 1
    path.unlink()
    assert await spool.read(one) is None
    await spool.close()


async def test_broken_files_are_counted_and_the_rest_goes_on(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    for offset in (1, 2, 3):
        await stored(spool, offset)
    await spool.close()
    first, second, _ = files(tmp_path)
    first.write_bytes(first.read_bytes()[:-3])
    second.write_bytes(b"\0" * 20)
    (first.parent / "0000000000000009.tmp").write_bytes(b"half")
    broken = Broken()
    again = opened(tmp_path, broken=broken)
    assert broken.count >= 2
    assert [again.find(record(o)) is not None for o in (1, 2, 3)] == [False, False, True]
    assert len(files(tmp_path)) == 1, "nothing of use is left of the others"
    assert list(tmp_path.rglob("*.tmp")) == []
    await again.close()


async def test_a_file_that_the_disk_does_not_give_back_is_no_reason_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = opened(tmp_path)
    await stored(spool, 1)
    await spool.close()
    broken = Broken()

    def rotten(_: Path, **__: object) -> bytes:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", rotten)
        patch.setattr(Path, "unlink", rotten)
        spool = opened(tmp_path, broken=broken)
    assert broken.count == 1
    assert spool.find(record(1)) is None
    await stored(spool, 2)
    await spool.close()
