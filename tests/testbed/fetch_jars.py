"""Fetch the jars of a lock file with jgo and verify them.

Run as a program: ``fetch_jars.py LOCK FOLDER``. With ``--write LOCK COORDINATES`` it resolves the
coordinates anew and writes the lock (README.md says when).
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from jgo.config import GlobalSettings  # type: ignore[import-not-found,unused-ignore]
from jgo.constants import MAVEN_CENTRAL_URL  # type: ignore[import-not-found,unused-ignore]
from jgo.maven import MavenContext  # type: ignore[import-not-found,unused-ignore]

# Most jars are small: the time goes into round trips, not into bytes.
DOWNLOADS = 8
TRIES = 3

Jar = dict[str, str]


def context(repository: Path) -> MavenContext:
    """Maven as the user configured it for jgo, storing what it downloads in ``repository``."""
    remotes = {"central": MAVEN_CENTRAL_URL, **GlobalSettings.load().repositories}
    return MavenContext(repo_cache=repository, remote_repos=remotes, timeout=60)


def fetch(maven: MavenContext, jar: Jar, folder: Path) -> str:
    """Put one jar into the folder; the error of the last try is raised."""
    component = maven.project(jar["group"], jar["artifact"]).at_version(jar["version"])
    artifact = component.artifact()
    for tries_left in reversed(range(TRIES)):
        try:
            path = Path(artifact.resolve())
            verify(path, jar["sha256"])
        except Exception:
            if artifact.cached_path:
                artifact.cached_path.unlink(missing_ok=True)
            if not tries_left:
                raise
        else:
            path.rename(folder / path.name)
            return path.name
    raise AssertionError


def verify(path: Path, sha256: str) -> None:
    """Refuse a file whose content is not the locked one."""
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        message = f"{path.name}: sha256 is {found}, the lock file has {sha256}"
        raise ValueError(message)


def fetch_all(lock: Path, folder: Path) -> None:
    """Fetch every jar of the lock."""
    jars: list[Jar] = tomllib.loads(lock.read_text())["jar"]
    with (
        tempfile.TemporaryDirectory(dir=folder) as repository,
        ThreadPoolExecutor(DOWNLOADS) as pool,
    ):
        maven = context(Path(repository))
        running = [pool.submit(fetch, maven, jar, folder) for jar in jars]
        for count, done in enumerate(as_completed(running), 1):
            print(f"jar {count}/{len(jars)} {done.result()}", flush=True)


def write_lock(lock: Path, coordinates: str) -> None:
    """Resolve coordinates and write the lock, sorted, so that a change shows as a small diff."""
    import jgo  # type: ignore[import-not-found,unused-ignore]

    repository = Path(tempfile.mkdtemp())
    try:
        maven = context(repository)
        found = {(a.groupId, a.artifactId, a.version) for a in jgo.resolve(coordinates)}
        parts = [f"# {coordinates}\n"]
        for group, artifact, version in sorted(found):
            path = maven.project(group, artifact).at_version(version).artifact().resolve()
            sha256 = hashlib.sha256(Path(path).read_bytes()).hexdigest()
            parts.append(
                f'[[jar]]\ngroup = "{group}"\nartifact = "{artifact}"\n'
                f'version = "{version}"\nsha256 = "{sha256}"\n'
            )
    finally:
        shutil.rmtree(repository)
    lock.write_text("\n".join(parts))


if __name__ == "__main__":
    if sys.argv[1] == "--write":
        write_lock(Path(sys.argv[2]), sys.argv[3])
    else:
        fetch_all(Path(sys.argv[1]), Path(sys.argv[2]))
