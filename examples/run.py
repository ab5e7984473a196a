"""Runs an example on the testbed: `make example NAME=consumer`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testbed import KafkaBroker, Report, Testbed, TestbedError

EXAMPLES = Path(__file__).resolve().parent
NAMES = sorted(path.parent.name for path in EXAMPLES.glob("*/run.sh"))
SECURED = "secured"


def run(bed: Testbed, name: str) -> int:
    """Run an example's commands.

    Args:
        bed: Up, with the operator.
        name: One of `NAMES`, each a folder with `run.sh`.

    Returns:
        The exit code.

    Raises:
        TestbedError: The testbed is in a kind cluster, whose Kafka has another address inside.
    """
    if bed.kind_context:
        raise TestbedError("examples run on the testbed itself", hint="Unset KUBECONFIG.")
    folder = EXAMPLES / name
    with tempfile.TemporaryDirectory() as scratch, _surroundings(bed, name, Path(scratch)) as more:
        programs = Path(sys.executable).parent
        environment = {
            **os.environ,
            "KUBECONFIG": str(bed.kubeconfig),
            "KUBECACHEDIR": scratch,
            "PATH": f"{bed.bin}:{programs}:{os.environ['PATH']}",
            "SCRATCH": scratch,
            **more,
        }
        command = [str(folder / "run.sh")]
        return subprocess.run(command, cwd=folder, env=environment, check=False).returncode


@contextmanager
def _surroundings(bed: Testbed, name: str, scratch: Path) -> Iterator[dict[str, str]]:
    """What an example needs besides the testbed, as variables for its commands."""
    if name != SECURED:
        yield {}
        return
    secret = scratch / "secret"
    secret.mkdir()
    with KafkaBroker(scratch / "kafka", tls=True, sasl=True) as broker:
        [(user, password)] = broker.users.items()
        (secret / "ca.crt").write_bytes(broker.ca.read_bytes())
        (secret / "username").write_text(user)
        (secret / "password").write_text(password)
        try:
            yield {"SECURED_KAFKA": broker.bootstrap, "KAFKA_SECRET": str(secret)}
        finally:
            # Its brokers go with this program.
            bed.kubectl("delete", "namespace", SECURED, "--ignore-not-found")


def main() -> int:
    """Start what does not run, then run the example; errors are told in sentences."""
    name = sys.argv[1] if len(sys.argv) == 2 else ""
    if name not in NAMES:
        print(f"usage: make example NAME=... ({', '.join(NAMES)})", file=sys.stderr)
        return 2
    try:
        with Report() as report:
            bed = Testbed.ensure(report=report)
            with report.step("Operator, installed with Helm"):
                bed.install_operator()
        code = run(bed, name)
    except TestbedError as error:
        print(f"error: {error.message}\n{error.hint}", file=sys.stderr)
        return 1
    print(f"\nTo look around: . {bed.layout.env}; to stop it all: make down", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
