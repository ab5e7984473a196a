"""The Java that runs Kafka: one command line for the broker and its tools."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path

from testbed import cache, files, kafka_config, process, toolchain
from testbed.errors import TestbedError
from testbed.kafka_config import Addresses, Security
from testbed.state import LOOPBACK, free_port
from testbed.toolchain import Note
from testbed.waiting import wait_until

# The serial collector starts faster and takes less memory than G1 at this size.
JVM = ("-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError")
LOGGING = (
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
    # At start it logs every setting of every client it has: 1,500 lines that nobody reads.
    "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaConfig=warn",
    "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.common.config.AbstractConfig=warn",
)
STARTED = "Kafka Server started"
CLASSES = "kafka.aot"


def server(config: Path) -> list[str]:
    """The command that runs a broker."""
    return [*_java(_classes(toolchain.ignore)), "kafka.Kafka", str(config)]


def prepare(note: Note) -> None:
    """Fetch everything that a broker needs."""
    _classes(note)


def started(log: Path) -> bool:
    """Whether the broker says that it is started; it answers its port a little earlier."""
    return log.exists() and STARTED in log.read_text(errors="replace")


def format_storage(config: Path, *arguments: str) -> None:
    """Make the data folder that the settings name."""
    _format(_java(_classes(toolchain.ignore)), config, *arguments)


def _format(java: list[str], config: Path, *arguments: str) -> None:
    # Never with a leading dash, which would be taken for an option.
    cluster = "A" + urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]
    tool = [*java, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(config)]
    done = subprocess.run([*tool, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise TestbedError("Kafka's storage could not be formatted", hint=done.stdout + done.stderr)


def _java(classes: Path) -> list[str]:
    # Without the file, or with one that does not fit, Java loads the classes as ever.
    return [*_plain_java(), f"-XX:AOTCache={classes / CLASSES}", *_classpath()]


def _plain_java() -> list[str]:
    return [str(toolchain.java(toolchain.ignore)), *JVM, *LOGGING]


def _classpath() -> list[str]:
    return ["-cp", f"{toolchain.kafka_jars(toolchain.ignore)}/*"]


def _classes(note: Note) -> Path:
    """The folder with Kafka's classes as Java wants them: half the time to start.

    Java makes them from a run of the broker, for exactly these jars at exactly this place.
    """
    jars = toolchain.kafka_jars(note)
    digest = cache.content_hash(jars, [], str(jars), str(toolchain.java(note)), *JVM)
    return cache.ensure("kafka-classes", digest, lambda folder: _record_classes(folder, note))


def _record_classes(folder: Path, note: Note) -> None:
    note("recording Kafka's classes")
    config, log = folder / "server.properties", folder / "log"
    ports = Addresses(LOOPBACK, free_port(), free_port())
    properties = kafka_config.server_properties(ports, folder / "data", Security(), None, None)
    files.write(config, kafka_config.render(properties))
    java = [*_plain_java(), f"-XX:AOTCacheOutput={folder / CLASSES}", *_classpath()]
    _format([*_plain_java(), *_classpath()], config)
    broker = process.spawn([*java, "kafka.Kafka", str(config)], log, os.environ)
    try:
        wait_until(lambda: started(log) or not broker.running, what="Kafka starts", timeout=120)
    finally:
        # Java writes the file when it ends.
        broker.end(signal.SIGTERM, grace=120)
    for leftover in (config, log):
        leftover.unlink()
    shutil.rmtree(folder / "data")
