// Package pods runs the pods of one node: one Worker each, which is told what
// the API server wants, starts and ends the containers and says how they are.
package pods

import (
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"

	"flowbinding.io/testbed/controlplane/internal/images"
	"flowbinding.io/testbed/controlplane/internal/ippool"
	"flowbinding.io/testbed/controlplane/internal/podenv"
	"flowbinding.io/testbed/controlplane/internal/proc"
	"flowbinding.io/testbed/controlplane/internal/volumes"
)

// Host is what all pods of the node share.
type Host struct {
	Client      kubernetes.Interface
	Source      volumes.Source
	Recorder    record.EventRecorder
	Launcher    *proc.Launcher // nil: pods are only pretended to run
	Addresses   *ippool.Pool
	Images      images.Set
	Environment []corev1.EnvVar
	Expose      []string // directories that a volume above them must not hide
	StateDir    string
	IP          string
	Allocatable corev1.ResourceList
}

func (h *Host) podDir(uid types.UID) string {
	return filepath.Join(h.StateDir, "pods", string(uid))
}

func (h *Host) containerDir(uid types.UID, container string) string {
	return filepath.Join(h.podDir(uid), "containers", container)
}

func (h *Host) view(pod *corev1.Pod, ip string) podenv.Pod {
	return podenv.Pod{Pod: pod, IP: ip, HostIP: h.IP, Allocatable: h.Allocatable}
}
