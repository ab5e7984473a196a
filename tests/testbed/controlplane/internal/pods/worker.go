package pods

import (
	"context"
	"maps"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"flowbinding.io/testbed/controlplane/internal/objects"
	"flowbinding.io/testbed/controlplane/internal/volumes"
)

// retryInterval is how often something that is missing is looked for again.
const retryInterval = 2 * time.Second

// Worker runs one pod. All of its state belongs to its own goroutine; everything
// that happens elsewhere (a process ends, a probe has a verdict) is sent to it as
// a function, and after each such event it takes one step towards what the pod
// should be. So there are no locks, and no order of events it cannot be in.
type Worker struct {
	host   *Host
	wake   chan struct{} // capacity 1: the inbox is not empty
	quit   chan struct{} // closed when the worker has ended
	report *reporter
	refs   map[objects.Ref]bool

	mu     sync.Mutex
	inbox  []func()
	access map[string]Access

	pod        *corev1.Pod
	ip         string
	start      metav1.Time
	volumes    *volumes.Volumes
	mounted    bool
	stale      bool      // volumes must be looked at again
	remountAt  time.Time // when, after a failure
	refreshAt  time.Time // when, for a token's sake
	inits      []*container
	mains      []*container
	ending     *ending
	terminated bool // reached Succeeded or Failed, never to run again
	left       bool // the pod is no more, or no more ours, in the API server
	abandoned  bool // the node ends; what it has written is for its next life
}

// ending is a pod on its way out.
type ending struct {
	grace  time.Duration
	since  time.Time
	reason string // why, for a pod that stays in the API (a deadline)
	detail string
}

// NewWorker starts running a pod. preferred is an address that is reserved for
// it already, or "".
func NewWorker(host *Host, pod *corev1.Pod, preferred string) *Worker {
	w := &Worker{host: host, wake: make(chan struct{}, 1), quit: make(chan struct{}), report: newReporter(host, pod),
		refs: objects.References(pod), access: map[string]Access{}, pod: pod, ip: preferred, start: metav1.Now()}
	if pod.Status.StartTime != nil {
		w.start = *pod.Status.StartTime
	}
	for i := range pod.Spec.InitContainers {
		w.inits = append(w.inits, newContainer(&pod.Spec.InitContainers[i], true, pod.Status.InitContainerStatuses))
	}
	for i := range pod.Spec.Containers {
		w.mains = append(w.mains, newContainer(&pod.Spec.Containers[i], false, pod.Status.ContainerStatuses))
	}
	if list := unsupported(pod); list != "" && host.Launcher != nil {
		w.podEvent(corev1.EventTypeWarning, "Unsupported", "A process node does not do: %s", list)
	}
	go w.loop()
	return w
}

func newContainer(spec *corev1.Container, init bool, statuses []corev1.ContainerStatus) *container {
	c := &container{name: spec.Name, init: init}
	for i := range statuses {
		if statuses[i].Name == spec.Name {
			c.restore(&statuses[i])
		}
	}
	return c
}

// Update tells what the API server has now.
func (w *Worker) Update(pod *corev1.Pod) { w.post(func() { w.takeOver(pod) }) }

// Leave tells that the pod is gone from the API server.
func (w *Worker) Leave() { w.post(func() { w.left = true }) }

// Changed tells that a ConfigMap or Secret has changed.
func (w *Worker) Changed(ref objects.Ref) {
	if w.refs[ref] {
		w.post(func() {
			w.stale = true
			for _, c := range w.containers() {
				if c.waiting.Reason == reasonConfigError {
					c.retryAt = time.Time{}
				}
			}
		})
	}
}

// Done is closed when nothing of the pod is left.
func (w *Worker) Done() <-chan struct{} { return w.quit }

// Abandon ends all processes, because the node itself ends. The API server is
// not told: the next life of the node takes the pods up again.
func (w *Worker) Abandon(grace time.Duration) {
	w.post(func() {
		w.left, w.abandoned = true, true
		w.ending = &ending{since: time.Now(), grace: grace}
	})
}

// post never blocks; after the worker's end it does nothing.
func (w *Worker) post(event func()) {
	w.mu.Lock()
	w.inbox = append(w.inbox, event)
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default: // it will see this event with an earlier one
	}
}

func (w *Worker) loop() {
	defer close(w.quit)
	timer := time.NewTimer(0)
	for {
		select {
		case <-w.wake:
		case <-timer.C:
		}
		w.handle()
		next := w.step(time.Now())
		if w.ending != nil && !w.anyRunning() && (w.left || w.pod.DeletionTimestamp != nil) {
			w.depart()
			return
		}
		w.publish()
		timer.Reset(max(0, time.Until(next)))
	}
}

func (w *Worker) handle() {
	w.mu.Lock()
	events := w.inbox
	w.inbox = nil
	w.mu.Unlock()
	for _, event := range events {
		event()
	}
}

func (w *Worker) takeOver(pod *corev1.Pod) {
	if !maps.Equal(w.pod.Labels, pod.Labels) || !maps.Equal(w.pod.Annotations, pod.Annotations) {
		w.stale = true // they may be in a volume
	}
	for i, c := range w.inits {
		c.imageChanged(w.pod.Spec.InitContainers[i].Image, pod.Spec.InitContainers[i].Image)
	}
	for i, c := range w.mains {
		c.imageChanged(w.pod.Spec.Containers[i].Image, pod.Spec.Containers[i].Image)
	}
	w.pod = pod
}

func (w *Worker) containers() []*container {
	return append(append([]*container(nil), w.inits...), w.mains...)
}

func (w *Worker) anyRunning() bool {
	for _, c := range w.containers() {
		if c.running() {
			return true
		}
	}
	return false
}

// publish reports the status as it is now.
func (w *Worker) publish() {
	if w.left {
		return
	}
	status := &corev1.PodStatus{HostIP: w.host.IP, HostIPs: []corev1.HostIP{{IP: w.host.IP}}, StartTime: &w.start}
	if w.ip != "" {
		status.PodIP, status.PodIPs = w.ip, []corev1.PodIP{{IP: w.ip}}
	}
	policy := w.pod.Spec.RestartPolicy
	for i, c := range w.inits {
		status.InitContainerStatuses = append(status.InitContainerStatuses, c.status(&w.pod.Spec.InitContainers[i], policy))
	}
	for i, c := range w.mains {
		status.ContainerStatuses = append(status.ContainerStatuses, c.status(&w.pod.Spec.Containers[i], policy))
	}
	over := w.ending != nil && !w.anyRunning()
	status.Phase = phase(policy, status.InitContainerStatuses, status.ContainerStatuses, over)
	if w.ending != nil {
		status.Reason, status.Message = w.ending.reason, w.ending.detail
	}
	status.Conditions = conditions(w.pod, status, w.pod.Status.Conditions)
	w.report.report(status)
	if status.Phase == corev1.PodSucceeded || status.Phase == corev1.PodFailed {
		w.retire()
	}
}

// retire gives back what a pod that will never run again does not need.
func (w *Worker) retire() {
	if !w.terminated {
		w.terminated = true
		w.host.Addresses.Release(w.ip)
	}
}

// depart removes the last traces: status, object, address, files.
func (w *Worker) depart() {
	if !w.left {
		w.publish()
	}
	w.report.finish(5 * time.Second)
	if !w.left {
		deleteObject(context.Background(), w.host.Client, w.pod)
	}
	w.retire()
	w.removeFiles()
}
