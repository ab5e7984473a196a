"""The Go programs of the testbed, built once and kept in the cache by the hash of their sources."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from testbed import cache, toolchain
from testbed.paths import SOURCES
from testbed.toolchain import GO_LOCK, Note

# Where modules and compiled packages are kept, and where modules come from, stays the user's.
ENVIRONMENT = {
    "CGO_ENABLED": "0",
    "GOTOOLCHAIN": "local",
    "GOFLAGS": "-trimpath -mod=readonly -buildvcs=false",
    # A go.work above the checkout is not ours.
    "GOWORK": "off",
}
HINT = (
    "Nothing is half built: run the same command again to continue where it stopped. "
    "Modules that cannot be fetched are a matter of GOPROXY."
)


@dataclass(frozen=True)
class GoProgram:
    """A Go main package below this folder."""

    name: str
    package: str
    version_module: str
    """The module whose version the binary shows as its own."""
    version_flags: tuple[str, ...]
    """Linker settings; {version}, {major} and {minor} are filled in."""

    @property
    def folder(self) -> Path:
        """Its sources."""
        return SOURCES / self.name

    def sources(self) -> list[Path]:
        """Everything that the build reads."""
        kept = (".go", ".mod", ".sum", ".sh")
        files = [path for path in self.folder.rglob("*") if path.suffix in kept]
        return [path for path in files if not path.name.endswith("_test.go")]

    def linker_flags(self) -> str:
        """Without symbols, and with the version."""
        version = module_version((self.folder / "go.mod").read_text(), self.version_module)
        major, minor, *_ = version.lstrip("v").split(".")
        flags = (
            flag.format(version=version, major=major, minor=minor) for flag in self.version_flags
        )
        return " ".join(["-s", "-w", *(f"-X {flag}" for flag in flags)])

    def digest(self) -> str:
        """What decides whether a built binary is still the right one."""
        settings = [
            *(f"{name}={value}" for name, value in ENVIRONMENT.items()),
            self.linker_flags(),
        ]
        return cache.content_hash(SOURCES, [GO_LOCK, *self.sources()], *settings)


_VERSION = "k8s.io/component-base/version"
CONTROL_PLANE = GoProgram(
    "controlplane",
    ".",
    "k8s.io/kubernetes",
    (
        f"{_VERSION}.gitVersion={{version}}",
        f"{_VERSION}.gitMajor={{major}}",
        f"{_VERSION}.gitMinor={{minor}}",
        f"{_VERSION}.gitTreeState=clean",
    ),
)
HELM = GoProgram(
    "helm",
    "helm.sh/helm/v4/cmd/helm",
    "helm.sh/helm/v4",
    ("helm.sh/helm/v4/internal/version.version={version}",),
)


def module_version(go_mod: str, module: str) -> str:
    """The version that a go.mod requires of a module."""
    found = re.search(rf"^\s*(?:require\s+)?{re.escape(module)}\s+(v\S+)", go_mod, re.MULTILINE)
    if not found:
        message = f"go.mod does not require {module}"
        raise ValueError(message)
    return found[1]


def is_built(program: GoProgram) -> bool:
    """Whether the cache holds the binary."""
    return cache.entry(program.name, program.digest()).is_dir()


def binary(program: GoProgram, note: Note) -> Path:
    """The binary, built when it is not in the cache."""

    def make(folder: Path) -> None:
        note("fetching the Go toolchain")
        _build(program, toolchain.go(note), folder / program.name, note)

    return cache.ensure(program.name, program.digest(), make) / program.name


def _build(program: GoProgram, go: Path, target: Path, note: Note) -> None:
    failure = f"{program.name} could not be built"
    note("fetching Go modules")
    fetched = Counter(note, lambda count, line: f"fetching Go modules ({count}) {line}")
    command = [str(go), "-C", str(program.folder)]
    toolchain.run([*command, "mod", "download"], failure, fetched, ENVIRONMENT, HINT)
    total = _packages(program, go)
    # Packages that the user's Go cache has compiled before are not named.
    compiled = Counter(note, lambda count, _: f"compiling, {count} of at most {total} packages")
    note(f"compiling at most {total} packages")
    flags = ["-v", "-ldflags", program.linker_flags(), "-o", str(target)]
    build = [*command, "build", *flags, program.package]
    toolchain.run(build, failure, compiled, ENVIRONMENT, HINT)


def _packages(program: GoProgram, go: Path) -> int:
    listed = subprocess.run(
        [go, "-C", program.folder, "list", "-deps", program.package],
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        check=False,
    )
    return len(listed.stdout.splitlines())


class Counter:
    """Turns lines of output into how far something is."""

    def __init__(self, note: Note, text: toolchain.CountText) -> None:
        """Call ``note(text(count, line))`` for each line."""
        self._note = note
        self._text = text
        self._count = 0

    def __call__(self, line: str) -> None:
        """One more line."""
        self._count += 1
        self._note(self._text(self._count, line))
