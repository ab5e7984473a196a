package pods

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"flowbinding.io/testbed/controlplane/internal/images"
	"flowbinding.io/testbed/controlplane/internal/logs"
	"flowbinding.io/testbed/controlplane/internal/podenv"
	"flowbinding.io/testbed/controlplane/internal/sandbox"
	"flowbinding.io/testbed/controlplane/internal/volumes"
)

const (
	reasonConfigError = "CreateContainerConfigError"
	reasonCreateError = "CreateContainerError"
	reasonNeverPull   = "ErrImageNeverPull"
)

// Access is what `kubectl exec` needs to get into a running container.
type Access struct {
	Pid  int
	Env  []string
	Dir  string
	Done <-chan struct{}
}

// run starts a container, or notes why it cannot and when to try again.
func (w *Worker) run(now time.Time, c *container, spec *corev1.Container) {
	fail := func(reason, message string) {
		c.waiting = corev1.ContainerStateWaiting{Reason: reason, Message: message}
		c.retryAt = now.Add(retryInterval)
		w.event(c, corev1.EventTypeWarning, "Failed", "Error: %s", message)
	}
	if w.host.Launcher == nil {
		w.running(c, spec, newPretended(), 0)
		return
	}
	image, ok := w.host.Images.Find(spec.Image)
	if !ok {
		message := fmt.Sprintf("Container image %q is not present with pull policy of Never; this process node has: %s", spec.Image, w.host.Images.Names())
		w.event(c, corev1.EventTypeWarning, reasonNeverPull, "%s", message)
		fail(reasonNeverPull, message)
		return
	}
	prepared, err := w.specification(c, spec, image)
	if err != nil {
		fail(reasonConfigError, err.Error())
		return
	}
	if len(prepared.Argv) == 0 {
		fail(reasonCreateError, "no command specified (give it in the container, or to the node with --entrypoint)")
		return
	}
	restarts := c.restarts
	if c.last != nil {
		restarts++
	}
	log, err := logs.Create(w.host.LogPath(w.pod.UID, c.name, restarts))
	if err != nil {
		fail(reasonCreateError, err.Error())
		return
	}
	process, err := w.host.Launcher.Start(prepared, log)
	if err != nil {
		w.neverRan(now, c, err)
		return
	}
	c.env, c.dir = prepared.Env, prepared.Dir
	w.running(c, spec, process, process.Pid)
}

// neverRan treats a command that could not be executed like a run that failed
// at once, as container runtimes do.
func (w *Worker) neverRan(now time.Time, c *container, err error) {
	if c.last != nil {
		c.restarts++
	}
	c.before, c.started, c.pid = c.last, now, 0
	c.last = &corev1.ContainerStateTerminated{ExitCode: 128, Reason: "StartError", Message: err.Error(), StartedAt: metav1.NewTime(now), FinishedAt: metav1.NewTime(now)}
	c.waiting = corev1.ContainerStateWaiting{Reason: "RunContainerError", Message: err.Error()}
	c.retryAt = now.Add(c.backoff.Next(0))
	w.event(c, corev1.EventTypeWarning, "Failed", "Error: %v", err)
}

func (w *Worker) running(c *container, spec *corev1.Container, process process, pid int) {
	if c.last != nil {
		c.restarts++
		c.before, c.last = c.last, nil
	}
	c.run, c.pid, c.image, c.started = process, pid, spec.Image, time.Now()
	c.waiting, c.retryAt = corev1.ContainerStateWaiting{}, time.Time{}
	go func() {
		<-process.Done()
		w.post(func() {
			w.exited(c, process)
			w.setAccess(c, nil)
		})
	}()
	if pid == 0 {
		c.passed, c.ready = true, true
		return
	}
	w.setAccess(c, process.Done())
	w.event(c, corev1.EventTypeNormal, "Started", "Started container %s", c.name)
	w.startProbes(c, spec)
}

// specification is the container as the sandbox takes it.
func (w *Worker) specification(c *container, spec *corev1.Container, image images.Image) (sandbox.Spec, error) {
	dir := w.host.containerDir(w.pod.UID, c.name)
	home, scratch := filepath.Join(dir, "home"), filepath.Join(dir, "scratch")
	for _, d := range []string{home, scratch} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return sandbox.Spec{}, err
		}
	}
	view := w.host.view(w.pod, w.ip)
	base := append([]corev1.EnvVar{
		{Name: "PATH", Value: image.BinDir + ":" + hostPath()},
		{Name: "HOME", Value: home},
		{Name: "HOSTNAME", Value: w.hostname()},
	}, w.host.Environment...)
	env, err := podenv.Environment(view, spec, base, w.host.Source)
	if err != nil {
		return sandbox.Spec{}, err
	}
	mounts, err := w.theVolumes().Mounts(spec, env)
	if err != nil {
		return sandbox.Spec{}, err
	}
	more, err := w.ownMounts(dir, spec)
	if err != nil {
		return sandbox.Spec{}, err
	}
	security := spec.SecurityContext
	readOnlyRoot := security != nil && security.ReadOnlyRootFilesystem != nil && *security.ReadOnlyRootFilesystem
	more = append(more, exposed(mounts, append([]string{filepath.Dir(image.BinDir), home}, w.host.Expose...), readOnlyRoot)...)
	workDir := spec.WorkingDir
	if workDir == "" {
		workDir = "/"
	}
	return sandbox.Spec{Argv: podenv.Expand(commandLine(spec, image), env), Env: podenv.List(env), Dir: workDir, Hostname: w.hostname(), Mounts: append(more, mounts...),
		ReadOnlyRoot: readOnlyRoot, Scratch: scratch}, nil
}

