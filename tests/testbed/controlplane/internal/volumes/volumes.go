// Package volumes makes a pod's volumes as directories of the host, and keeps
// those that come from the API up to date with the kubelet's own atomic writer.
package volumes

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/volume/util"

	"flowbinding.io/testbed/controlplane/internal/podenv"
	"flowbinding.io/testbed/controlplane/internal/sandbox"
)

// Source gives what volumes are made from.
type Source interface {
	podenv.Source
	HostPath(namespace, claim string) (*corev1.HostPathVolumeSource, error)
	Token(pod *corev1.Pod, source *corev1.ServiceAccountTokenProjection) (*authenticationv1.TokenRequestStatus, error)
}

// Volumes are the volumes of one pod.
type Volumes struct {
	pod    podenv.Pod
	dir    string
	source Source
	tokens map[string]token
	paths  map[string]string // of the host, by volume
	next   time.Time
}

// New returns the volumes of a pod, below dir. Nothing is made yet.
func New(pod podenv.Pod, dir string, source Source) *Volumes {
	return &Volumes{pod: pod, dir: dir, source: source, tokens: map[string]token{}, paths: map[string]string{}}
}

// Error says which volume could not be set up.
type Error struct {
	Volume string
	Err    error
}

func (e *Error) Error() string {
	return fmt.Sprintf("MountVolume.SetUp failed for volume %q : %v", e.Volume, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// Sync makes or refreshes all volumes, and says when it must run again for a
// token's sake (zero: not on its own account). The pod may be newer than before.
func (v *Volumes) Sync(pod podenv.Pod) (time.Time, error) {
	v.pod, v.next = pod, time.Time{}
	for i := range pod.Spec.Volumes {
		volume := &pod.Spec.Volumes[i]
		if err := v.sync(volume); err != nil {
			return time.Time{}, &Error{volume.Name, err}
		}
	}
	return v.next, nil
}

func (v *Volumes) sync(volume *corev1.Volume) error {
	files := payload{}
	switch {
	case volume.EmptyDir != nil:
		return makeDir(v.path(volume.Name), 0o777)
	case volume.HostPath != nil:
		v.paths[volume.Name] = volume.HostPath.Path
		return hostPath(volume.HostPath)
	case volume.PersistentVolumeClaim != nil:
		source, err := v.source.HostPath(v.pod.Namespace, volume.PersistentVolumeClaim.ClaimName)
		if err != nil {
			return err
		}
		v.paths[volume.Name] = source.Path
		return hostPath(source)
	case volume.ConfigMap != nil:
		s := volume.ConfigMap
		if err := v.configMap(files, s.Name, s.Items, s.DefaultMode, s.Optional); err != nil {
			return err
		}
	case volume.Secret != nil:
		s := volume.Secret
		if err := v.secret(files, s.SecretName, s.Items, s.DefaultMode, s.Optional); err != nil {
			return err
		}
	case volume.DownwardAPI != nil:
		if err := v.downward(files, volume.DownwardAPI.Items, volume.DownwardAPI.DefaultMode); err != nil {
			return err
		}
	case volume.Projected != nil:
		if err := v.projected(files, volume.Projected); err != nil {
			return err
		}
	default:
		return fmt.Errorf("a process node has no such kind of volume")
	}
	return v.write(volume.Name, files)
}

func (v *Volumes) write(name string, files payload) error {
	dir := v.path(name)
	if err := makeDir(dir, 0o755); err != nil {
		return err
	}
	writer, err := util.NewAtomicWriter(dir, "pod "+v.pod.Namespace+"/"+v.pod.Name+" volume "+name)
	if err != nil {
		return err
	}
	return writer.Write(files, nil)
}

func (v *Volumes) path(name string) string { return filepath.Join(v.dir, name) }

// makeDir is MkdirAll with an exact mode, whatever the umask.
func makeDir(dir string, mode os.FileMode) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.Chmod(dir, mode)
}

func hostPath(source *corev1.HostPathVolumeSource) error {
	kind := corev1.HostPathUnset
	if source.Type != nil {
		kind = *source.Type
	}
	info, err := os.Stat(source.Path)
	switch kind {
	case corev1.HostPathDirectoryOrCreate:
		return os.MkdirAll(source.Path, 0o755)
	case corev1.HostPathFileOrCreate:
		if err == nil {
			return nil
		}
		return os.WriteFile(source.Path, nil, 0o644)
	case corev1.HostPathDirectory:
		if err == nil && !info.IsDir() {
			return fmt.Errorf("hostPath type check failed: %s is not a directory", source.Path)
		}
	case corev1.HostPathFile:
		if err == nil && !info.Mode().IsRegular() {
			return fmt.Errorf("hostPath type check failed: %s is not a file", source.Path)
		}
	}
	return err
}

// Mounts says what a container mounts, and where.
func (v *Volumes) Mounts(c *corev1.Container, env map[string]string) ([]sandbox.Mount, error) {
	mounts := make([]sandbox.Mount, 0, len(c.VolumeMounts))
	for i := range c.VolumeMounts {
		mount, err := v.mount(&c.VolumeMounts[i], env)
		if err != nil {
			return nil, err
		}
		mounts = append(mounts, mount)
	}
	return mounts, nil
}

func (v *Volumes) mount(m *corev1.VolumeMount, env map[string]string) (sandbox.Mount, error) {
	volume := v.find(m.Name)
	if volume == nil {
		return sandbox.Mount{}, fmt.Errorf("volume %q is not there", m.Name)
	}
	source, owned := v.path(m.Name), true
	path, ofHost := v.paths[m.Name]
	if ofHost {
		source, owned = path, false
	}
	sub := m.SubPath
	if m.SubPathExpr != "" {
		sub = podenv.Expand([]string{m.SubPathExpr}, env)[0]
	}
	if sub != "" {
		resolved, err := subPath(source, sub, volume.EmptyDir != nil)
		if err != nil {
			return sandbox.Mount{}, fmt.Errorf("failed to prepare subPath for volumeMount %q of container: %w", m.Name, err)
		}
		source = resolved
	}
	info, err := os.Stat(source)
	if err != nil {
		return sandbox.Mount{}, err
	}
	readOnly := m.ReadOnly
	if claim := volume.PersistentVolumeClaim; claim != nil {
		readOnly = readOnly || claim.ReadOnly
	}
	fromAPI := volume.EmptyDir == nil && !ofHost // read-only always, as in the kubelet
	return sandbox.Mount{Source: source, Target: m.MountPath, File: !info.IsDir(), ReadOnly: readOnly || fromAPI, Owned: owned}, nil
}

func (v *Volumes) find(name string) *corev1.Volume {
	for i := range v.pod.Spec.Volumes {
		if v.pod.Spec.Volumes[i].Name == name {
			return &v.pod.Spec.Volumes[i]
		}
	}
	return nil
}

// subPath resolves links (..data among them), so that what is mounted is the
// file of now, and never anything outside of the volume.
func subPath(root, sub string, create bool) (string, error) {
	path := filepath.Join(root, filepath.Clean("/"+sub))
	if create {
		if _, err := os.Stat(path); os.IsNotExist(err) {
			if err := os.MkdirAll(path, 0o777); err != nil {
				return "", err
			}
		}
	}
	root, err := filepath.EvalSymlinks(root)
	if err != nil {
		return "", err
	}
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	if resolved != root && !strings.HasPrefix(resolved, root+"/") {
		return "", fmt.Errorf("subPath %q leaves the volume", sub)
	}
	return resolved, nil
}
