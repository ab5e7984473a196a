"""`flowbinding-operator run`: wiring only. What happens to a binding is in `reconcile`."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import kopf
import structlog
from pydantic import ValidationError
from pydantic_settings import CliApp

from flowbinding_api.binding import GROUP, PLURAL, VERSION
from flowbinding_operator import __version__, logs
from flowbinding_operator.app import MANAGED_SELECTOR, App
from flowbinding_operator.duty import Duty
from flowbinding_operator.http import application, serving
from flowbinding_operator.kube import KubeClient, KubeError
from flowbinding_operator.leader import Leader
from flowbinding_operator.metrics import Metrics
from flowbinding_operator.settings import Settings

log = structlog.get_logger(__name__)

THREADS = 64
"""Made as they are needed."""
YOUNG = 10_000
"""Objects made since the last collection that lead to the next one. Python's own 700 are reached
several times in each reconcile."""

USAGE = """usage: flowbinding-operator run [--help] [options]
       flowbinding-operator --version
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. Exit codes: 0 stopped, 1 cannot go on, 2 wrong settings."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["--version"]:
        sys.stdout.write(f"flowbinding-operator {__version__}\n")
        sys.exit(0)
    if words[:1] != ["run"]:
        (sys.stdout if words in (["-h"], ["--help"]) else sys.stderr).write(USAGE)
        sys.exit(0 if words in (["-h"], ["--help"]) else 2)
    try:
        settings = CliApp.run(Settings, cli_args=words[1:])
    except ValidationError as error:
        for problem in error.errors():
            path = ".".join(str(part) for part in problem["loc"])
            sys.stderr.write(f"{path}: {problem['msg']}\n")
        sys.exit(2)
    logs.configure(settings.log_level, settings.log_format)
    try:
        asyncio.run(run(settings))
    except (KubeError, OSError) as error:
        # No connection, or an address that is taken.
        log.error("cannot go on", error=str(error))  # noqa: TRY400 - the message says it all
        sys.exit(1)
    except Exception:
        log.exception("cannot go on")
        sys.exit(1)


async def run(settings: Settings) -> None:
    """Run the operator until it is told to stop.

    Raises:
        KubeError: When Kubernetes cannot be asked.
    """
    log.info("settings", version=__version__, **settings.shown())
    # Names are looked up in threads. Those that wait for a DNS server that does not answer must
    # leave enough of them for all others, and for /metrics.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS, "lookup"))
    async with await KubeClient.connect() as leases:
        await check(leases, settings)
        if settings.check:
            return
        calm_collections()
        metrics = Metrics()
        leader = elected(settings, leases, metrics)
        # Not the election's connections: whatever waits there must not delay a renewal.
        async with await KubeClient.connect(leader.holds if leader else always) as kube:
            duty = Duty(settings, kube, metrics, obedient(settings), leader)
            pages = application(duty.problems, duty.unready, metrics.registry)
            async with serving(pages, *settings.http_host_port) as port:
                log.info("started", http_port=port)
                with suppress(asyncio.CancelledError):
                    await duty.run()
        log.info("stopped")


def calm_collections() -> None:
    """Have garbage be looked for less often, and never in what was imported.

    All else stands still meanwhile, while it goes through all that thousands of bindings are made
    of. Nearly everything here has no cycles, and is freed without it.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 10, 10)


def always() -> bool:
    """Without an election, this process acts whenever it runs."""
    return True


def elected(settings: Settings, leases: KubeClient, metrics: Metrics) -> Leader | None:
    """This process as a candidate, if there is an election."""
    if not settings.lease:
        return None
    namespace, _, name = settings.lease.partition("/")
    return Leader(
        leases,
        namespace,
        name,
        settings.instance,
        seconds=settings.lease_seconds,
        changed=metrics.leader.set,
    )


def obedient(settings: Settings) -> Callable[[App], Coroutine[Any, Any, None]]:
    """Have the running task end by SIGTERM and SIGINT. Returns `watch`, after which that holds too.

    kopf puts its own handlers in the place of these, and leaves them there when it ends.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def obey() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, lambda: task.cancel() if task else None)

    async def watching(app: App) -> None:
        try:
            await watch(app, settings)
        finally:
            obey()

    obey()
    return watching


