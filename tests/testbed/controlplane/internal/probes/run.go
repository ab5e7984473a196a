package probes

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/probe"
	httpprobe "k8s.io/kubernetes/pkg/probe/http"
	tcpprobe "k8s.io/kubernetes/pkg/probe/tcp"
	utilexec "k8s.io/utils/exec"
)

// Target is what a probe is run against.
type Target struct {
	Container *corev1.Container
	PodIP     string
	// Exec runs a command in the container and returns its output.
	Exec func(ctx context.Context, argv []string) (string, error)
}

var (
	httpProber = httpprobe.New(false)
	tcpProber  = tcpprobe.New()
)

// attempt runs a probe once; the text is the kubelet's.
func attempt(ctx context.Context, p *corev1.Probe, target Target) (bool, string) {
	timeout := time.Duration(max(p.TimeoutSeconds, 1)) * time.Second
	var result probe.Result
	var output string
	var err error
	switch {
	case p.HTTPGet != nil:
		request, bad := httpprobe.NewRequestForHTTPGetAction(p.HTTPGet, target.Container, target.PodIP, "probe")
		if bad != nil {
			return false, bad.Error()
		}
		result, output, err = httpProber.Probe(request, timeout)
	case p.TCPSocket != nil:
		port, bad := probe.ResolveContainerPort(p.TCPSocket.Port, target.Container)
		if bad != nil {
			return false, bad.Error()
		}
		host := p.TCPSocket.Host
		if host == "" {
			host = target.PodIP
		}
		result, output, err = tcpProber.Probe(host, port, timeout)
	case p.Exec != nil:
		return attemptExec(ctx, p.Exec.Command, timeout, target)
	case p.GRPC != nil:
		return false, "gRPC probe of " + net.JoinHostPort(target.PodIP, strconv.Itoa(int(p.GRPC.Port))) + ": this node has none"
	default:
		return true, ""
	}
	if err != nil {
		return false, err.Error()
	}
	return result == probe.Success || result == probe.Warning, output
}

func attemptExec(ctx context.Context, argv []string, timeout time.Duration, target Target) (bool, string) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	output, err := target.Exec(ctx, argv)
	var failed utilexec.CodeExitError
	switch {
	case err == nil:
		return true, output
	case errors.Is(err, context.DeadlineExceeded):
		return false, fmt.Sprintf("command timed out: %q timed out after %s", argv, timeout)
	case errors.As(err, &failed):
		return false, output
	}
	return false, err.Error()
}

// Result is a probe's verdict, or (Verdict false) a failure on the way to one.
type Result struct {
	Healthy bool
	Verdict bool
	Failed  bool // this attempt failed
	Output  string
}

// Run probes until ctx ends, reporting verdicts and counted failures.
func Run(ctx context.Context, p *corev1.Probe, started time.Time, untilReady bool, target Target, report func(Result)) {
	state := State{Success: int(p.SuccessThreshold), Failure: int(p.FailureThreshold)}
	schedule := Schedule{Period: time.Duration(max(p.PeriodSeconds, 1)) * time.Second, Eager: untilReady && p.Exec == nil}
	next, counts, everGood := started.Add(time.Duration(p.InitialDelaySeconds)*time.Second), true, false
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(next)):
		}
		at := time.Now()
		ok, output := attempt(ctx, p, target)
		if ctx.Err() != nil {
			return
		}
		if ok || counts {
			verdict := state.Observe(ok)
			everGood = everGood || state.Healthy
			if verdict || !ok {
				report(Result{Healthy: state.Healthy, Verdict: verdict, Failed: !ok, Output: output})
			}
		}
		next, counts = schedule.Next(at, everGood)
	}
}
