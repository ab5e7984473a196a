package sandbox

import (
	"fmt"
	"reflect"
	"testing"
)

// fake is a file system of paths; a value is a symbolic link's target, "dir" or "file".
type fake map[string]string

func (f fake) Kind(p string) Kind {
	switch f[p] {
	case "":
		return Missing
	case "dir":
		return Directory
	case "file":
		return File
	}
	return Symlink
}

func (f fake) Readlink(p string) (string, error) { return f[p], nil }

var machine = fake{
	"/": "dir", "/etc": "dir", "/etc/hosts": "file", "/run": "dir", "/var": "dir", "/var/run": "/run", "/var/lib": "dir", "/tmp": "dir",
	"/tmp/repo": "dir", "/rel": "var/lib", "/loop": "/loop",
	"/state": "dir", "/state/v": "dir", "/state/v/sub": "dir", "/host": "dir",
}

func describe(ops []Op) []string {
	names := map[Action]string{Shadow: "shadow", Mkdir: "mkdir", CreateFile: "create", Bind: "bind"}
	var list []string
	for _, op := range ops {
		line := names[op.Action] + " " + op.Path
		if op.Action == Bind {
			line += " <- " + op.Source
		}
		list = append(list, line)
	}
	return list
}

func TestPlan(t *testing.T) {
	owned := func(source, target string) Mount { return Mount{Source: source, Target: target, Owned: true} }
	cases := map[string]struct {
		mounts []Mount
		dir    string
		want   []string
	}{
		"existing directory":  {[]Mount{owned("/state/v", "/tmp")}, "/tmp", []string{"bind /tmp <- /state/v"}},
		"existing file":       {[]Mount{{Source: "/state/h", Target: "/etc/hosts", File: true}}, "", []string{"bind /etc/hosts <- /state/h"}},
		"missing at the root": {[]Mount{owned("/state/v", "/flows")}, "", []string{"shadow /", "mkdir /flows", "bind /flows <- /state/v"}},
		"shared ancestors behind a link": {
			[]Mount{owned("/state/t", "/var/run/secrets/kubernetes.io/serviceaccount"), owned("/state/s", "/var/run/flowbinding/secrets/x")}, "",
			[]string{"shadow /run", "mkdir /run/secrets", "mkdir /run/secrets/kubernetes.io", "mkdir /run/secrets/kubernetes.io/serviceaccount",
				"bind /run/secrets/kubernetes.io/serviceaccount <- /state/t",
				"mkdir /run/flowbinding", "mkdir /run/flowbinding/secrets", "mkdir /run/flowbinding/secrets/x", "bind /run/flowbinding/secrets/x <- /state/s"}},
		"below a shadow the host shows through": {
			[]Mount{owned("/state/a", "/var/new"), owned("/state/b", "/var/lib/new")}, "",
			[]string{"shadow /var", "mkdir /var/new", "bind /var/new <- /state/a", "shadow /var/lib", "mkdir /var/lib/new", "bind /var/lib/new <- /state/b"}},
		"inside a volume, whatever the order": {
			[]Mount{owned("/state/c", "/tmp/sub/config"), owned("/state/v", "/tmp")}, "",
			[]string{"bind /tmp <- /state/v", "mkdir /tmp/sub/config", "bind /tmp/sub/config <- /state/c"}},
		"inside a hostPath nothing is created": {
			[]Mount{{Source: "/host", Target: "/tmp"}, owned("/state/v", "/tmp/x")}, "",
			[]string{"bind /tmp <- /host", "shadow /tmp", "mkdir /tmp/x", "bind /tmp/x <- /state/v"}},
		"relative link": {[]Mount{owned("/state/v", "/rel/x")}, "", []string{"shadow /var/lib", "mkdir /var/lib/x", "bind /var/lib/x <- /state/v"}},
		"file": {[]Mount{{Source: "/state/f", Target: "/etc/app/f.yaml", File: true}}, "",
			[]string{"shadow /etc", "mkdir /etc/app", "create /etc/app/f.yaml", "bind /etc/app/f.yaml <- /state/f"}},
		"working directory": {nil, "/app/work", []string{"shadow /", "mkdir /app", "mkdir /app/work"}},
		"hidden directory shown again": {
			[]Mount{owned("/state/v", "/tmp"), {Source: "/tmp/repo", Target: "/tmp/repo"}}, "",
			[]string{"bind /tmp <- /state/v", "mkdir /tmp/repo", "bind /tmp/repo <- /tmp/repo"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			ops, _, err := Plan(machine, c.mounts, c.dir)
			if err != nil {
				t.Fatal(err)
			}
			if got := describe(ops); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

func TestPlanRefuses(t *testing.T) {
	for name, mount := range map[string]Mount{
		"file on directory": {Source: "/state/f", Target: "/etc", File: true},
		"directory on file": {Source: "/state/v", Target: "/etc/hosts"},
		"through a file":    {Source: "/state/v", Target: "/etc/hosts/x"},
		"link to itself":    {Source: "/state/v", Target: "/loop/x"},
	} {
		t.Run(name, func(t *testing.T) {
			if ops, _, err := Plan(machine, []Mount{mount}, ""); err == nil {
				t.Errorf("no error but %v", describe(ops))
			}
		})
	}
}

func TestPlanResolvesTargets(t *testing.T) {
	_, mounts, err := Plan(machine, []Mount{{Source: "/state/v", Target: "/var/run/x", ReadOnly: true}}, "")
	if err != nil || mounts[0].Target != "/run/x" || !mounts[0].ReadOnly {
		t.Error(fmt.Sprint(mounts, err))
	}
}

func TestFind(t *testing.T) {
	if _, err := find("no-such-program", []string{"PATH=/usr/bin:/bin"}); err == nil {
		t.Error("found")
	}
	if p, err := find("sh", []string{"PATH=/nowhere", "PATH=/nowhere:/bin"}); err != nil || p != "/bin/sh" {
		t.Error(p, err)
	}
}
