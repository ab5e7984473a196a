// Package proc starts and ends the processes behind containers.
package proc

import (
	"errors"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"flowbinding.io/testbed/controlplane/internal/logs"
	"flowbinding.io/testbed/controlplane/internal/sandbox"
)

// Launcher starts all processes from one thread that lives as long as the
// node: the kernel sends the parent-death signal when the *thread* that started
// a child ends, and Go ends threads at will.
type Launcher struct {
	Mode  sandbox.Mode
	queue chan func()
}

// NewLauncher finds out how processes can be isolated here.
func NewLauncher(scratch string) (*Launcher, error) {
	mode, err := sandbox.Probe(scratch)
	if err != nil {
		return nil, err
	}
	l := &Launcher{Mode: mode, queue: make(chan func())}
	go func() {
		runtime.LockOSThread()
		for start := range l.queue {
			start()
		}
	}()
	return l, nil
}

func (l *Launcher) start(cmd *exec.Cmd) error {
	result := make(chan error, 1)
	l.queue <- func() { result <- cmd.Start() }
	return <-result
}

// Exit is how a process ended.
type Exit struct {
	Code   int32 // 128 + signal if killed by one, as container runtimes say it
	Signal int32
	At     time.Time
}

// Process is the running command of a container.
type Process struct {
	Pid     int
	Started time.Time
	done    chan struct{}
	exit    Exit
}

// Start runs a container's command; its output goes to log, which is closed at
// the end. An error means that the command never ran.
func (l *Launcher) Start(spec sandbox.Spec, log *logs.Writer) (*Process, error) {
	prepared, err := l.Mode.Command(spec)
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	cmd := prepared.Cmd
	cmd.Stdout, cmd.Stderr = log.Stream("stdout"), log.Stream("stderr")
	cmd.WaitDelay = 2 * time.Second // somebody outside may still hold the pipe
	if err := l.start(cmd); err != nil {
		prepared.Abandon()
		return nil, errors.Join(err, log.Close())
	}
	if err := prepared.Wait(); err != nil {
		_ = cmd.Wait()
		return nil, errors.Join(err, log.Close())
	}
	p := &Process{Pid: cmd.Process.Pid, Started: time.Now(), done: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // the exit code is read below, whatever the error
		p.exit = exitOf(cmd)
		_ = log.Close()
		close(p.done)
	}()
	return p, nil
}

func exitOf(cmd *exec.Cmd) Exit {
	exit := Exit{Code: 255, At: time.Now()}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok {
		if status.Signaled() {
			exit.Signal = int32(status.Signal())
			exit.Code = 128 + exit.Signal
		} else {
			exit.Code = int32(status.ExitStatus())
		}
	}
	return exit
}

// Done is closed when the process and all its descendants are gone: it is the
// first process of its PID namespace, so that the kernel sees to that.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exit may be called once Done is closed.
func (p *Process) Exit() Exit { return p.exit }

// Terminate asks the container's first process to end.
func (p *Process) Terminate() { _ = syscall.Kill(p.Pid, syscall.SIGTERM) }

// Kill ends the whole group; with the first process, its PID namespace goes too.
func (p *Process) Kill() {
	_ = syscall.Kill(-p.Pid, syscall.SIGKILL)
	_ = syscall.Kill(p.Pid, syscall.SIGKILL)
}
