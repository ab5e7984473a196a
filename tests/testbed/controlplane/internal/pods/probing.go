package pods

import (
	"bytes"
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"

	"flowbinding.io/testbed/controlplane/internal/probes"
	"flowbinding.io/testbed/controlplane/internal/proc"
)

// startProbes begins with the startup probe; the others follow its success.
func (w *Worker) startProbes(c *container, spec *corev1.Container) {
	ctx, cancel := context.WithCancel(context.Background())
	c.stopProbe = cancel
	if c.init {
		c.passed = true
		return
	}
	if spec.StartupProbe == nil {
		w.startupPassed(ctx, c, spec)
		return
	}
	startup, stop := context.WithCancel(ctx)
	w.probe(startup, c, spec, spec.StartupProbe, true, func(result probes.Result) {
		switch {
		case result.Verdict && result.Healthy && !c.passed:
			stop()
			w.startupPassed(ctx, c, spec)
		case result.Failed && !c.passed:
			w.failedProbe(c, "Startup", result, spec.StartupProbe)
		}
	})
}

func (w *Worker) startupPassed(ctx context.Context, c *container, spec *corev1.Container) {
	c.passed, c.ready = true, spec.ReadinessProbe == nil
	if p := spec.ReadinessProbe; p != nil {
		w.probe(ctx, c, spec, p, true, func(result probes.Result) {
			if result.Failed {
				w.event(c, corev1.EventTypeWarning, "Unhealthy", "Readiness probe failed: %s", result.Output)
			}
			if result.Verdict {
				c.ready = result.Healthy
			}
		})
	}
	if p := spec.LivenessProbe; p != nil {
		w.probe(ctx, c, spec, p, false, func(result probes.Result) {
			if result.Failed {
				w.failedProbe(c, "Liveness", result, p)
			}
		})
	}
}

// failedProbe restarts the container when the threshold is reached.
func (w *Worker) failedProbe(c *container, kind string, result probes.Result, p *corev1.Probe) {
	w.event(c, corev1.EventTypeWarning, "Unhealthy", "%s probe failed: %s", kind, result.Output)
	if !result.Verdict || c.stopping {
		return
	}
	outcome := "will be restarted"
	if w.pod.Spec.RestartPolicy == corev1.RestartPolicyNever {
		outcome = "will be killed"
	}
	w.event(c, corev1.EventTypeNormal, "Killing", "Container %s failed %s probe, %s", c.name, lower(kind), outcome)
	grace := w.grace()
	if p.TerminationGracePeriodSeconds != nil {
		grace = time.Duration(*p.TerminationGracePeriodSeconds) * time.Second
	}
	c.stop(time.Now(), grace)
}

func lower(kind string) string {
	if kind == "Startup" {
		return "startup"
	}
	return "liveness"
}

// probe runs beside the worker and reports into it, as long as this run of the
// container lasts.
func (w *Worker) probe(ctx context.Context, c *container, spec *corev1.Container, p *corev1.Probe, untilReady bool, report func(probes.Result)) {
	run, access := c.run, Access{Pid: c.pid, Env: c.env, Dir: c.dir}
	target := probes.Target{Container: spec, PodIP: w.ip, Exec: func(ctx context.Context, argv []string) (string, error) {
		var output bytes.Buffer
		err := w.host.Launcher.Exec(ctx, access.Pid, access.Dir, access.Env, argv, proc.Streams{Out: &output, Err: &output})
		return output.String(), err
	}}
	go probes.Run(ctx, p, c.started, untilReady, target, func(result probes.Result) {
		w.post(func() {
			if c.run == run && !c.stopping {
				report(result)
			}
		})
	})
}
