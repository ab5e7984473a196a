package volumes

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

func TestProject(t *testing.T) {
	data, mode := map[string][]byte{"a": []byte("1"), "b": []byte("2")}, int32(0o400)
	all := payload{}
	if err := project(all, data, nil, &mode, false, "config"); err != nil || len(all) != 2 || all["a"].Mode != mode {
		t.Error(all, err)
	}
	some := payload{}
	if err := project(some, data, []corev1.KeyToPath{{Key: "a", Path: "x/y"}}, nil, false, "config"); err != nil || len(some) != 1 || some["x/y"].Mode != defaultMode {
		t.Error(some, err)
	}
	items := []corev1.KeyToPath{{Key: "zz", Path: "z"}}
	if err := project(payload{}, data, items, nil, false, "config"); err == nil || err.Error() != "references non-existent config key: zz" {
		t.Error(err)
	}
	if err := project(payload{}, data, items, nil, true, "config"); err != nil {
		t.Error(err)
	}
}

func TestRefreshAt(t *testing.T) {
	now := time.Unix(0, 0)
	if got := refreshAt(now, now.Add(time.Hour)).Sub(now); got != 48*time.Minute {
		t.Error(got)
	}
	if got := refreshAt(now, now.Add(1000*time.Hour)).Sub(now); got != 24*time.Hour {
		t.Error(got)
	}
}

func TestSubPath(t *testing.T) {
	root := t.TempDir()
	for _, err := range []error{os.Mkdir(filepath.Join(root, "..v1"), 0o755), os.WriteFile(filepath.Join(root, "..v1", "f"), nil, 0o644),
		os.Symlink("..v1", filepath.Join(root, "..data")), os.Symlink("..data/f", filepath.Join(root, "f")), os.Symlink("/etc", filepath.Join(root, "out"))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if got, err := subPath(root, "f", false); err != nil || filepath.Base(filepath.Dir(got)) != "..v1" {
		t.Error(got, err)
	}
	if got, err := subPath(root, "out", false); err == nil {
		t.Error("left the volume: " + got)
	}
	if _, err := subPath(root, "missing", false); err == nil {
		t.Error("made up a file")
	}
	if got, err := subPath(root, "../made/here", true); err != nil || filepath.Dir(filepath.Dir(got)) != root {
		t.Error(got, err)
	}
}
