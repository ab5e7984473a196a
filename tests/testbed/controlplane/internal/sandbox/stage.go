package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

// The stage runs from an init function and never returns. Go initialises
// packages in order of their imports and then of their paths, so this one, with
// only the standard library below it, comes before all of Kubernetes: a
// container starts in a few milliseconds of CPU instead of a tenth of a second.
func init() {
	if len(os.Args) == 0 || os.Args[0] != StageName {
		return
	}
	runtime.LockOSThread() // namespaces and the parent-death signal belong to a thread
	err := become()
	_, _ = os.NewFile(errorFD, "error").WriteString(err.Error())
	os.Exit(128)
}

// become returns only if it fails.
func become() error {
	syscall.CloseOnExec(specFD)
	syscall.CloseOnExec(errorFD)
	var spec Spec
	if err := json.NewDecoder(os.NewFile(specFD, "spec")).Decode(&spec); err != nil {
		return fmt.Errorf("reading the specification: %w", err)
	}
	if err := arrange(&spec); err != nil {
		return fmt.Errorf("preparing the file system: %w", err)
	}
	if spec.Hostname != "" {
		if err := syscall.Sethostname([]byte(spec.Hostname)); err != nil {
			return fmt.Errorf("setting the host name: %w", err)
		}
	}
	if spec.Dir != "" {
		if err := os.Chdir(spec.Dir); err != nil {
			return err
		}
	}
	command, err := find(spec.Argv[0], spec.Env)
	if err != nil {
		return err
	}
	return fmt.Errorf("exec %s: %w", command, syscall.Exec(command, spec.Argv, spec.Env))
}

func arrange(spec *Spec) error {
	// Nothing that happens here may get out; what the host mounts later may come in.
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_SLAVE, ""); err != nil {
		return err
	}
	mountProc()
	if err := mountDev(spec.Scratch); err != nil {
		return fmt.Errorf("/dev: %w", err)
	}
	ops, mounts, err := Plan(host{}, spec.Mounts, spec.Dir)
	if err != nil {
		return err
	}
	m := &mounter{scratch: spec.Scratch}
	if err := m.run(ops); err != nil {
		return err
	}
	return protect(spec, mounts)
}

// protect comes last: mount points are still created while the tree is put
// together, and a mount would inherit the flag from where its source is.
func protect(spec *Spec, mounts []Mount) error {
	if spec.ReadOnlyRoot {
		if err := readOnly("/", true); err != nil {
			return err
		}
		for _, own := range []string{"/proc", "/dev/shm"} {
			_ = writable(own) // not so if it is the host's, and that is no harm
		}
	}
	for _, mount := range mounts {
		switch {
		case mount.ReadOnly:
			if err := readOnly(mount.Target, false); err != nil {
				return err
			}
		case spec.ReadOnlyRoot:
			if err := writable(mount.Target); err != nil {
				return err
			}
		}
	}
	return nil
}

// find looks a command up as a shell would, in the container's own PATH.
func find(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, dir := range filepath.SplitList(lookup(env, "PATH")) {
		p := filepath.Join(dir, name)
		if info, err := os.Stat(p); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", errors.New("exec: \"" + name + "\": executable file not found in $PATH")
}

func lookup(env []string, name string) string {
	value := ""
	for _, entry := range env {
		if v, ok := strings.CutPrefix(entry, name+"="); ok {
			value = v // the last one counts, as for exec
		}
	}
	return value
}
