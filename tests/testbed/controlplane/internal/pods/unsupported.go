package pods

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// unsupported lists what a pod asks for and this node silently could not do:
// said once, in an event, it does not cost anyone an afternoon.
func unsupported(pod *corev1.Pod) string {
	var list []string
	for _, c := range append(append([]corev1.Container(nil), pod.Spec.InitContainers...), pod.Spec.Containers...) {
		if c.Lifecycle != nil {
			list = append(list, "lifecycle hooks of container "+c.Name)
		}
		if c.RestartPolicy != nil {
			list = append(list, "the restart policy of container "+c.Name+" itself (sidecars)")
		}
		for _, p := range []*corev1.Probe{c.StartupProbe, c.ReadinessProbe, c.LivenessProbe} {
			if p != nil && p.GRPC != nil {
				list = append(list, "the gRPC probe of container "+c.Name)
			}
		}
	}
	return strings.Join(list, ", ")
}
