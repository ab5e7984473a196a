"""Where the testbed keeps what: one folder per testbed, and one cache per user."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).resolve().parent
PROJECT = SOURCES.parents[1]


def cache_root(environ: Mapping[str, str] = os.environ) -> Path:
    """The cache of toolchains and built binaries, outside the work tree so that it outlives it."""
    if own := environ.get("FLOWBINDING_CACHE"):
        base = Path(own).expanduser()
    elif xdg := environ.get("XDG_CACHE_HOME"):
        base = Path(xdg) / "flowbinding"
    else:
        base = Path.home() / ".cache" / "flowbinding"
    return base.absolute() / "testbed"


def default_root(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder of the testbed: ``.testbed`` in the project, or ``FLOWBINDING_TESTBED``."""
    own = environ.get("FLOWBINDING_TESTBED")
    return Path(own).expanduser().absolute() if own else PROJECT / ".testbed"


@dataclass(frozen=True)
class Layout:
    """The files of one testbed, all below ``root``."""

    root: Path

    @property
    def state(self) -> Path:
        """Addresses and processes; its presence marks the folder as a testbed."""
        return self.root / "state.json"

    @property
    def kubeconfig(self) -> Path:
        """The tester's access to the API server."""
        return self.root / "kubeconfig"

    @property
    def env(self) -> Path:
        """What a shell sources to use the testbed."""
        return self.root / "env"

    @property
    def bin(self) -> Path:
        """``kubectl`` and ``helm``."""
        return self.root / "bin"

    @property
    def pki(self) -> Path:
        """Keys, certificates, tokens and the kubeconfigs made from them."""
        return self.root / "pki"

    @property
    def logs(self) -> Path:
        """One log file a component."""
        return self.root / "logs"

    @property
    def data(self) -> Path:
        """What the components store: emptied when a testbed starts anew."""
        return self.root / "data"

    @property
    def lock(self) -> Path:
        """Held by ``up`` and ``down``; in the cache, because ``down`` removes ``root``."""
        digest = hashlib.sha256(str(self.root).encode()).hexdigest()[:16]
        return cache_root() / "locks" / f"{digest}.lock"
