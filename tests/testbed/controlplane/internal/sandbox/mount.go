package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"unsafe"
)

// host is the View of the real file system.
type host struct{}

func (host) Kind(p string) Kind {
	info, err := os.Lstat(p)
	switch {
	case err != nil:
		return Missing
	case info.Mode()&os.ModeSymlink != 0:
		return Symlink
	case info.IsDir():
		return Directory
	}
	return File
}

func (host) Readlink(p string) (string, error) { return os.Readlink(p) }

// mounter carries a plan out inside the stage's own mount namespace.
type mounter struct {
	scratch string
	tmpfs   []string // shadows, made read-only at the end where the root is
}

func (m *mounter) run(ops []Op) error {
	for _, op := range ops {
		var err error
		switch op.Action {
		case Shadow:
			err = m.shadow(op.Path)
		case Mkdir:
			err = os.Mkdir(op.Path, 0o755)
		case CreateFile:
			err = touch(op.Path)
		case Bind:
			err = bind(op.Source, op.Path)
		}
		if err != nil && !os.IsExist(err) {
			return fmt.Errorf("%s: %w", op.Path, err)
		}
	}
	return nil
}

// shadow covers dir with a tmpfs holding everything that was in it: entries
// can then be added that the host never sees.
func (m *mounter) shadow(dir string) error {
	original, err := os.Open(dir) // keeps the way to what is about to be covered
	if err != nil {
		return err
	}
	defer original.Close()
	info, err := original.Stat()
	if err != nil {
		return err
	}
	entries, err := original.ReadDir(-1)
	if err != nil {
		return err
	}
	at := dir
	if dir == "/" { // the root cannot be covered: build another and move into it
		at = m.scratch
	}
	if err := syscall.Mount("tmpfs", at, "tmpfs", 0, fmt.Sprintf("mode=%o", info.Mode().Perm()|stickyBit(info))); err != nil {
		return err
	}
	below := "/proc/self/fd/" + strconv.Itoa(int(original.Fd()))
	for _, entry := range entries {
		passThrough(filepath.Join(below, entry.Name()), filepath.Join(at, entry.Name()), entry)
	}
	m.tmpfs = append(m.tmpfs, dir)
	if dir == "/" {
		return pivot(at)
	}
	return nil
}

func stickyBit(info os.FileInfo) os.FileMode {
	if info.Mode()&os.ModeSticky != 0 {
		return 0o1000
	}
	return 0
}

// passThrough shows one entry of a covered directory in the tmpfs above it. An
// entry that cannot be shown (it vanished meanwhile) is left out.
func passThrough(from, to string, entry os.DirEntry) {
	switch {
	case entry.Type()&os.ModeSymlink != 0:
		if target, err := os.Readlink(from); err == nil {
			_ = os.Symlink(target, to)
		}
	case entry.IsDir():
		if os.Mkdir(to, 0o755) == nil {
			_ = bind(from, to)
		}
	default:
		if touch(to) == nil {
			_ = bind(from, to)
		}
	}
}

// pivot makes newRoot the root of this mount namespace, also for processes
// that join it later (kubectl exec): a chroot would not do that.
func pivot(newRoot string) error {
	if err := os.Chdir(newRoot); err != nil {
		return err
	}
	if err := syscall.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := syscall.Unmount(".", syscall.MNT_DETACH); err != nil {
		return fmt.Errorf("leaving the old root: %w", err)
	}
	return os.Chdir("/")
}

func touch(p string) error {
	f, err := os.OpenFile(p, os.O_CREATE|os.O_RDONLY, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

// bind is recursive always: a user namespace may not take mounts apart.
func bind(from, to string) error {
	return syscall.Mount(from, to, "", syscall.MS_BIND|syscall.MS_REC, "")
}

const (
	sysMountSetattr   = 442
	atFdcwd           = ^uintptr(99) // -100
	atRecursive       = 0x8000
	mountAttrReadOnly = 1
)

// readOnly sets a mount, or with recursive all below it too, read-only. The
// newer system call is used because it adds to a mount's flags; a remount
// would have to repeat them, and in a user namespace fails if it forgets one.
func readOnly(p string, recursive bool) error {
	attr := struct{ set, clear, propagation, userns uint64 }{set: mountAttrReadOnly}
	name, err := syscall.BytePtrFromString(p)
	if err != nil {
		return err
	}
	var flags uintptr
	if recursive {
		flags = atRecursive
	}
	_, _, errno := syscall.Syscall6(sysMountSetattr, atFdcwd, uintptr(unsafe.Pointer(name)), flags,
		uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		return fmt.Errorf("making %s read-only: %w", p, errno)
	}
	return nil
}
