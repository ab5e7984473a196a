package proc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"syscall"
	"time"

	utilexec "k8s.io/utils/exec"
)

// Streams of a command run inside a container; each may be nil.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// Exec runs argv inside the container of pid, and kills it when ctx ends. A
// command's own failure comes back as a utilexec.CodeExitError.
func (l *Launcher) Exec(ctx context.Context, pid int, dir string, env, argv []string, streams Streams) error {
	cmd, err := l.Mode.Enter(pid, dir, argv)
	if err != nil {
		return err
	}
	cmd.Env, cmd.Stdout, cmd.Stderr = env, streams.Out, streams.Err
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if streams.In != nil {
		if err := feed(cmd, streams.In); err != nil {
			return err
		}
	}
	return l.attend(ctx, cmd)
}

// feed copies the input beside the command: with cmd.Stdin, Wait would not
// return before the client closes its end.
func feed(cmd *exec.Cmd, in io.Reader) error {
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(pipe, in)
		_ = pipe.Close()
	}()
	return nil
}

func (l *Launcher) attend(ctx context.Context, cmd *exec.Cmd) error {
	cmd.WaitDelay = time.Second
	if err := l.start(cmd); err != nil {
		return err
	}
	finished := make(chan struct{})
	defer close(finished)
	go func() {
		select {
		case <-ctx.Done():
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		case <-finished:
		}
	}()
	err := cmd.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		code := int(exitOf(cmd).Code)
		return utilexec.CodeExitError{Err: fmt.Errorf("command terminated with exit code %d", code), Code: code}
	}
	if errors.Is(err, exec.ErrWaitDelay) {
		return nil // it left a child behind that holds the output; the command itself is done
	}
	return err
}
