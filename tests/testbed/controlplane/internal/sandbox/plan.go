package sandbox

import (
	"fmt"
	"path"
	"sort"
	"strings"
)

// Kind is what a path is.
type Kind int

// The kinds that matter for finding a place to mount at.
const (
	Missing Kind = iota
	Directory
	File
	Symlink
)

// View is the file system that a plan is made for.
type View interface {
	Kind(path string) Kind
	Readlink(path string) (string, error)
}

// Action is one step of a plan.
type Action int

// Shadow covers a directory with a tmpfs that shows all that was in it; the
// others do what their names say.
const (
	Shadow Action = iota
	Mkdir
	CreateFile
	Bind
)

// Op is one step: Source is used by Bind only.
type Op struct {
	Action Action
	Path   string
	Source string
}

// Plan works out how to place all mounts, and to have the directory `dir`,
// without creating anything on the host. Where a mount point does not exist,
// the nearest existing directory above it is shadowed, and what is missing is
// created in the shadow.
func Plan(view View, mounts []Mount, dir string) ([]Op, []Mount, error) {
	sorted := append([]Mount(nil), mounts...)
	sort.SliceStable(sorted, func(i, j int) bool { // a mount inside another one comes after it
		return strings.Count(path.Clean(sorted[i].Target), "/") < strings.Count(path.Clean(sorted[j].Target), "/")
	})
	l := &layout{view: view, mounted: map[string]Mount{}, made: map[string]Kind{}, shadowed: map[string]bool{}}
	for i, m := range sorted {
		target, err := l.ensure(m.Target, m.File)
		if err != nil {
			return nil, nil, fmt.Errorf("mount point %s: %w", m.Target, err)
		}
		sorted[i].Target = target
		l.mounted[target] = m
		l.ops = append(l.ops, Op{Bind, target, m.Source})
	}
	if dir != "" {
		if _, err := l.ensure(dir, false); err != nil {
			return nil, nil, fmt.Errorf("working directory %s: %w", dir, err)
		}
	}
	return l.ops, sorted, nil
}

// layout is the file system as it will look after the operations so far.
type layout struct {
	view     View
	mounted  map[string]Mount // by resolved target
	made     map[string]Kind  // created by the plan
	shadowed map[string]bool
	ops      []Op
}

// ensure resolves a path, creating what is missing of it, and returns it
// without symbolic links.
func (l *layout) ensure(target string, file bool) (string, error) {
	current, rest, links := "/", split(target), 0
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		if name == ".." {
			current = path.Dir(current)
			continue
		}
		next := path.Join(current, name)
		switch l.kind(next) {
		case Symlink:
			if links++; links > 40 {
				return "", fmt.Errorf("too many symbolic links")
			}
			to, err := l.view.Readlink(l.backing(next))
			if err != nil {
				return "", err
			}
			if path.IsAbs(to) {
				current = "/"
			}
			rest = append(split(to), rest...)
			continue
		case Missing:
			l.create(current, next, file && len(rest) == 0)
		case File:
			if !file || len(rest) > 0 {
				return "", fmt.Errorf("%s is not a directory", next)
			}
		case Directory:
			if file && len(rest) == 0 {
				return "", fmt.Errorf("%s is a directory and the source is a file", next)
			}
		}
		current = next
	}
	return current, nil
}

func (l *layout) create(parent, child string, file bool) {
	if !l.writable(parent) {
		l.shadowed[parent] = true
		l.ops = append(l.ops, Op{Action: Shadow, Path: parent})
	}
	action, kind := Mkdir, Directory
	if file {
		action, kind = CreateFile, File
	}
	l.made[child] = kind
	l.ops = append(l.ops, Op{Action: action, Path: child})
}

// kind says what is at p, given what was mounted and made so far.
func (l *layout) kind(p string) Kind {
	if m, ok := l.mounted[p]; ok {
		if m.File {
			return File
		}
		return Directory
	}
	if kind, ok := l.made[p]; ok {
		return kind
	}
	if source := l.backing(p); source != "" {
		return l.view.Kind(source)
	}
	return Missing
}

// backing is the host's path behind p, "" where there is nothing of the host.
func (l *layout) backing(p string) string {
	for q := p; ; q = path.Dir(q) {
		if m, ok := l.mounted[q]; ok {
			return path.Join(m.Source, strings.TrimPrefix(p, q))
		}
		if _, ok := l.made[q]; ok {
			return ""
		}
		if q == "/" {
			return p
		}
	}
}

// writable says whether an entry can be made in directory p without touching
// anything that is not the pod's own.
func (l *layout) writable(p string) bool {
	if l.shadowed[p] {
		return true
	}
	for q := p; ; q = path.Dir(q) {
		if m, ok := l.mounted[q]; ok {
			return m.Owned
		}
		if _, ok := l.made[q]; ok {
			return true
		}
		if l.shadowed[q] || q == "/" {
			return false // below a shadow, the host's own directories show through
		}
	}
}

func split(p string) []string {
	return strings.FieldsFunc(path.Clean(p), func(r rune) bool { return r == '/' })
}
