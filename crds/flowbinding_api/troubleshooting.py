"""The troubleshooting page (docs/troubleshooting.md): what each reason means and what to do."""

from __future__ import annotations

from collections.abc import Mapping

from flowbinding_api.reasons import Reason

_INTRODUCTION = """\
# Troubleshooting by condition reason

Generated from the list of reasons by `make generate`. Start here:

```sh
kubectl get fb                     # Ready, lag, replicas
kubectl describe fb NAME           # conditions with their reasons and messages, and Events
kubectl logs deploy/NAME-worker    # what a worker says
```

No message is lost while a condition reports a problem: offsets are committed only past finished
messages, and what waits is processed after the repair, without restarting anything.

| reason | condition | what it means | what to do |
|---|---|---|---|
"""

ADVICE: Mapping[Reason, tuple[str, str, str]] = {
    Reason.READY: ("Ready=True", "All is well.", ""),
    Reason.RECONCILING: ("Ready=Unknown", "The binding was just created or changed.", "Wait."),
    Reason.HEALTHY: ("Degraded=False", "No worker reports trouble.", ""),
    Reason.INVALID_SPEC: (
        "Ready=False",
        "The manifest passed the API server but breaks a rule that only the operator checks, "
        "such as a template's syntax. Workers run on as before; only spec.paused still counts.",
        "Repair the field that the message names.",
    ),
    Reason.SECRET_MISSING: (
        "Ready=False",
        "A Secret that the spec refers to, or its key, does not exist in the binding's namespace.",
        "Create it; it is found within seconds.",
    ),
    Reason.CONFIG_MAP_MISSING: (
        "Ready=False",
        "The ConfigMap of the flow file, or its key, does not exist in the binding's namespace.",
        "Create it; it is found within seconds.",
    ),
    Reason.APPLY_REFUSED: (
        "Ready=False",
        "The API server refused the ConfigMap or the Deployment of the workers, or an object of "
        "that name (NAME-worker) belongs to somebody else and is left alone.",
        "The message holds the server's words; mostly a wrong value in spec.worker, a quota or a "
        "policy. If the name is taken, rename the binding or the other object.",
    ),
    Reason.KUBERNETES_FORBIDDEN: (
        "Ready=False",
        "The API server does not let the operator read a Secret or a ConfigMap that the spec "
        "refers to. Workers that run go on.",
        "The message holds the server's words; mostly the operator lacks a role in the binding's "
        "namespace. It is read again within seconds.",
    ),
    Reason.TOPIC_FOUND: (
        "TopicAvailable=True",
        "All topics of the source and the output exist.",
        "",
    ),
    Reason.TOPIC_MISSING: (
        "TopicAvailable=False",
        "A topic of the source or of the output (spec.output.topic, spec.output.routes) does not "
        "exist.",
        "Create it, or repair its name. Where brokers create topics by themselves, the first "
        "result makes an output topic.",
    ),
    Reason.TOPIC_UNAUTHORIZED: (
        "TopicAvailable=False",
        "Kafka does not let the operator describe a topic or the consumer group.",
        "Grant DESCRIBE and READ on the source topic, READ on the group, and DESCRIBE and WRITE on "
        "the output topics.",
    ),
    Reason.MORE_PARTITIONS: (
        "TopicAvailable=True",
        "A topic has more partitions than spec.provisioning.partitions. Kafka cannot take any "
        "away, and nothing is wrong.",
        "Raise spec.provisioning.partitions, or leave it.",
    ),
    Reason.PROVISIONING_DENIED: (
        "TopicAvailable=False",
        "Kafka does not let the operator's user create a topic, or add partitions to it.",
        "Grant CREATE on the topic (or the cluster), and ALTER to add partitions; or create the "
        "topic yourself. It is tried again by itself, less and less often, up to every 5 minutes.",
    ),
    Reason.PROVISIONING_REFUSED: (
        "TopicAvailable=False",
        "Kafka refuses a topic as spec.provisioning describes it: more copies than there are "
        "brokers, a wrong setting, or a policy of the cluster.",
        "Repair the field that the message names; or create the topic yourself.",
    ),
    Reason.PROVISIONING_FAILED: (
        "TopicAvailable=False",
        "A topic could not be created or made larger for now; the message says why.",
        "Mostly none: it is tried again by itself.",
    ),
    Reason.KAFKA_NOT_CONFIGURED: (
        "TopicAvailable=False",
        "Neither the binding nor the operator names a Kafka cluster.",
        "Set spec.kafka.bootstrapServers, or the chart's kafka.bootstrapServers.",
    ),
    Reason.KAFKA_UNREACHABLE: (
        "TopicAvailable=Unknown",
        "No broker answers. The lag is unknown, so the number of workers stays as it is.",
        "Check bootstrapServers, the network and the brokers' advertised listeners.",
    ),
    Reason.KAFKA_UNAUTHORIZED: (
        "TopicAvailable=False",
        "The brokers refuse the credentials or the certificate.",
        "Check spec.kafka.sasl and spec.kafka.tls and the Secrets behind them.",
    ),
    Reason.CONFIGURED: ("FlowConfigured=True", "There is a flow to run.", ""),
    Reason.SKIPPED: (
        "FlowConfigured=False",
        "spec.flow.id is absent, so nothing runs. That is a state, not an error.",
        "Set spec.flow.id when the flow is there.",
    ),
    Reason.ECHO_INSTEAD: (
        "FlowReachable=True",
        "The worker image has no flow engine; messages are answered with their input, as"
        " spec.flow.onMissingEngine says.",
        "For the flow itself, use the image target `local`.",
    ),
    Reason.FLOW_FILE_INVALID: (
        "FlowConfigured=False or FlowReachable=False",
        "The flow JSON cannot be read or is no Langflow flow.",
        "Export the flow again and update the ConfigMap or the volume; workers load it anew by"
        " themselves.",
    ),
    Reason.FLOW_ANSWERED: ("FlowReachable=True", "Workers run the flow without trouble.", ""),
    Reason.NOT_CALLED_YET: ("FlowReachable=Unknown", "No worker has called the flow yet.", ""),
    Reason.SERVER_HEALTHY: (
        "FlowReachable=True",
        "No worker has called the flow yet; the operator has asked the server itself.",
        "",
    ),
    Reason.PROBE_FAILED: (
        "FlowReachable=Unknown",
        "No worker has called the flow yet, and the operator has no answer from the server. Workers"
        " may have another way to it.",
        "Check spec.flow.url, and network policies if the operator is to reach flow servers.",
    ),
    Reason.FLOW_UNAUTHORIZED: (
        "FlowReachable=False",
        "The flow server refuses the API key, the token or the password (401 or 403), or the token "
        "endpoint of spec.flow.auth.oauth2 refuses the client.",
        "Repair the Secret behind spec.flow.apiKeySecretRef or spec.flow.auth; workers read it "
        "anew.",
    ),
    Reason.FLOW_NOT_FOUND: (
        "FlowReachable=False",
        "The flow server does not know spec.flow.id.",
        "Import the flow, or repair the id (a UUID, or the endpoint name).",
    ),
    Reason.FLOW_UNREACHABLE: (
        "FlowReachable=False",
        "The flow server's name does not resolve, it refuses connections, or TLS fails.",
        "Check spec.flow.url from within the cluster, and spec.flow.tls.",
    ),
    Reason.FLOW_MISCONFIGURED: (
        "FlowReachable=False",
        "The server answers, but not as the binding expects: several outputs, no output, a refused "
        "tweak, a redirect, or a web page instead of JSON.",
        "The message says which; set spec.flow.outputComponent, tweaks, http or url accordingly.",
    ),
    Reason.FLOW_FAILING: (
        "FlowReachable=False",
        "Most runs fail, so workers pause and probe.",
        "Look at the flow server; processing resumes by itself.",
    ),
    Reason.FLOW_THROTTLED: (
        "FlowReachable=False",
        "The flow server, or a provider behind it, refuses most runs for now (429, 503, a rate "
        "limit), so workers pause and probe.",
        "Raise the limit there, or set spec.concurrency.maxInFlight or "
        "spec.rateLimit.requestsPerMinute below it; processing resumes by itself.",
    ),
    Reason.FLOW_TIMEOUT: (
        "FlowReachable=False",
        "Most runs get no answer within spec.flow.timeoutSeconds, so workers pause and probe.",
        "Look at the flow server, or allow more time; processing resumes by itself.",
    ),
    Reason.ENGINE_MISSING: (
        "FlowReachable=False",
        "The worker image has no flow engine, or lacks a component package.",
        "Use the image target `local`, or an image of your own with the package that is named.",
    ),
    Reason.WORKERS_READY: ("WorkersAvailable=True", "All wanted workers are ready.", ""),
    Reason.SCALED_TO_ZERO: ("WorkersAvailable=True", "No workers are wanted.", ""),
    Reason.WORKERS_STARTING: (
        "WorkersAvailable=False",
        "Workers are starting.",
        "Wait; after some minutes it becomes WorkersUnavailable.",
    ),
    Reason.WORKERS_UNAVAILABLE: (
        "WorkersAvailable=False",
        "Worker Pods do not become ready.",
        "`kubectl describe pod` of a worker, and its log; mostly too few resources, a missing "
        "volume, or a worker that cannot join its consumer group.",
    ),
    Reason.WORKERS_CRASHING: (
        "WorkersAvailable=False",
        "A worker exits again and again.",
        "`kubectl logs --previous` of the Pod; the message holds the exit code.",
    ),
    Reason.IMAGE_UNAVAILABLE: (
        "WorkersAvailable=False",
        "The worker image cannot be pulled.",
        "Check spec.worker.image, imagePullSecrets and the registry.",
    ),
    Reason.SCHEDULED: (
        "status.reason, with source.schedule",
        "No run has been due yet.",
        "",
    ),
    Reason.RUNNING: ("status.reason, with source.schedule", "A run goes on.", ""),
    Reason.RUN_SUCCEEDED: (
        "Degraded=False, with source.schedule",
        "The last run ended well.",
        "",
    ),
    Reason.RUN_FAILED: (
        "Degraded=True, with source.schedule",
        "The last run failed: its flow failed in all attempts, its result could not be written, or "
        "its Pod could not run. The next run that succeeds ends this.",
        "The message holds the run's last words; `kubectl logs job/JOB` has the rest. Repair the "
        "cause, and run it again at once with `flowbinding run NAME`.",
    ),
    Reason.OUTPUT_UNAVAILABLE: (
        "Degraded=True",
        "Results cannot be written to spec.output.topic, or to the topic of one of "
        "spec.output.routes. They wait on the workers' disks, and flows go on until "
        "spec.output.spool.sizeLimit is used up; nothing is committed past them.",
        "Create the topic, or grant WRITE. Do not delete worker Pods meanwhile: what waits there "
        "would run again.",
    ),
    Reason.DEAD_LETTER_UNAVAILABLE: (
        "Degraded=True",
        "Dead letters cannot be written. They wait on the workers' disks, and nothing is committed "
        "past the messages they stand for.",
        "Create the dead-letter topic, or grant WRITE.",
    ),
    Reason.RECORD_UNREADABLE: (
        "Degraded=True",
        "A record cannot be read from its partition: a damaged batch, or a header name that is not "
        "UTF-8. That partition waits at the record; the others go on.",
        "The message names partition and offset. Move the group's offset past it if it can be "
        "spared, then delete the worker Pod that holds the partition.",
    ),
    Reason.SCHEMA_REGISTRY_UNREACHABLE: (
        "Degraded=True",
        "A message needs a schema that the worker has not read yet, and the schema registry does "
        "not answer in time, is busy (429) or fails (5xx). Messages wait and lose no attempts; the "
        "registry is tried again, every 15 s at most.",
        "Look after the registry. If only workers cannot reach it, check "
        "spec.kafka.schemaRegistry.url and NetworkPolicies.",
    ),
    Reason.SCHEMA_REGISTRY_UNAUTHORIZED: (
        "Degraded=True",
        "The schema registry refuses the user, the token or the certificate (401 or 403), or the "
        "token endpoint refuses the client. Messages wait and lose no attempts.",
        "Repair the Secret behind spec.kafka.schemaRegistry.auth, which workers read anew, or the "
        "rights: the user has to read schemas by their number.",
    ),
    Reason.SCHEMA_REGISTRY_MISCONFIGURED: (
        "Degraded=True",
        "What answers at spec.kafka.schemaRegistry.url is no schema registry with Confluent's "
        "interface, there is no such host, or TLS to it fails. Messages wait and lose no attempts.",
        "Check the URL, with its path: Apicurio has the interface at /apis/ccompat/v7.",
    ),
    Reason.OFFSET_OUT_OF_RANGE: (
        "Degraded=True",
        "A partition ends before the offset that the group has committed: the topic was deleted "
        "and created again, or a broker lost messages. The group starts at the partition's "
        "beginning, so that nothing is passed over; what is still there of the old messages runs "
        "again.",
        "Nothing, if the topic was created anew. Otherwise look why messages were lost, such as "
        "unclean.leader.election.enable.",
    ),
    Reason.UNEXPECTED_ERROR: (
        "Degraded=True",
        "Most runs end with an error that the worker does not know, so it pauses and probes.",
        "The worker's log has the traceback: a fault in a component of the flow, or in FlowBinding "
        "itself; please report the latter.",
    ),
    Reason.DEAD_LETTER_FLOOD: (
        "Degraded=True",
        "More than half of a partition's last 200 messages, or 100 in a row, became dead letters. "
        "That partition waits, and one message a minute is tried; the others go on.",
        "The dead letters say why. Repair the flow or the producer: the first message that "
        "succeeds ends it. If the dead letters are right, set spec.deadLetter.floodGuard to false "
        "until the bad messages are through.",
    ),
    Reason.LAG_KNOWN: ("ScalingActive=True", "The lag is known.", ""),
    Reason.LAG_UNKNOWN: (
        "ScalingActive=False",
        "The lag is not known at the moment; the number of workers stays as it is.",
        "See TopicAvailable.",
    ),
    Reason.NOT_LIMITED: ("ScalingLimited=False", "Nothing limits the number of workers.", ""),
    Reason.BACKLOG: ("status.reason", "So many workers because of the backlog.", ""),
    Reason.ARRIVALS: ("status.reason", "So many workers because of the arrival rate.", ""),
    Reason.IDLE: ("status.reason", "Nothing to do for idleSeconds.", ""),
    Reason.MIN_REPLICAS: ("status.reason", "minReplicas keeps workers running.", ""),
    Reason.MAX_REPLICAS: (
        "ScalingLimited=True",
        "maxReplicas is below what the lag asks for.",
        "Raise spec.scaling.maxReplicas if the flow server can take it.",
    ),
    Reason.PARTITION_LIMIT: (
        "ScalingLimited=True",
        "A consumer group cannot use more workers than there are partitions; with "
        "spec.concurrency.ordering Partition, nor more runs at a time.",
        "Add partitions. With ordering Key or None, raising spec.concurrency.perReplica helps too; "
        "with Partition, ordering Key does.",
    ),
    Reason.HOT_PARTITION: (
        "ScalingLimited=True",
        "More arrives in one partition than one worker can do, and a partition has one worker: no "
        "number of them helps.",
        "Spread the messages: other keys, or more partitions. With ordering Key or None, raising "
        "spec.concurrency.perReplica helps too; with Partition, ordering Key does.",
    ),
    Reason.PARTITION_STALLED: (
        "ScalingLimited=True",
        "Messages wait in a partition of which nothing gets done although workers run; workers are "
        "not added for it.",
        "Mostly one message that is tried again and again, or a run that hangs: see the workers' "
        "logs, spec.retry and spec.flow.timeoutSeconds.",
    ),
    Reason.BACKEND_SATURATED: (
        "ScalingLimited=True",
        "The last workers that were added got nothing more done, runs only took longer; or workers "
        "report a trouble that more of them would not cure.",
        "Where Ready or Degraded tell a trouble, cure that. Else give the flow server more "
        "capacity, or set spec.concurrency.maxInFlight to what it can take; more workers are tried "
        "again after ten minutes.",
    ),
    Reason.IN_FLIGHT_LIMIT: (
        "ScalingLimited=True",
        "spec.concurrency.maxInFlight allows no more runs at a time.",
        "Raise it if the flow server can take it.",
    ),
    Reason.RATE_LIMIT: (
        "ScalingLimited=True",
        "spec.rateLimit allows no more runs in a minute.",
        "Raise it if the flow server can take it.",
    ),
    Reason.SCHEDULE: (
        "ScalingLimited=True or status.reason",
        "A bound of spec.scaling.schedules that is on decides.",
        "",
    ),
    Reason.SCALING_POLICY: (
        "status.reason",
        "A policy in spec.scaling.behavior allows no faster change.",
        "",
    ),
    Reason.STABILIZING: (
        "status.reason",
        "Fewer workers would do, but the scale-down window is not over.",
        "",
    ),
    Reason.NOT_ACTIVATED: (
        "status.reason",
        "There are messages, but no more than spec.scaling.activation asks for to wake up.",
        "",
    ),
    Reason.FALLBACK: (
        "ScalingActive=False",
        "The lag has been unknown for so long that spec.scaling.fallback decides.",
        "See TopicAvailable.",
    ),
    Reason.DRY_RUN: (
        "status.reason",
        "spec.scaling.dryRun is true: status.recommendedReplicas tells what would run.",
        "",
    ),
    Reason.STATIC: ("status.reason", "spec.scaling.mode is Static.", ""),
    Reason.EXTERNAL: ("status.reason", "spec.scaling.mode is External: an HPA decides.", ""),
    Reason.PAUSED: ("Paused=True", "spec.paused is true: no workers run.", ""),
    Reason.NOT_PAUSED: ("Paused=False", "The binding is active.", ""),
}


def troubleshooting() -> str:
    """The page as Markdown."""
    rows = [
        f"| `{reason}` | {condition} | {meaning} | {remedy} |"
        for reason, (condition, meaning, remedy) in ADVICE.items()
    ]
    return _INTRODUCTION + "\n".join(rows) + "\n"
