package pods

import (
	"context"
	"fmt"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"
)

// farAway is when a worker with nothing to wait for looks again.
const farAway = time.Hour

// forcedGrace is for pods whose object is gone already (a forced deletion).
const forcedGrace = time.Second

// step does what can be done now and says when to look again.
func (w *Worker) step(now time.Time) time.Time {
	w.decideEnding(now)
	if w.ending != nil {
		return w.end(now)
	}
	if w.terminated {
		return now.Add(farAway)
	}
	next := now.Add(farAway)
	sooner := func(t time.Time) {
		if !t.IsZero() && t.Before(next) {
			next = t
		}
	}
	sooner(w.deadline())
	if retry, ok := w.prepare(now); !ok {
		return earlier(next, retry)
	}
	sooner(w.refreshAt)
	ready := true
	for i, c := range w.inits {
		if ready {
			sooner(w.advance(now, c, &w.pod.Spec.InitContainers[i]))
		}
		ready = ready && c.completed()
	}
	for i, c := range w.mains {
		if ready {
			sooner(w.advance(now, c, &w.pod.Spec.Containers[i]))
		} else if c.waiting.Reason == "" {
			c.waiting = corev1.ContainerStateWaiting{Reason: "PodInitializing"}
		}
	}
	return next
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func (w *Worker) deadline() time.Time {
	if seconds := w.pod.Spec.ActiveDeadlineSeconds; seconds != nil {
		return w.start.Add(time.Duration(*seconds) * time.Second)
	}
	return time.Time{}
}

// decideEnding finds reasons to end the pod; a grace period can only get
// shorter on the way.
func (w *Worker) decideEnding(now time.Time) {
	grace := 30 * time.Second
	if s := w.pod.Spec.TerminationGracePeriodSeconds; s != nil {
		grace = time.Duration(*s) * time.Second
	}
	reason, detail := "", ""
	switch {
	case w.left:
		grace = min(grace, forcedGrace)
	case w.pod.DeletionTimestamp != nil:
		if s := w.pod.DeletionGracePeriodSeconds; s != nil {
			grace = time.Duration(*s) * time.Second
		}
	case !w.deadline().IsZero() && !now.Before(w.deadline()) && !w.terminated:
		reason, detail = "DeadlineExceeded", "Pod was active on the node longer than the specified deadline"
	default:
		return
	}
	switch {
	case w.ending == nil:
		w.ending = &ending{grace: grace, since: now, reason: reason, detail: detail}
	case w.ending.since.Add(w.ending.grace).After(now.Add(grace)) && !w.left:
		w.ending.grace, w.ending.since = grace, now
	}
}

// end stops all containers.
func (w *Worker) end(now time.Time) time.Time {
	next := now.Add(farAway)
	for _, c := range w.containers() {
		if !c.running() {
			if c.last != nil {
				c.waiting = corev1.ContainerStateWaiting{} // for no further start
			}
			continue
		}
		if !c.stopping && !w.left {
			w.event(c, corev1.EventTypeNormal, "Killing", "Stopping container %s", c.name)
		}
		c.stop(now, w.ending.since.Add(w.ending.grace).Sub(now))
		if !c.killed {
			next = earlier(next, c.killAt)
		}
	}
	return next
}

// prepare gives the pod its address and volumes, and keeps the volumes fresh.
func (w *Worker) prepare(now time.Time) (time.Time, bool) {
	if w.ip == "" {
		address, err := w.host.Addresses.Take()
		if err != nil {
			w.podEvent(corev1.EventTypeWarning, "FailedCreatePodSandBox", "Failed to create pod sandbox: %v", err)
			return w.hold(now, "ContainerCreating", "")
		}
		w.ip = address
	}
	due := !w.refreshAt.IsZero() && !now.Before(w.refreshAt)
	switch {
	case w.host.Launcher == nil || (w.mounted && !w.stale && !due):
		return time.Time{}, true
	case !w.mounted && !w.stale && now.Before(w.remountAt):
		return w.remountAt, false
	}
	refresh, err := w.theVolumes().Sync(w.host.view(w.pod, w.ip))
	w.stale = false
	if err == nil && !w.mounted {
		err = w.writeHosts()
	}
	if err == nil {
		w.mounted, w.refreshAt = true, refresh
		return time.Time{}, true
	}
	w.podEvent(corev1.EventTypeWarning, "FailedMount", "%v", err)
	if w.mounted { // running already: it keeps what it has
		w.refreshAt = now.Add(retryInterval)
		return time.Time{}, true
	}
	w.remountAt = now.Add(retryInterval)
	return w.hold(now, "ContainerCreating", "")
}

// hold lets all containers that have not run yet wait for a reason.
func (w *Worker) hold(now time.Time, reason, message string) (time.Time, bool) {
	for _, c := range w.containers() {
		if !c.running() && c.last == nil {
			c.waiting = corev1.ContainerStateWaiting{Reason: reason, Message: message}
		}
	}
	return now.Add(retryInterval), false
}

// advance brings one container forward.
func (w *Worker) advance(now time.Time, c *container, spec *corev1.Container) time.Time {
	if c.running() {
		if c.image != spec.Image && !c.stopping {
			w.event(c, corev1.EventTypeNormal, "Killing", "Container %s definition changed, will be restarted", c.name)
			c.stop(now, w.grace())
		}
		c.enforce(now)
		if c.stopping && !c.killed {
			return c.killAt
		}
		return time.Time{}
	}
	if c.last != nil && !c.mayRestart(w.pod.Spec.RestartPolicy) {
		c.waiting = corev1.ContainerStateWaiting{}
		return time.Time{}
	}
	if now.Before(c.retryAt) {
		return c.retryAt
	}
	w.run(now, c, spec)
	if !c.running() {
		return c.retryAt
	}
	return time.Time{}
}

func (w *Worker) grace() time.Duration {
	if s := w.pod.Spec.TerminationGracePeriodSeconds; s != nil {
		return time.Duration(*s) * time.Second
	}
	return 30 * time.Second
}

// exited is called when a run is over.
func (w *Worker) exited(c *container, run process) {
	if c.run != run {
		return
	}
	now, ran := time.Now(), time.Since(c.started)
	c.ended(run.Exit(), w.terminationMessage(c, run.Exit().Code))
	if w.ending != nil || !c.mayRestart(w.pod.Spec.RestartPolicy) {
		return
	}
	wait := c.backoff.Next(ran)
	c.retryAt = now.Add(wait)
	text := fmt.Sprintf("back-off %s restarting failed container=%s pod=%s_%s(%s)", wait, c.name, w.pod.Name, w.pod.Namespace, w.pod.UID)
	c.waiting = corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: text}
	w.event(c, corev1.EventTypeWarning, "BackOff", "Back-off restarting failed container %s in pod %s_%s(%s)", c.name, w.pod.Name, w.pod.Namespace, w.pod.UID)
}

// deleteObject takes a pod out of the API server, once it runs no more.
func deleteObject(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	options := metav1.DeleteOptions{GracePeriodSeconds: new(int64), Preconditions: &metav1.Preconditions{UID: &pod.UID}}
	for {
		err := client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, options)
		if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			return
		}
		klog.Warningf("deleting pod %s/%s: %v", pod.Namespace, pod.Name, err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
		}
	}
}

func (w *Worker) removeFiles() {
	if w.host.Launcher == nil || w.abandoned {
		return
	}
	if err := os.RemoveAll(w.host.podDir(w.pod.UID)); err != nil {
		klog.Warningf("removing the files of pod %s/%s: %v", w.pod.Namespace, w.pod.Name, err)
	}
}
