"""Writes a binding's ConfigMap and Deployment, or CronJob, and only when something differs.

Ownership of fields (server-side apply): the children belong to the manager `flowbinding-operator`,
except for the Deployment's replicas, which go over to `flowbinding-autoscaler` when it sets them
first. A Deployment without replicas would start one worker, so a new one is applied with 0. A field
whose only owner stops applying it is reset, so before the operator applies a Deployment again, and
then without replicas, the autoscaler takes those over that it has never set.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flowbinding_operator.desired import content_hash
from flowbinding_operator.kube import AUTOSCALER, OPERATOR, Kube, KubeError
from flowbinding_operator.metrics import Metrics
from flowbinding_operator.plans import Wish
from flowbinding_operator.pod import Manifest
from flowbinding_operator.store import Cache, key_of, owns_replicas
from flowbinding_operator.workers import observe

CONFIG_CHECK_SECONDS = 240.0
"""How often the ConfigMap is compared; it is not watched. Less than between two resyncs, so that
each of them does."""
CONFIG_WAIT_SECONDS = 4.0
"""The same while workers are not ready: perhaps they wait for it. Less than between two looks at
them, so that each of those does."""

APPLIED = "flowbinding.io/applied"
"""Annotation: the hash of the manifest that was applied last, for the next process to compare."""

# Written by the Deployment controller, and no drift.
FOREIGN_ANNOTATIONS = ("deployment.kubernetes.io/revision",)


class ForeignError(Exception):
    """An object of that name belongs to somebody else."""


class FoundError(Exception):
    """A new binding has a Deployment: an operator was killed before it could tell anything."""


@dataclass(slots=True)
class Applied:
    """What was written last, as hashes.

    Attributes:
        live: Of what the API server made of `deployment`, with all its defaults. Comparing this
            with what is there finds drift in any field, and none in a quantity that is spelled
            otherwise.
        of: That itself, so that it is not hashed again before the watch brings another one.
    """

    config: str = ""
    config_at: float = float("-inf")
    deployment: str = ""
    live: str = ""
    of: Mapping[str, Any] | None = None

    def changed(self, wanted: str, live: Mapping[str, Any]) -> bool:
        """Whether `live` is not what was applied, or another manifest is wanted."""
        if live is not self.of and self.live == projection(live):
            self.of = live
        return self.deployment != wanted or live is not self.of

    def remember(self, wanted: str, live: Mapping[str, Any]) -> None:
        """The manifest with that hash gave `live`."""
        self.deployment, self.live, self.of = wanted, projection(live), live


class Children:
    """Writes children.

    Args:
        deployments: Where the watch puts Deployments, by their own key.
        cron_jobs: Where the watch puts CronJobs, in the same way.
    """

    def __init__(
        self,
        kube: Kube,
        deployments: Cache,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        *,
        cron_jobs: Cache | None = None,
    ) -> None:
        self._kube = kube
        self._deployments = deployments
        self._cron_jobs = Cache() if cron_jobs is None else cron_jobs
        self._metrics = metrics
        self._clock = clock
        self._applied: dict[str, Applied] = {}

    def forget(self, key: str) -> None:
        """Drop what is remembered of a binding."""
        self._applied.pop(key, None)

    async def find(
        self, kind: str, namespace: str, name: str, uid: str, *, new: bool = False
    ) -> Mapping[str, Any] | None:
        """The Deployment or CronJob of the binding with that uid, as it is.

        Args:
            kind: Which of the two.
            namespace: Of the binding.
            name: Of what is looked for.
            uid: Of the binding.
            new: There should be none yet: what the watch has not brought is not asked for.

        Raises:
            ForeignError: When the one of that name is not the binding's.
            KubeError: When the API server refuses.
        """
        known = self._cache(kind).get(f"{namespace}/{name}")
        if known is None and not new:
            # Perhaps the watch has not come to it yet, or it is not labelled as ours.
            known = await self._kube.get(kind, namespace, name)
        if known is not None:
            _check_owner(known, kind, name, uid)
        return known

    async def apply(
        self, key: str, config: Wish, deployment: Wish, live: Mapping[str, Any] | None
    ) -> Mapping[str, Any]:
        """Make both as they should be. Returns the Deployment.

        Raises:
            FoundError: When it was not known that there is one.
            ForeignError: When there is an object of that name that is not the binding's.
            KubeError: When the API server refuses.
        """
        applied = self._applied.setdefault(key, Applied())
        workers = observe(live)
        waiting = workers.ready < workers.desired
        believed = CONFIG_WAIT_SECONDS if waiting else CONFIG_CHECK_SECONDS
        wanted = deployment.hash
        made = live is None
        if live is None:
            live = await self._make(_with_replicas(_stamped(deployment.make(), wanted)))
        await self._apply_config(applied, config, believed, new=made)
        if made or applied.changed(wanted, live):
            manifest = deployment.make()
            _check_manifest_owner(live, manifest)
            if not made and not _as_applied(live, manifest, wanted):
                if _operator_holds_replicas(live):
                    await self._write(_replicas_only(live), AUTOSCALER)
                live = await self._write(_stamped(manifest, wanted))
            applied.remember(wanted, live)
            self._deployments.put(key_of(live), live)
        return live

    async def apply_cron_job(self, key: str, config: Wish, cron_job: Wish) -> Mapping[str, Any]:
        """Make both as they should be. Returns the CronJob.

        Raises:
            ForeignError: When there is an object of that name that is not the binding's.
            KubeError: When the API server refuses.
        """
        applied = self._applied.setdefault(key, Applied())
        manifest, wanted = cron_job.make(), cron_job.hash
        metadata = manifest["metadata"]
        namespace, name = metadata["namespace"], metadata["name"]
        await self._apply_config(applied, config, CONFIG_CHECK_SECONDS, new=False)
        live = await self.find("CronJob", namespace, name, metadata["ownerReferences"][0]["uid"])
        if live is None or applied.changed(wanted, live):
            if live is None or not _as_applied(live, manifest, wanted):
                live = await self._write(_stamped(manifest, wanted))
            applied.remember(wanted, live)
            self._cron_jobs.put(key_of(live), live)
        return live

    async def suspend(self, live: Mapping[str, Any]) -> None:
        """Have a CronJob begin no more runs, and leave it as it is otherwise.

        Raises:
            KubeError: When the API server refuses.
        """
        if live["spec"].get("suspend"):
            return
        metadata = live["metadata"]
        self._metrics.writes.labels("CronJob").inc()
        result = await self._kube.suspend(metadata["namespace"], metadata["name"])
        self._cron_jobs.update(key_of(result), result)

    async def prune(self, kind: str, namespace: str, name: str, uid: str) -> None:
        """Delete what the binding with that uid had before its source became another one.

        Only what the watch has brought is looked at: it tells of everything sooner or later.

        Raises:
            KubeError: When the API server refuses.
        """
        cache = self._cache(kind)
        known = cache.get(f"{namespace}/{name}")
        if known is None or "deletionTimestamp" in known["metadata"]:
            return
        try:
            _check_owner(known, kind, name, uid)
        except ForeignError:
            return
        self._metrics.writes.labels(kind).inc()
        await self._kube.delete(kind, namespace, name, known["metadata"]["uid"])
        cache.drop(key_of(known))

    async def scale(self, live: Mapping[str, Any], replicas: int) -> Mapping[str, Any]:
        """Set the replicas, if they differ. Returns the Deployment."""
        if live["spec"].get("replicas") == replicas:
            return live
        metadata = live["metadata"]
        self._metrics.writes.labels("Scale").inc()
        scaled = await self._kube.scale(metadata["namespace"], metadata["name"], replicas)
        version = scaled["metadata"].get("resourceVersion", metadata["resourceVersion"])
        result = {
            **live,
            "metadata": {**metadata, "resourceVersion": version},
            "spec": {**live["spec"], "replicas": replicas},
        }
        self._deployments.update(key_of(result), result)
        return result

    def _cache(self, kind: str) -> Cache:
        return self._cron_jobs if kind == "CronJob" else self._deployments

    async def _apply_config(
        self, applied: Applied, config: Wish, believed: float, *, new: bool
    ) -> None:
        now = self._clock()
        if applied.config == config.hash and now - applied.config_at < believed:
            return
        manifest = config.make()
        if not (new and await self._create(manifest)):
            metadata = manifest["metadata"]
            live = await self._kube.get("ConfigMap", metadata["namespace"], metadata["name"])
            if live is not None:
                _check_manifest_owner(live, manifest)
            if live is None or not _covers(live, manifest):
                await self._write(manifest)
        applied.config, applied.config_at = config.hash, now

    async def _create(self, manifest: Manifest) -> Mapping[str, Any] | None:
        """Apply what should not be there yet. None if there is one of that name.

        It costs one request; asking first would be a second one, for each of a thousand bindings.
        """
        try:
            return await self._write(manifest, create=True)
        except KubeError as error:
            if error.status != 409:
                raise
            return None

    async def _make(self, deployment: Manifest) -> Mapping[str, Any]:
        """Create a Deployment.

        Raises:
            ForeignError: When there is one that is somebody else's.
            FoundError: When there is one of the binding's own; it is known from now on.
            KubeError: When the API server refuses.
        """
        if made := await self._create(deployment):
            return made
        metadata = deployment["metadata"]
        live = await self._kube.get("Deployment", metadata["namespace"], metadata["name"])
        if live is None:
            # It has gone, or this API server takes no version of what it is to create.
            return await self._write(deployment)
        _check_manifest_owner(live, deployment)
        self._deployments.put(key_of(live), live)
        raise FoundError

    async def _write(
        self, manifest: Manifest, manager: str = OPERATOR, *, create: bool = False
    ) -> Mapping[str, Any]:
        self._metrics.writes.labels(manifest["kind"]).inc()
        return await self._kube.apply(manifest, manager=manager, create=create)


def projection(live: Mapping[str, Any]) -> str:
    """A hash of all of a Deployment or CronJob that is the operator's to keep."""
    return content_hash(_kept(live))