func commandLine(spec *corev1.Container, image images.Image) []string {
	command := spec.Command
	if len(command) == 0 {
		command = image.Entrypoint
	}
	if len(command) == 0 {
		return nil // arguments alone are no command
	}
	return append(append([]string(nil), command...), spec.Args...)
}

// exposed keeps directories visible that a volume would hide. A pod's emptyDir
// at /tmp must not take away the "image", if that is kept below /tmp.
func exposed(mounts []sandbox.Mount, dirs []string, readOnly bool) []sandbox.Mount {
	var more []sandbox.Mount
	for _, dir := range dirs {
		for _, mount := range mounts {
			if strings.HasPrefix(dir, filepath.Clean(mount.Target)+"/") {
				more = append(more, sandbox.Mount{Source: dir, Target: dir, ReadOnly: readOnly})
				break
			}
		}
	}
	return more
}

func hostPath() string {
	if path := os.Getenv("PATH"); path != "" {
		return path
	}
	return "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
}

func (w *Worker) hostname() string {
	if w.pod.Spec.Hostname != "" {
		return w.pod.Spec.Hostname
	}
	return strings.TrimRight(w.pod.Name[:min(len(w.pod.Name), 63)], "-.")
}

// ownMounts are what a kubelet adds to the pod's own mounts.
func (w *Worker) ownMounts(dir string, spec *corev1.Container) ([]sandbox.Mount, error) {
	mounts := []sandbox.Mount{{Source: w.hostsFile(), Target: "/etc/hosts", File: true, Owned: true}}
	if spec.TerminationMessagePath == "" {
		return mounts, nil
	}
	message := filepath.Join(dir, "termination-log")
	if err := os.WriteFile(message, nil, 0o666); err != nil {
		return nil, err
	}
	return append(mounts, sandbox.Mount{Source: message, Target: spec.TerminationMessagePath, File: true, Owned: true}), nil
}

func (w *Worker) hostsFile() string { return filepath.Join(w.host.podDir(w.pod.UID), "etc-hosts") }

// writeHosts lets the pod find its own name. The machine's entries stay, as pods
// share its network.
func (w *Worker) writeHosts() error {
	text, err := os.ReadFile("/etc/hosts")
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	var hosts bytes.Buffer
	hosts.Write(text)
	fmt.Fprintf(&hosts, "\n# of the pod\n%s\t%s\n", w.ip, w.hostname())
	for _, alias := range w.pod.Spec.HostAliases {
		fmt.Fprintf(&hosts, "%s\t%s\n", alias.IP, strings.Join(alias.Hostnames, "\t"))
	}
	if err := os.MkdirAll(w.host.podDir(w.pod.UID), 0o755); err != nil {
		return err
	}
	return os.WriteFile(w.hostsFile(), hosts.Bytes(), 0o644)
}

// terminationMessage is what the container left to say, or, if it asked for
// that, the end of its log.
func (w *Worker) terminationMessage(c *container, code int32) string {
	text, _ := os.ReadFile(filepath.Join(w.host.containerDir(w.pod.UID, c.name), "termination-log")) // none: no message
	if len(text) > 0 || code == 0 || w.host.Launcher == nil {
		return string(text[:min(len(text), 4096)])
	}
	spec := w.spec(c)
	if spec == nil || spec.TerminationMessagePolicy != corev1.TerminationMessageFallbackToLogsOnError {
		return ""
	}
	var end bytes.Buffer
	lines := 80
	_ = logs.Copy(context.Background(), w.host.LogPath(w.pod.UID, c.name, c.restarts), logs.Options{Tail: &lines}, nil, &end)
	return string(end.Bytes()[max(0, end.Len()-2048):])
}

func (w *Worker) spec(c *container) *corev1.Container {
	for _, list := range [][]corev1.Container{w.pod.Spec.InitContainers, w.pod.Spec.Containers} {
		for i := range list {
			if list[i].Name == c.name {
				return &list[i]
			}
		}
	}
	return nil
}

func (w *Worker) theVolumes() *volumes.Volumes {
	if w.volumes == nil {
		w.volumes = volumes.New(w.host.view(w.pod, w.ip), filepath.Join(w.host.podDir(w.pod.UID), "volumes"), w.host.Source)
	}
	return w.volumes
}

func (w *Worker) setAccess(c *container, done <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if done == nil {
		delete(w.access, c.name)
		return
	}
	w.access[c.name] = Access{Pid: c.pid, Env: c.env, Dir: c.dir, Done: done}
}

// Access is for the kubelet's API; false: the container is not running.
func (w *Worker) Access(container string) (Access, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	access, ok := w.access[container]
	return access, ok
}