async def check(kube: KubeClient, settings: Settings) -> None:
    """Find out at once, and not from a watch that stays silent, that there is nothing to watch.

    Raises:
        KubeError: Saying what is missing.
    """
    for namespace in settings.namespaces or (None,):
        try:
            await kube.list("FlowBinding", namespace, metadata_only=True)
        except KubeError as error:
            hint = {
                0: "the Kubernetes API does not answer",
                403: "the service account may not list FlowBindings: is the chart's role bound?",
                404: "there is no FlowBinding CRD: install the chart's, or crds/flowbinding.yaml",
            }.get(error.status, "Kubernetes refuses")
            raise KubeError(f"{hint} ({error})", status=error.status) from None


async def watch(app: App, settings: Settings) -> None:
    """Run kopf, which lists and watches and tells `app`."""
    registry = kopf.OperatorRegistry()

    @kopf.on.startup(registry=registry)
    async def started(**_: Any) -> None:
        app.synced = True

    @kopf.on.login(registry=registry)
    async def login(**kwargs: Any) -> Any:
        # Otherwise kopf would also try every Kubernetes client that happens to be installed.
        account = kopf.login_with_service_account(**kwargs)
        return in_cluster(account) if account else kopf.login_with_kubeconfig(**kwargs)

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def binding(event: Any, **_: Any) -> None:
        app.binding_event(event["type"], event["object"])

    @kopf.on.event("apps", "v1", "deployments", registry=registry)
    async def deployment(event: Any, **_: Any) -> None:
        app.child_event(event["type"], event["object"], app.deployments)

    @kopf.on.event("batch", "v1", "cronjobs", registry=registry)
    async def cron_job(event: Any, **_: Any) -> None:
        app.child_event(event["type"], event["object"], app.cron_jobs)

    @kopf.on.event("batch", "v1", "jobs", registry=registry)
    async def job(event: Any, **_: Any) -> None:
        app.child_event(event["type"], event["object"], app.jobs)

    await kopf.operator(
        registry=registry,
        settings=kopf_settings(),
        standalone=True,
        clusterwide=not settings.namespaces,
        namespaces=settings.namespaces,
    )


def in_cluster(account: kopf.ConnectionInfo) -> kopf.ConnectionInfo:
    """The service account, at the address that Kubernetes gives to every Pod.

    kopf asks DNS for the API server; as for every other client, the environment comes first here.
    """
    host, port = (
        os.environ.get("KUBERNETES_SERVICE_HOST"),
        os.environ.get("KUBERNETES_SERVICE_PORT"),
    )
    if not host or not port:
        return account
    address = f"[{host}]" if ":" in host else host
    return dataclasses.replace(account, server=f"https://{address}:{port}")


class NoDiffs(kopf.DiffBaseStorage):
    """Keeps no former states of objects: nothing here asks kopf what has changed.

    Its own storages copy each object of each event, whether anybody asks or not: with a thousand
    bindings that start, a tenth of all that the operator did.
    """

    def build(self, *, body: Any, extra_fields: Any = None) -> Any:
        """Nothing of an object matters."""
        return {}

    def fetch(self, *, body: Any) -> Any:
        """Nothing is known of former states."""
        return None

    def store(self, *, body: Any, patch: Any, essence: Any) -> None:
        """Leave the object as it is."""


def kopf_settings() -> kopf.OperatorSettings:
    """Set kopf up as a watcher and nothing more: it writes nothing to any object."""
    settings = kopf.OperatorSettings()
    settings.watching.server_timeout = 270
    settings.watching.client_timeout = 300
    settings.watching.connect_timeout = 5
    settings.watching.label_selectors["apps", "deployments"] = MANAGED_SELECTOR
    settings.watching.label_selectors["batch", "cronjobs"] = MANAGED_SELECTOR
    settings.watching.label_selectors["batch", "jobs"] = MANAGED_SELECTOR
    settings.networking.request_timeout = 30
    # For so long it keeps the last event of an object whole, of thousands of them.
    settings.queueing.idle_timeout = 1
    # Namespaces are given by name, and the CRD is there: no right to list either is needed.
    settings.scanning.disabled = True
    settings.posting.enabled = False
    # Unused, as there are no handlers that keep state; set so that they never collide with another
    # operator's, whatever is added later.
    settings.persistence.finalizer = f"{GROUP}/operator"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=GROUP)
    settings.persistence.diffbase_storage = NoDiffs()
    settings.process.ultimate_exiting_timeout = 20
    return settings