def alike(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether two versions of a Deployment tell a reconcile the same.

    Its controller writes a new one several times, most of which only say what it has seen.
    """
    going = ["deletionTimestamp" in item["metadata"] for item in (before, after)]
    same = going[0] == going[1] and observe(before) == observe(after)
    return same and _kept(before) == _kept(after)


def _kept(live: Mapping[str, Any]) -> dict[str, Any]:
    metadata = live["metadata"]
    annotations = metadata.get("annotations") or {}
    return {
        "spec": {k: v for k, v in live["spec"].items() if k != "replicas"},
        "labels": metadata.get("labels"),
        "owners": metadata.get("ownerReferences"),
        "annotations": {k: v for k, v in annotations.items() if k not in FOREIGN_ANNOTATIONS},
    }


def _stamped(manifest: Manifest, wanted: str) -> Manifest:
    return {**manifest, "metadata": {**manifest["metadata"], "annotations": {APPLIED: wanted}}}


def _as_applied(live: Mapping[str, Any], manifest: Manifest, wanted: str) -> bool:
    """Whether applying a manifest would change nothing, as after a restart or with a new leader.

    The hash tells that it was the last one to be applied, so that no field has to go; what is there
    tells that nobody has changed any of its fields since.
    """
    annotations = live["metadata"].get("annotations") or {}
    if annotations.get(APPLIED) != wanted:
        return False
    return all(_contains(live.get(part), manifest[part]) for part in ("metadata", "spec"))


def _contains(live: Any, wanted: Any) -> bool:
    if isinstance(wanted, Mapping):
        found = isinstance(live, Mapping)
        return found and all(key in live and _contains(live[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list):
        found = isinstance(live, list) and len(live) == len(wanted)
        return found and all(map(_contains, live, wanted))
    return bool(live == wanted)


def _check_manifest_owner(live: Mapping[str, Any], manifest: Manifest) -> None:
    metadata = manifest["metadata"]
    uid = metadata["ownerReferences"][0]["uid"]
    _check_owner(live, manifest["kind"], metadata["name"], uid)


def _check_owner(live: Mapping[str, Any], kind: str, name: str, uid: str) -> None:
    owners = live["metadata"].get("ownerReferences") or []
    if not any(owner.get("uid") == uid for owner in owners):
        raise ForeignError(f"{kind} {name} exists and does not belong to this FlowBinding")


def _covers(live: Mapping[str, Any], config: Manifest) -> bool:
    labels = live["metadata"].get("labels") or {}
    wanted = config["metadata"]["labels"]
    return bool(live.get("data") == config["data"] and wanted.items() <= labels.items())


def _with_replicas(deployment: Manifest) -> Manifest:
    return {**deployment, "spec": {**deployment["spec"], "replicas": 0}}


def _replicas_only(live: Mapping[str, Any]) -> Manifest:
    metadata = live["metadata"]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": metadata["name"], "namespace": metadata["namespace"]},
        "spec": {"replicas": live["spec"].get("replicas", 0)},
    }


def _operator_holds_replicas(live: Mapping[str, Any]) -> bool:
    """Whether nobody has set the replicas since the Deployment was made."""
    return any(
        entry.get("manager") == OPERATOR and owns_replicas(entry)
        for entry in live["metadata"].get("managedFields") or ()
    )
