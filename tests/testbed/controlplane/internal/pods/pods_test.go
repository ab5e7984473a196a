package pods

import (
	"reflect"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"flowbinding.io/testbed/controlplane/internal/sandbox"
)

func TestBackoff(t *testing.T) {
	var b Backoff
	var got []time.Duration
	for _, ran := range []time.Duration{0, 0, 0, 29 * time.Second, 0, 0, 30 * time.Second, 0} {
		got = append(got, b.Next(ran)/time.Second)
	}
	if want := []time.Duration{1, 2, 4, 8, 10, 10, 1, 2}; !reflect.DeepEqual(got, want) {
		t.Error(got)
	}
}

func running() corev1.ContainerStatus {
	return corev1.ContainerStatus{Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}
}

func ended(code int32) corev1.ContainerStatus {
	return corev1.ContainerStatus{Ready: code == 0, State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code}}}
}

func waiting() corev1.ContainerStatus {
	return corev1.ContainerStatus{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{}}}
}

func crashed() corev1.ContainerStatus {
	status := waiting()
	status.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 1}
	return status
}

func TestPhase(t *testing.T) {
	type list = []corev1.ContainerStatus
	for name, c := range map[string]struct {
		policy       corev1.RestartPolicy
		inits, mains list
		over         bool
		want         corev1.PodPhase
	}{
		"starting":                 {"Always", nil, list{waiting()}, false, "Pending"},
		"running":                  {"Always", nil, list{running()}, false, "Running"},
		"one of two":               {"Always", nil, list{running(), waiting()}, false, "Pending"},
		"crash loop":               {"Always", nil, list{crashed()}, false, "Running"},
		"init runs":                {"Never", list{running()}, list{waiting()}, false, "Pending"},
		"init failed, never again": {"Never", list{ended(1)}, list{waiting()}, false, "Failed"},
		"init failed, again":       {"Always", list{ended(1)}, list{waiting()}, false, "Pending"},
		"init done":                {"Always", list{ended(0)}, list{running()}, false, "Running"},
		"job done":                 {"Never", nil, list{ended(0), ended(0)}, false, "Succeeded"},
		"job failed":               {"Never", nil, list{ended(0), ended(2)}, false, "Failed"},
		"job half":                 {"OnFailure", nil, list{ended(0), running()}, false, "Running"},
		"failed, to be repeated":   {"OnFailure", nil, list{crashed()}, false, "Running"},
		"done though Always":       {"Always", nil, list{ended(0)}, false, "Running"},
		"deleted":                  {"Always", nil, list{ended(0)}, true, "Succeeded"},
		"deleted by force":         {"Always", nil, list{ended(137)}, true, "Failed"},
		"deleted before its start": {"Always", nil, list{waiting()}, true, "Failed"},
		"on its way out":           {"Always", nil, list{running()}, true, "Running"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := phase(c.policy, c.inits, c.mains, c.over); got != c.want {
				t.Error(got)
			}
		})
	}
}

func TestMergeConditions(t *testing.T) {
	before, now := metav1.NewTime(time.Unix(1, 0)), metav1.NewTime(time.Unix(2, 0))
	present := []corev1.PodCondition{{Type: "Ready", Status: "False", LastTransitionTime: before}, {Type: "ContainersReady", Status: "False", Reason: "x", LastTransitionTime: before}, {Type: "theirs", Status: "True"}}
	got := mergeConditions(present, []corev1.PodCondition{condition("Ready", true, "", ""), condition("ContainersReady", false, "y", "")}, now)
	want := []corev1.PodCondition{{Type: "Ready", Status: "True", LastTransitionTime: now}, {Type: "ContainersReady", Status: "False", Reason: "y", LastTransitionTime: before}, {Type: "theirs", Status: "True"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
}

func TestReadinessGates(t *testing.T) {
	pod := &corev1.Pod{Spec: corev1.PodSpec{ReadinessGates: []corev1.PodReadinessGate{{ConditionType: "gate"}}}}
	status := &corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{running()}}
	if isSet(conditions(pod, status, nil), corev1.PodReady) {
		t.Error("ready without its gate")
	}
	if !isSet(conditions(pod, status, []corev1.PodCondition{condition("gate", true, "", "")}), corev1.PodReady) {
		t.Error("not ready")
	}
}

func TestMayRestart(t *testing.T) {
	for _, c := range []struct {
		init   bool
		code   int32
		policy corev1.RestartPolicy
		want   bool
	}{
		{false, 0, "Always", true}, {false, 1, "Always", true}, {false, 0, "OnFailure", false}, {false, 1, "OnFailure", true},
		{false, 1, "Never", false}, {true, 0, "Always", false}, {true, 1, "Always", true}, {true, 1, "Never", false},
	} {
		x := container{init: c.init, last: &corev1.ContainerStateTerminated{ExitCode: c.code}}
		if got := x.mayRestart(c.policy); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

func TestExposed(t *testing.T) {
	mounts := []sandbox.Mount{{Target: "/tmp/"}, {Target: "/srv/x"}}
	got := exposed(mounts, []string{"/tmp/repo/venv", "/tmpfoo", "/srv", "/tmp"}, false)
	if len(got) != 1 || got[0].Target != "/tmp/repo/venv" {
		t.Error(got)
	}
}
