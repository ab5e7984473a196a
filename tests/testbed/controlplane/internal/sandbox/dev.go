package sandbox

import (
	"os"
	"path/filepath"
	"syscall"
)

// devices are what a container runtime puts into /dev; the rest of the host's
// stays away, and /dev can take a termination log and a private /dev/shm.
var devices = []string{"null", "zero", "full", "random", "urandom", "tty"}

var deviceLinks = map[string]string{
	"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
}

// mountDev covers /dev with a small one.
func mountDev(scratch string) error {
	if err := syscall.Mount("tmpfs", scratch, "tmpfs", syscall.MS_NOSUID, "mode=0755"); err != nil {
		return err
	}
	for _, name := range devices {
		if from := "/dev/" + name; touch(filepath.Join(scratch, name)) == nil {
			_ = bind(from, filepath.Join(scratch, name)) // a machine without that device does without
		}
	}
	for name, target := range deviceLinks {
		if err := os.Symlink(target, filepath.Join(scratch, name)); err != nil {
			return err
		}
	}
	mountPts(scratch)
	shm := filepath.Join(scratch, "shm")
	if err := os.Mkdir(shm, 0o777); err != nil {
		return err
	}
	if err := syscall.Mount("shm", shm, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV|syscall.MS_NOEXEC, "mode=1777"); err != nil {
		return err
	}
	return syscall.Mount(scratch, "/dev", "", syscall.MS_MOVE, "")
}

// mountPts keeps the host's terminals, so that `kubectl exec -t` can hand a
// terminal over that was opened outside.
func mountPts(dev string) {
	pts := filepath.Join(dev, "pts")
	if os.Mkdir(pts, 0o755) == nil {
		_ = bind("/dev/pts", pts)
	}
	_ = os.Symlink("pts/ptmx", filepath.Join(dev, "ptmx"))
}

// mountProc shows the processes of the container's own PID namespace. Some
// hosts (unprivileged, inside another container) do not allow it: /proc/self
// still works on the host's own then.
func mountProc() {
	_ = syscall.Mount("proc", "/proc", "proc", syscall.MS_NOSUID|syscall.MS_NODEV|syscall.MS_NOEXEC, "")
}
