package proc

import (
	"context"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Size of a terminal.
type Size struct{ Width, Height uint16 }

// ExecTerminal is Exec with a terminal.
func (l *Launcher) ExecTerminal(ctx context.Context, pid int, dir string, env, argv []string, streams Streams, sizes <-chan Size) error {
	cmd, err := l.Mode.Enter(pid, dir, argv)
	if err != nil {
		return err
	}
	master, slave, err := openTerminal()
	if err != nil {
		return err
	}
	defer master.Close()
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = env, slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Pdeathsig: syscall.SIGKILL}
	go func() {
		for size := range sizes {
			_ = unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: size.Width, Row: size.Height})
		}
	}()
	if streams.In != nil {
		go func() { _, _ = io.Copy(master, streams.In) }()
	}
	shown := make(chan struct{})
	go func() {
		defer close(shown)
		if streams.Out != nil {
			_, _ = io.Copy(streams.Out, master) // ends with an error when the last user of the slave is gone
		}
	}()
	err = l.attend(ctx, cmd)
	slave.Close()
	<-shown
	return err
}

func openTerminal() (master, slave *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("opening a terminal: %w", err)
	}
	master = os.NewFile(uintptr(fd), "/dev/ptmx")
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		master.Close()
		return nil, nil, fmt.Errorf("opening a terminal: %w", err)
	}
	return master, slave, nil
}
