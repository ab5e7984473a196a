"""The testbed's lock files: everything pinned, verified, and no machine or registry named."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from testbed import gobuild, paths, toolchain
from testbed.gobuild import CONTROL_PLANE, HELM, module_version

PIP_LOCKS = [toolchain.GO_LOCK, toolchain.JAVA_LOCK]


@pytest.mark.parametrize("lock", PIP_LOCKS, ids=lambda path: path.name)
def test_every_wheel_is_pinned_by_hash(lock: Path) -> None:
    requirements = lock.read_text().replace("\\\n", "").splitlines()

    assert requirements
    for line in requirements:
        assert re.match(r"[\w-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", line), line


@pytest.mark.parametrize("lock", PIP_LOCKS, ids=lambda path: path.name)
def test_the_lock_holds_what_is_asked_for(lock: Path) -> None:
    for wanted in lock.with_suffix(".in").read_text().splitlines():
        assert wanted.startswith("#") or f"{wanted} " in lock.read_text()


def test_every_jar_is_pinned_by_hash() -> None:
    jars = tomllib.loads(toolchain.KAFKA_LOCK.read_text())["jar"]

    assert {"kafka_2.13", "kafka-tools", "slf4j-simple"} <= {jar["artifact"] for jar in jars}
    for jar in jars:
        assert re.fullmatch("[0-9a-f]{64}", jar["sha256"]), jar


@pytest.mark.parametrize("path", [*PIP_LOCKS, toolchain.KAFKA_LOCK], ids=lambda path: path.name)
def test_locks_name_no_registry_and_no_machine(path: Path) -> None:
    assert not re.search(r"https?://|file:|--(extra-)?index-url|--find-links", path.read_text())


def test_the_version_of_a_module_is_read_from_go_mod() -> None:
    go_mod = "module x\n\nrequire (\n\tk8s.io/kubernetes v1.34.3\n\tk8s.io/kubernetes-x v2.0.0\n)\n"

    assert module_version(go_mod, "k8s.io/kubernetes") == "v1.34.3"
    assert module_version("require k8s.io/api v0.1.2\n", "k8s.io/api") == "v0.1.2"
    with pytest.raises(ValueError, match="does not require"):
        module_version(go_mod, "k8s.io/other")


@pytest.mark.parametrize("program", [CONTROL_PLANE, HELM], ids=lambda program: program.name)
def test_go_programs_show_their_real_version(program: gobuild.GoProgram) -> None:
    assert re.search(r"ersion=v\d+\.\d+\.\d+", program.linker_flags())
    assert {"go.mod", "go.sum"} <= {path.name for path in program.sources()}
    assert all(path.is_relative_to(paths.SOURCES) for path in program.sources())
