package pods

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// phase is the kubelet's summary of a pod. `over` says that nothing will be
// started any more, whatever the restart policy.
func phase(policy corev1.RestartPolicy, inits, mains []corev1.ContainerStatus, over bool) corev1.PodPhase {
	for i := range inits {
		state := inits[i].State
		switch {
		case state.Terminated != nil && state.Terminated.ExitCode == 0:
			continue
		case state.Terminated != nil && (policy == corev1.RestartPolicyNever || over):
			return corev1.PodFailed
		case over:
			return corev1.PodFailed
		}
		return corev1.PodPending
	}
	running, waiting, stopped, succeeded := 0, 0, 0, 0
	for i := range mains {
		switch state := mains[i].State; {
		case state.Running != nil:
			running++
		case state.Terminated != nil:
			stopped++
			if state.Terminated.ExitCode == 0 {
				succeeded++
			}
		case mains[i].LastTerminationState.Terminated != nil:
			stopped++ // between two runs
		default:
			waiting++
		}
	}
	switch {
	case over && running == 0:
		if succeeded == len(mains) {
			return corev1.PodSucceeded
		}
		return corev1.PodFailed
	case waiting > 0:
		return corev1.PodPending
	case running > 0 || policy == corev1.RestartPolicyAlways:
		return corev1.PodRunning
	case succeeded == stopped:
		return corev1.PodSucceeded
	case policy == corev1.RestartPolicyNever:
		return corev1.PodFailed
	}
	return corev1.PodRunning
}

// conditions are those that a kubelet sets. gates is what others have set, for
// a pod's readiness gates.
func conditions(pod *corev1.Pod, status *corev1.PodStatus, gates []corev1.PodCondition) []corev1.PodCondition {
	over := status.Phase == corev1.PodSucceeded || status.Phase == corev1.PodFailed
	initialized := summary(corev1.PodInitialized, status.InitContainerStatuses, "ContainersNotInitialized", "containers with incomplete status")
	containersReady := summary(corev1.ContainersReady, status.ContainerStatuses, "ContainersNotReady", "containers with unready status")
	switch {
	case status.Phase == corev1.PodSucceeded:
		initialized = condition(corev1.PodInitialized, true, "PodCompleted", "")
		containersReady = condition(corev1.ContainersReady, false, "PodCompleted", "")
	case over:
		containersReady = condition(corev1.ContainersReady, false, "PodFailed", "")
	}
	ready := containersReady
	ready.Type = corev1.PodReady
	for _, gate := range pod.Spec.ReadinessGates {
		if ready.Status == corev1.ConditionTrue && !isSet(gates, gate.ConditionType) {
			ready = condition(corev1.PodReady, false, "ReadinessGatesNotReady", fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist or is not \"True\".", gate.ConditionType))
		}
	}
	return []corev1.PodCondition{condition(corev1.PodScheduled, true, "", ""), initialized, containersReady, ready}
}

func summary(kind corev1.PodConditionType, statuses []corev1.ContainerStatus, reason, message string) corev1.PodCondition {
	var missing []string
	for i := range statuses {
		if !statuses[i].Ready {
			missing = append(missing, statuses[i].Name)
		}
	}
	if len(missing) > 0 {
		return condition(kind, false, reason, fmt.Sprintf("%s: [%s]", message, strings.Join(missing, " ")))
	}
	return condition(kind, true, "", "")
}

func condition(kind corev1.PodConditionType, ok bool, reason, message string) corev1.PodCondition {
	status := corev1.ConditionFalse
	if ok {
		status = corev1.ConditionTrue
	}
	return corev1.PodCondition{Type: kind, Status: status, Reason: reason, Message: message}
}

func isSet(conditions []corev1.PodCondition, kind corev1.PodConditionType) bool {
	for i := range conditions {
		if conditions[i].Type == kind {
			return conditions[i].Status == corev1.ConditionTrue
		}
	}
	return false
}

// mergeConditions lays ours over what is there: others' conditions stay, and a
// transition time changes only with the status.
func mergeConditions(present, ours []corev1.PodCondition, now metav1.Time) []corev1.PodCondition {
	merged := append([]corev1.PodCondition(nil), present...)
	for _, own := range ours {
		own.LastTransitionTime = now
		at := -1
		for i := range merged {
			if merged[i].Type == own.Type {
				at = i
			}
		}
		if at < 0 {
			merged = append(merged, own)
			continue
		}
		if merged[at].Status == own.Status {
			own.LastTransitionTime = merged[at].LastTransitionTime
		}
		own.LastProbeTime, own.ObservedGeneration = merged[at].LastProbeTime, merged[at].ObservedGeneration
		merged[at] = own
	}
	return merged
}
