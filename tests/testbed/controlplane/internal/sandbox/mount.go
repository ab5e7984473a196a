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
}

func (m *mounter) run(ops []Op) error {
	// A new root first: it needs the scratch directory, which a volume may hide
	// later. What comes to pass in between is passed through either way.
	for _, op := range ops {
		if op.Action == Shadow && op.Path == "/" {
			if err := m.shadow("/"); err != nil {
				return fmt.Errorf("new root: %w", err)
			}
		}
	}
	sources, err := open(ops)
	if err != nil {
		return err
	}
	for i, op := range ops {
		if op.Action == Shadow && op.Path == "/" {
			continue
		}
		if err := m.do(op, sources[i]); err != nil && !os.IsExist(err) {
			return fmt.Errorf("%s: %w", op.Path, err)
		}
	}
	return nil
}

// open takes hold of all sources before the first is mounted: a volume at /tmp
// hides the other volumes if these are kept below /tmp. The descriptors end with
// exec.
func open(ops []Op) ([]string, error) {
	paths := make([]string, len(ops))
	for i, op := range ops {
		if op.Action != Bind {
			continue
		}
		fd, err := syscall.Open(op.Source, oPath|syscall.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", op.Source, err)
		}
		paths[i] = "/proc/self/fd/" + strconv.Itoa(fd)
	}
	return paths, nil
}

func (m *mounter) do(op Op, source string) error {
	switch op.Action {
	case Shadow:
		return m.shadow(op.Path)
	case Mkdir:
		return os.Mkdir(op.Path, 0o755)
	case CreateFile:
		return touch(op.Path)
	}
	return bind(source, op.Path)
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
	oPath             = 0x200000
	sysMountSetattr   = 442
	atFdcwd           = ^uintptr(99) // -100
	atRecursive       = 0x8000
	mountAttrReadOnly = 1
)

// setAttributes changes the flags of a mount, or with recursive of all below it
// too. The newer system call is used because it adds to the flags; a remount
// would have to repeat them, and in a user namespace fails if it forgets one.
func setAttributes(p string, set, clear uint64, recursive bool) error {
	attr := struct{ set, clear, propagation, userns uint64 }{set: set, clear: clear}
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
		return fmt.Errorf("read-only or not, %s: %w", p, errno)
	}
	return nil
}

func readOnly(p string, recursive bool) error {
	return setAttributes(p, mountAttrReadOnly, 0, recursive)
}

func writable(p string) error {
	return setAttributes(p, 0, mountAttrReadOnly, false)
}
