package pods

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"flowbinding.io/testbed/controlplane/internal/objects"
)

// LogPath is where one run of a container writes its log.
func (h *Host) LogPath(uid types.UID, container string, run int32) string {
	return filepath.Join(h.podDir(uid), "logs", container, fmt.Sprintf("%d.log", run))
}

// Manager has a Worker for each pod of the node.
type Manager struct {
	host     *Host
	mu       sync.Mutex
	workers  map[types.UID]*Worker
	reserved map[types.UID]string // addresses from an earlier life of the node
	closing  bool
}

// NewManager takes over what an earlier life of the node has left.
func NewManager(host *Host, present []*corev1.Pod) *Manager {
	m := &Manager{host: host, workers: map[types.UID]*Worker{}, reserved: map[types.UID]string{}}
	known := map[string]bool{}
	for _, pod := range present {
		known[string(pod.UID)] = true
		if !over(pod) && host.Addresses.Reserve(pod.Status.PodIP) {
			m.reserved[pod.UID] = pod.Status.PodIP
		}
	}
	dir := filepath.Join(host.StateDir, "pods")
	entries, _ := os.ReadDir(dir) // none: nothing to clear
	for _, entry := range entries {
		if !known[entry.Name()] {
			_ = os.RemoveAll(filepath.Join(dir, entry.Name()))
		}
	}
	return m
}

func over(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// Seen is called for each pod that appears or changes.
func (m *Manager) Seen(pod *corev1.Pod) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if worker := m.workers[pod.UID]; worker != nil {
		worker.Update(pod)
		return
	}
	switch {
	case m.closing:
	case over(pod):
		if pod.DeletionTimestamp != nil {
			go deleteObject(context.Background(), m.host.Client, pod)
		}
	default:
		worker := NewWorker(m.host, pod, m.reserved[pod.UID])
		delete(m.reserved, pod.UID)
		m.workers[pod.UID] = worker
		go m.forget(pod.UID, worker)
	}
}

func (m *Manager) forget(uid types.UID, worker *Worker) {
	<-worker.Done()
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.workers, uid)
}

// Gone is called for each pod that is no more in the API server.
func (m *Manager) Gone(uid types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if worker := m.workers[uid]; worker != nil {
		worker.Leave()
	}
}

// Changed is called for each ConfigMap and Secret that changes.
func (m *Manager) Changed(ref objects.Ref) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, worker := range m.workers {
		worker.Changed(ref)
	}
}

// Worker finds a pod's worker.
func (m *Manager) Worker(uid types.UID) (*Worker, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	worker, ok := m.workers[uid]
	return worker, ok
}

// Close ends all processes of all pods.
func (m *Manager) Close(grace time.Duration) {
	m.mu.Lock()
	m.closing = true
	workers := make([]*Worker, 0, len(m.workers))
	for _, worker := range m.workers {
		workers = append(workers, worker)
	}
	m.mu.Unlock()
	for _, worker := range workers {
		worker.Abandon(grace)
	}
	for _, worker := range workers {
		<-worker.Done()
	}
}
