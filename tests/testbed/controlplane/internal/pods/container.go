package pods

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"flowbinding.io/testbed/controlplane/internal/proc"
)

// process is a running container; proc.Process, or a pretended one.
type process interface {
	Done() <-chan struct{}
	Exit() proc.Exit
	Terminate()
	Kill()
}

// container is one container of a pod, over all its runs. Only the pod's
// worker touches it.
type container struct {
	name string
	init bool

	run       process // nil: not running
	pid       int
	image     string // of the run
	started   time.Time
	env       []string
	dir       string
	passed    bool // the startup probe, or there is none
	ready     bool
	stopProbe context.CancelFunc

	restarts int32
	last     *corev1.ContainerStateTerminated // how the latest run ended
	before   *corev1.ContainerStateTerminated // how the one before the present ended
	backoff  Backoff
	retryAt  time.Time
	waiting  corev1.ContainerStateWaiting

	stopping bool      // SIGTERM was sent
	killAt   time.Time // when SIGKILL follows
	killed   bool
}

func (c *container) running() bool { return c.run != nil }

// completed says whether an init container is through.
func (c *container) completed() bool {
	return c.run == nil && c.last != nil && c.last.ExitCode == 0
}

// stop asks the container to end, once, and sets when it must; an earlier
// moment than before counts.
func (c *container) stop(now time.Time, grace time.Duration) {
	deadline := now.Add(grace)
	if !c.stopping {
		c.stopping, c.killAt = true, deadline
		c.endProbes()
		c.run.Terminate()
	}
	if deadline.Before(c.killAt) {
		c.killAt = deadline
	}
	c.enforce(now)
}

// enforce kills a container whose time is over.
func (c *container) enforce(now time.Time) {
	if c.stopping && !c.killed && !now.Before(c.killAt) {
		c.killed = true
		c.run.Kill()
	}
}

// imageChanged lets a container that waits for its image try the new one now.
func (c *container) imageChanged(from, to string) {
	if from != to && c.waiting.Reason == reasonNeverPull {
		c.retryAt = time.Time{}
	}
}

func (c *container) endProbes() {
	if c.stopProbe != nil {
		c.stopProbe()
		c.stopProbe = nil
	}
}

// ended takes note of the end of a run.
func (c *container) ended(exit proc.Exit, message string) {
	c.endProbes()
	reason := "Completed"
	if exit.Code != 0 {
		reason = "Error"
	}
	c.last = &corev1.ContainerStateTerminated{ExitCode: exit.Code, Signal: exit.Signal, Reason: reason, Message: message,
		StartedAt: metav1.NewTime(c.started), FinishedAt: metav1.NewTime(exit.At), ContainerID: c.id()}
	c.run, c.ready, c.passed, c.stopping, c.killed = nil, false, false, false, false
}

func (c *container) id() string {
	if c.pid == 0 {
		return ""
	}
	return fmt.Sprintf("process://%d", c.pid)
}

// mayRestart applies a restart policy to a container that has ended.
func (c *container) mayRestart(policy corev1.RestartPolicy) bool {
	switch {
	case c.init && c.completed():
		return false
	case policy == corev1.RestartPolicyNever:
		return false
	case policy == corev1.RestartPolicyOnFailure || c.init:
		return c.last.ExitCode != 0
	}
	return true
}

// status is the container's part of the pod's status.
func (c *container) status(spec *corev1.Container, policy corev1.RestartPolicy) corev1.ContainerStatus {
	passed := c.running() && c.passed
	status := corev1.ContainerStatus{Name: c.name, Image: spec.Image, RestartCount: c.restarts, Started: &passed, Ready: c.running() && c.ready, ContainerID: c.id()}
	if c.image != "" {
		status.Image, status.ImageID = c.image, "process://"+c.image
	}
	switch {
	case c.running():
		status.State.Running = &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(c.started)}
		status.LastTerminationState.Terminated = c.before
	case c.last != nil && (c.waiting.Reason == "" || !c.mayRestart(policy)):
		status.State.Terminated = c.last
		status.LastTerminationState.Terminated = c.before
		status.Ready = c.init && c.completed()
	default:
		waiting := c.waiting
		status.State.Waiting = &waiting
		status.LastTerminationState.Terminated = c.last
	}
	return status
}

// restore takes over what an earlier life of the node has reported.
func (c *container) restore(status *corev1.ContainerStatus) {
	c.restarts = status.RestartCount
	c.before = status.LastTerminationState.Terminated
	switch {
	case status.State.Terminated != nil:
		c.last = status.State.Terminated
	case status.State.Running != nil:
		c.last = &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "ContainerStatusUnknown",
			Message:   "The container ended with an earlier run of the node",
			StartedAt: status.State.Running.StartedAt, FinishedAt: metav1.Now(), ContainerID: status.ContainerID}
	case status.LastTerminationState.Terminated != nil: // it was waiting for its next start
		c.last = status.LastTerminationState.Terminated
	}
}
