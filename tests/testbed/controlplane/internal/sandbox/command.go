package sandbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
)

// Mode is how this process may make namespaces.
type Mode struct {
	// User: a user namespace is needed, as this process is not privileged.
	User bool
}

// Started is a command together with the pipe ends that belong to its start.
type Started struct {
	Cmd    *exec.Cmd
	spec   []byte
	specW  *os.File
	errorR *os.File
	theirs []*os.File
}

// Command prepares a start; call Start on the Cmd (from a thread that will
// live, see Pdeathsig in prctl(2)) and then Wait for the verdict.
func (m Mode) Command(spec Spec) (*Started, error) {
	encoded, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	specR, specW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	errorR, errorW, err := os.Pipe()
	if err != nil {
		specR.Close()
		specW.Close()
		return nil, err
	}
	cmd := &exec.Cmd{Path: "/proc/self/exe", Args: []string{StageName}, Env: []string{}, Dir: "/",
		ExtraFiles: []*os.File{specR, errorW}, SysProcAttr: m.attributes()}
	return &Started{Cmd: cmd, spec: encoded, specW: specW, errorR: errorR, theirs: []*os.File{specR, errorW}}, nil
}

func (m Mode) attributes() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{
		Setpgid:    true, // a Ctrl-C at the node's terminal is not the pods' business
		Pdeathsig:  syscall.SIGKILL,
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS,
	}
	if m.User {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	return attr
}

// Abandon releases everything if Cmd.Start failed.
func (s *Started) Abandon() {
	for _, f := range append(s.theirs, s.specW, s.errorR) {
		f.Close()
	}
}

// Wait returns nil once the container's own command runs, or why it does not.
func (s *Started) Wait() error {
	for _, f := range s.theirs {
		f.Close()
	}
	_, writeErr := io.Copy(s.specW, bytes.NewReader(s.spec))
	s.specW.Close()
	verdict, readErr := io.ReadAll(s.errorR)
	s.errorR.Close()
	if len(verdict) > 0 {
		return errors.New(string(verdict))
	}
	return errors.Join(writeErr, readErr)
}

// Enter is the command line that runs argv inside a running container. It
// relies on nsenter (util-linux), because joining a user namespace needs a
// single-threaded process, which a Go program never is.
func (m Mode) Enter(pid int, dir string, argv []string) (*exec.Cmd, error) {
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		return nil, fmt.Errorf("exec needs the program nsenter (package util-linux): %w", err)
	}
	args := []string{nsenter, "--target", strconv.Itoa(pid), "--mount", "--pid", "--uts"}
	if m.User {
		args = append(args, "--user", "--preserve-credentials")
	}
	if dir == "" {
		dir = "/"
	}
	args = append(args, "--", "/bin/sh", "-c", `cd "$0" && exec "$@"`, dir)
	return &exec.Cmd{Path: nsenter, Args: append(args, argv...)}, nil
}

// Probe finds out which mode works on this machine, by starting a trivial
// container in each.
func Probe(scratch string) (Mode, error) {
	var failures []error
	for _, mode := range []Mode{{User: false}, {User: true}} {
		err := mode.try(scratch)
		if err == nil {
			return mode, nil
		}
		failures = append(failures, fmt.Errorf("user namespace %v: %w", mode.User, err))
	}
	return Mode{}, fmt.Errorf("this machine lets us make no mount namespace (root, or unprivileged user namespaces, are needed; "+
		"on Ubuntu 24.04 see kernel.apparmor_restrict_unprivileged_userns): %w", errors.Join(failures...))
}

func (m Mode) try(scratch string) error {
	s, err := m.Command(Spec{Argv: []string{"/bin/sh", "-c", "exit 0"}, Env: []string{"PATH=/usr/bin:/bin"}, Dir: "/flowbinding-probe", Scratch: scratch, Hostname: "probe"})
	if err != nil {
		return err
	}
	if err := s.Cmd.Start(); err != nil {
		s.Abandon()
		return err
	}
	waitErr := s.Wait()
	return errors.Join(waitErr, s.Cmd.Wait())
}
