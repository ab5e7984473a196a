package volumes

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"flowbinding.io/testbed/controlplane/internal/podenv"
)

// issuer gives a new token at each request, each of them short-lived.
type issuer struct {
	podenv.Source
	issued int
}

func (i *issuer) Token(*corev1.Pod, *corev1.ServiceAccountTokenProjection) (*authenticationv1.TokenRequestStatus, error) {
	i.issued++
	return &authenticationv1.TokenRequestStatus{Token: fmt.Sprint("token ", i.issued), ExpirationTimestamp: metav1.NewTime(time.Now().Add(500 * time.Millisecond))}, nil
}

func (i *issuer) HostPath(namespace, claim string) (*corev1.HostPathVolumeSource, error) {
	return &corev1.HostPathVolumeSource{Path: filepath.Join("/", namespace, claim)}, nil
}

func TestAClaimIsThePathThatItIsBoundTo(t *testing.T) {
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "claim"), 0o755); err != nil {
		t.Fatal(err)
	}
	pod := podenv.Pod{Pod: &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: root},
		Spec: corev1.PodSpec{Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "claim", ReadOnly: true}}}}},
	}}
	v := New(pod, t.TempDir(), &issuer{})
	if _, err := v.Sync(pod); err != nil {
		t.Fatal(err)
	}
	container := &corev1.Container{VolumeMounts: []corev1.VolumeMount{{Name: "v", MountPath: "/flows"}}}
	mounts, err := v.Mounts(container, nil)
	if err != nil || len(mounts) != 1 {
		t.Fatal(mounts, err)
	}
	if m := mounts[0]; m.Source != filepath.Join(root, "claim") || !m.ReadOnly || m.Owned {
		t.Error(m)
	}
}

func TestTokensAreRenewedBeforeTheyExpire(t *testing.T) {
	pod := podenv.Pod{Pod: &corev1.Pod{Spec: corev1.PodSpec{Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}}}}}}}}}}
	dir, source := t.TempDir(), &issuer{}
	v := New(pod, dir, source)
	sync := func() (time.Time, string) {
		next, err := v.Sync(pod)
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(dir, "v", "token"))
		if err != nil {
			t.Fatal(err)
		}
		return next, string(text)
	}
	next, first := sync()
	if _, again := sync(); again != first {
		t.Error("renewed at once")
	}
	time.Sleep(time.Until(next) + 10*time.Millisecond)
	if later, second := sync(); second == first || !later.After(next) {
		t.Error("not renewed", second, later)
	}
}

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
