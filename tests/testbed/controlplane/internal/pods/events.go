package pods

import (
	corev1 "k8s.io/api/core/v1"
)

func (w *Worker) reference(fieldPath string) *corev1.ObjectReference {
	return &corev1.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: w.pod.Namespace, Name: w.pod.Name,
		UID: w.pod.UID, ResourceVersion: w.pod.ResourceVersion, FieldPath: fieldPath}
}

// event tells about a container. The recorder joins repetitions.
func (w *Worker) event(c *container, kind, reason, format string, args ...any) {
	if w.host.Launcher == nil {
		return // pretended pods by the thousand would drown the API server in events
	}
	field := "spec.containers{" + c.name + "}"
	if c.init {
		field = "spec.initContainers{" + c.name + "}"
	}
	w.host.Recorder.Eventf(w.reference(field), kind, reason, format, args...)
}

func (w *Worker) podEvent(kind, reason, format string, args ...any) {
	w.host.Recorder.Eventf(w.reference(""), kind, reason, format, args...)
}
