package proc

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	utilexec "k8s.io/utils/exec"

	"flowbinding.io/testbed/controlplane/internal/logs"
	"flowbinding.io/testbed/controlplane/internal/sandbox"
)

// These tests start real processes in real namespaces; this test binary is
// the stage (see package sandbox), as the node's binary is otherwise.
type world struct {
	*Launcher
	dir string
}

func newWorld(t *testing.T) world {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"scratch", "volume"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	launcher, err := NewLauncher(filepath.Join(dir, "scratch"))
	if err != nil {
		t.Skip(err)
	}
	return world{launcher, dir}
}

func (w world) start(t *testing.T, readOnly bool, script string) (*Process, func() string) {
	t.Helper()
	path := filepath.Join(w.dir, "log", t.Name())
	log, err := logs.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	volume := filepath.Join(w.dir, "volume")
	p, err := w.Start(sandbox.Spec{Argv: []string{"sh", "-c", script}, Env: []string{"PATH=/usr/bin:/bin"}, Dir: "/not/there", Hostname: "pod-x", ReadOnlyRoot: readOnly,
		Mounts:  []sandbox.Mount{{Source: volume, Target: "/tmp", Owned: true}, {Source: volume, Target: "/flowbinding-test/v", Owned: true, ReadOnly: true}},
		Scratch: filepath.Join(w.dir, "scratch")}, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return p, func() string {
		var out bytes.Buffer
		if err := logs.Copy(context.Background(), path, logs.Options{}, nil, &out); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
}

func await(t *testing.T, p *Process) Exit {
	t.Helper()
	select {
	case <-p.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("still there")
	}
	return p.Exit()
}

func TestContainerSeesItsOwnMachine(t *testing.T) {
	w := newWorld(t)
	p, output := w.start(t, true, "pwd; uname -n; echo $$; echo x > /tmp/f && cat /flowbinding-test/v/f; touch /x || echo ro; touch /flowbinding-test/v/y || echo ro; echo > /dev/null && echo > /dev/shm/z && echo ok; exit 3")
	if exit := await(t, p); exit.Code != 3 {
		t.Error(exit)
	}
	var lines []string
	for _, line := range strings.Fields(output()) {
		if len(line) < 12 && !strings.HasSuffix(line, ":") {
			lines = append(lines, line)
		}
	}
	text := strings.Join(lines, " ")
	if !strings.HasPrefix(text, "/not/there pod-x 1 x ") || strings.Count(text, "ro") != 2 || !strings.HasSuffix(text, "ok") {
		t.Error(output())
	}
	if _, err := os.Stat("/flowbinding-test"); err == nil {
		t.Error("the host has got a directory")
	}
}

func TestSignals(t *testing.T) {
	w := newWorld(t)
	p, _ := w.start(t, false, "trap 'exit 7' TERM; while :; do sleep 0.05; done")
	time.Sleep(100 * time.Millisecond) // for the trap
	p.Terminate()
	if exit := await(t, p); exit.Code != 7 {
		t.Error(exit)
	}
	p, _ = w.start(t, false, "setsid sleep 60 & sleep 60") // first of its namespace: no handler, no effect
	p.Terminate()
	p.Kill()
	if exit := await(t, p); exit.Code != 137 || exit.Signal != 9 {
		t.Error(exit)
	}
}

func TestUnknownCommand(t *testing.T) {
	w := newWorld(t)
	log, err := logs.Create(filepath.Join(w.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Start(sandbox.Spec{Argv: []string{"no-such-program"}, Env: []string{"PATH=/bin"}, Dir: "/", Scratch: filepath.Join(w.dir, "scratch")}, log)
	if err == nil || !strings.Contains(err.Error(), "not found in $PATH") {
		t.Error(err)
	}
}

func TestExec(t *testing.T) {
	w := newWorld(t)
	p, _ := w.start(t, false, "while :; do sleep 0.05; done")
	var out bytes.Buffer
	err := w.Exec(context.Background(), p.Pid, "/flowbinding-test", []string{"PATH=/usr/bin:/bin", "A=b"}, []string{"sh", "-c", "cat; echo $A; pwd; exit 4"},
		Streams{In: strings.NewReader("in\n"), Out: &out, Err: &out})
	var failed utilexec.CodeExitError
	if !errors.As(err, &failed) || failed.Code != 4 || out.String() != "in\nb\n/flowbinding-test\n" {
		t.Errorf("%q %v", out.String(), err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if err := w.Exec(ctx, p.Pid, "/", nil, []string{"sleep", "60"}, Streams{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}
