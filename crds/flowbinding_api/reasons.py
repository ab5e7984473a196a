"""Every reason a condition, an Event or a metric may carry, with what it means and what to do.

One list for both programs and for the troubleshooting page, which is generated from it.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """CamelCase reasons; `troubleshooting.ADVICE` says what each means and what to do."""

    # Ready and Degraded
    READY = "Ready"
    RECONCILING = "Reconciling"
    HEALTHY = "Healthy"
    INVALID_SPEC = "InvalidSpec"
    SECRET_MISSING = "SecretMissing"  # noqa: S105
    CONFIG_MAP_MISSING = "ConfigMapMissing"
    APPLY_REFUSED = "ApplyRefused"
    KUBERNETES_FORBIDDEN = "KubernetesForbidden"

    # TopicAvailable
    TOPIC_FOUND = "TopicFound"
    TOPIC_MISSING = "TopicMissing"
    TOPIC_UNAUTHORIZED = "TopicUnauthorized"
    MORE_PARTITIONS = "MorePartitions"
    PROVISIONING_DENIED = "ProvisioningDenied"
    PROVISIONING_REFUSED = "ProvisioningRefused"
    PROVISIONING_FAILED = "ProvisioningFailed"
    KAFKA_NOT_CONFIGURED = "KafkaNotConfigured"
    KAFKA_UNREACHABLE = "KafkaUnreachable"
    KAFKA_UNAUTHORIZED = "KafkaUnauthorized"

    # FlowConfigured
    CONFIGURED = "Configured"
    SKIPPED = "Skipped"
    FLOW_FILE_INVALID = "FlowFileInvalid"

    # FlowReachable
    FLOW_ANSWERED = "FlowAnswered"
    NOT_CALLED_YET = "NotCalledYet"
    SERVER_HEALTHY = "ServerHealthy"
    PROBE_FAILED = "ProbeFailed"
    FLOW_UNAUTHORIZED = "FlowUnauthorized"
    FLOW_NOT_FOUND = "FlowNotFound"
    FLOW_UNREACHABLE = "FlowUnreachable"
    FLOW_MISCONFIGURED = "FlowMisconfigured"
    FLOW_FAILING = "FlowFailing"
    FLOW_THROTTLED = "FlowThrottled"
    FLOW_TIMEOUT = "FlowTimeout"
    ENGINE_MISSING = "EngineMissing"
    ECHO_INSTEAD = "EchoInstead"

    # WorkersAvailable
    WORKERS_READY = "WorkersReady"
    SCALED_TO_ZERO = "ScaledToZero"
    WORKERS_STARTING = "WorkersStarting"
    WORKERS_UNAVAILABLE = "WorkersUnavailable"
    WORKERS_CRASHING = "WorkersCrashing"
    IMAGE_UNAVAILABLE = "ImageUnavailable"

    # source.schedule: status.reason, Ready and Degraded
    SCHEDULED = "Scheduled"
    RUNNING = "Running"
    RUN_SUCCEEDED = "RunSucceeded"
    RUN_FAILED = "RunFailed"

    # Degraded, as workers report it
    OUTPUT_UNAVAILABLE = "OutputUnavailable"
    DEAD_LETTER_UNAVAILABLE = "DeadLetterUnavailable"
    SCHEMA_REGISTRY_UNREACHABLE = "SchemaRegistryUnreachable"
    SCHEMA_REGISTRY_UNAUTHORIZED = "SchemaRegistryUnauthorized"
    SCHEMA_REGISTRY_MISCONFIGURED = "SchemaRegistryMisconfigured"
    RECORD_UNREADABLE = "RecordUnreadable"
    OFFSET_OUT_OF_RANGE = "OffsetOutOfRange"
    DEAD_LETTER_FLOOD = "DeadLetterFlood"
    UNEXPECTED_ERROR = "UnexpectedError"

    # ScalingActive, ScalingLimited, status.reason
    LAG_KNOWN = "LagKnown"
    LAG_UNKNOWN = "LagUnknown"
    NOT_LIMITED = "NotLimited"
    BACKLOG = "Backlog"
    ARRIVALS = "Arrivals"
    IDLE = "Idle"
    MIN_REPLICAS = "MinReplicas"
    MAX_REPLICAS = "MaxReplicas"
    PARTITION_LIMIT = "PartitionLimit"
    HOT_PARTITION = "HotPartition"
    PARTITION_STALLED = "PartitionStalled"
    BACKEND_SATURATED = "BackendSaturated"
    IN_FLIGHT_LIMIT = "InFlightLimit"
    RATE_LIMIT = "RateLimit"
    SCHEDULE = "Schedule"
    SCALING_POLICY = "ScalingPolicy"
    STABILIZING = "Stabilizing"
    NOT_ACTIVATED = "NotActivated"
    FALLBACK = "Fallback"
    DRY_RUN = "DryRun"
    STATIC = "Static"
    EXTERNAL = "External"
    PAUSED = "Paused"
    NOT_PAUSED = "NotPaused"
