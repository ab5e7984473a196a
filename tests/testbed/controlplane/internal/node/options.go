// Package node is the "process node": a node of a Kubernetes cluster that runs
// pods as plain processes of the machine it is on.
//
// It is a stand-in for a kubelet, for tests on machines that have no container
// runtime. To the API server it looks like a kubelet: statuses, conditions,
// events, probes, restarts, volumes, logs, exec and port-forward are as there.
// Below it is built on virtual-kubelet's node registration and kubelet API; pods
// are run by package pods, because virtual-kubelet's own pod controller resolves
// the environment before a pod has an address, and knows no restarts.
//
// What a container has of its own: mount, PID and UTS namespace (so volumes are
// at their real paths and a pod's processes all end with it), an address of the
// loopback network, /dev, /proc, HOME and host name. readOnlyRootFilesystem is
// enforced.
//
// What it does not do:
//   - isolate. A pod shares the machine's files, network and users: it runs as
//     the user of the node, whatever runAsUser, fsGroup or capabilities say. A
//     server must listen on its pod IP; two that listen on 0.0.0.0 collide.
//   - images: an image's name is mapped to a directory of programs (--image).
//   - Services: there is no kube-proxy and no cluster DNS.
//   - resources: requests and limits are only what the scheduler makes of them;
//     there is no OOMKilled and no eviction.
//   - sidecar (restartable init) and ephemeral containers, lifecycle hooks,
//     gRPC probes, PersistentVolumeClaims but for those that are bound to a
//     hostPath, attach, log rotation.
//
// It differs from a kubelet on purpose in being quicker: restart back-off is
// 1 s to 10 s, missing objects are looked for every 2 s, and a startup or
// readiness probe that has not succeeded yet is also tried between its periods.
package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"

	"flowbinding.io/testbed/controlplane/internal/images"
)

// Options of the node command.
type Options struct {
	Name         string
	Kubeconfig   string
	StateDir     string
	PodCIDR      string
	Listen       string
	TLSCert      string
	TLSKey       string
	ClientCA     string
	Images       []string
	Entrypoints  []string
	Env          []string
	Expose       []string
	CapacityPods int
	NoRun        bool
}

func parse(args []string) (*Options, error) {
	o := &Options{}
	flags := pflag.NewFlagSet("node", pflag.ContinueOnError)
	flags.StringVar(&o.Name, "name", "local", "name of the node")
	flags.StringVar(&o.Kubeconfig, "kubeconfig", "", "how to reach the API server")
	flags.StringVar(&o.StateDir, "state-dir", "", "directory for pods' volumes, homes and logs")
	flags.StringVar(&o.PodCIDR, "pod-cidr", "127.77.0.0/16", "loopback network to take pod addresses from")
	flags.StringVar(&o.Listen, "listen", "127.0.0.1:10250", "address of the kubelet API (logs, exec, port-forward)")
	flags.StringVar(&o.TLSCert, "tls-cert", "", "certificate of the kubelet API")
	flags.StringVar(&o.TLSKey, "tls-key", "", "its key")
	flags.StringVar(&o.ClientCA, "client-ca", "", "CA of those who may use the kubelet API (else: everyone on this machine)")
	flags.StringArrayVar(&o.Images, "image", nil, "NAME=BINDIR: the image NAME, with any tag, is the programs in BINDIR (repeatable)")
	flags.StringArrayVar(&o.Entrypoints, "entrypoint", nil, "NAME=COMMAND: what the image NAME runs for a container without a command (repeatable)")
	flags.StringArrayVar(&o.Env, "env", nil, "KEY=VALUE: environment of every pod (repeatable)")
	flags.StringArrayVar(&o.Expose, "expose", nil, "directory that pods see even if they mount a volume above it; the parents of all BINDIRs are exposed anyway (repeatable)")
	flags.IntVar(&o.CapacityPods, "capacity-pods", 500, "how many pods fit")
	flags.BoolVar(&o.NoRun, "no-run", false, "report pods as running without starting anything")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if len(flags.Args()) > 0 {
		return nil, fmt.Errorf("unknown arguments: %v", flags.Args())
	}
	return o, o.check()
}

func (o *Options) check() error {
	var problems []error
	for _, required := range []struct{ flag, value string }{
		{"--kubeconfig", o.Kubeconfig}, {"--state-dir", o.StateDir}, {"--tls-cert", o.TLSCert}, {"--tls-key", o.TLSKey},
	} {
		if required.value == "" {
			problems = append(problems, fmt.Errorf("%s is needed", required.flag))
		}
	}
	for _, dir := range o.Expose {
		if info, err := os.Stat(dir); err != nil || !info.IsDir() || !filepath.IsAbs(dir) {
			problems = append(problems, fmt.Errorf("--expose %q: an absolute path of a directory is wanted", dir))
		}
	}
	for _, entry := range o.Env {
		if name, _, ok := strings.Cut(entry, "="); !ok || name == "" {
			problems = append(problems, fmt.Errorf("--env %q: KEY=VALUE is wanted", entry))
		}
	}
	if _, err := images.Parse(o.Images, o.Entrypoints); err != nil {
		problems = append(problems, err)
	}
	return errors.Join(problems...)
}

func (o *Options) environment() []corev1.EnvVar {
	var env []corev1.EnvVar
	for _, entry := range o.Env {
		name, value, _ := strings.Cut(entry, "=")
		env = append(env, corev1.EnvVar{Name: name, Value: value})
	}
	return env
}

// prepareStateDir makes the path absolute and real: it is used as the source of
// mounts.
func (o *Options) prepareStateDir() error {
	dir, err := filepath.Abs(o.StateDir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(dir, "pods"), 0o755); err != nil {
		return err
	}
	o.StateDir, err = filepath.EvalSymlinks(dir)
	return err
}
