package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"

	"github.com/virtual-kubelet/virtual-kubelet/errdefs"
	vkapi "github.com/virtual-kubelet/virtual-kubelet/node/api"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	corev1listers "k8s.io/client-go/listers/core/v1"

	"flowbinding.io/testbed/controlplane/internal/pods"
	"flowbinding.io/testbed/controlplane/internal/proc"
)

// api is what the API server asks a kubelet for.
type api struct {
	manager *pods.Manager
	pods    corev1listers.PodLister
	host    *pods.Host
}

func (a *api) list(context.Context) ([]*corev1.Pod, error) { return a.pods.List(labels.Everything()) }

func (a *api) pod(namespace, name string) (*corev1.Pod, error) {
	pod, err := a.pods.Pods(namespace).Get(name)
	if err != nil {
		return nil, errdefs.NotFoundf("pod %s/%s is not on this node", namespace, name)
	}
	return pod, nil
}

func (a *api) access(namespace, name, container string) (pods.Access, error) {
	pod, err := a.pod(namespace, name)
	if err != nil {
		return pods.Access{}, err
	}
	if worker, ok := a.manager.Worker(pod.UID); ok {
		if access, ok := worker.Access(container); ok {
			return access, nil
		}
	}
	return pods.Access{}, errdefs.NotFoundf("container %s of pod %s/%s is not running", container, namespace, name)
}

func (a *api) exec(ctx context.Context, namespace, name, container string, argv []string, attach vkapi.AttachIO) error {
	access, err := a.access(namespace, name, container)
	if err != nil {
		return err
	}
	streams := streamsOf(attach)
	if !attach.TTY() {
		return a.host.Launcher.Exec(ctx, access.Pid, access.Dir, access.Env, argv, streams)
	}
	sizes := make(chan proc.Size)
	go func() {
		defer close(sizes)
		for {
			select {
			case <-ctx.Done():
				return
			case size, ok := <-attach.Resize():
				if !ok {
					return
				}
				sizes <- proc.Size{Width: size.Width, Height: size.Height}
			}
		}
	}()
	return a.host.Launcher.ExecTerminal(ctx, access.Pid, access.Dir, access.Env, argv, streams, sizes)
}

// streamsOf leaves out those that the client did not ask for: a nil *T in an
// interface is not nil.
func streamsOf(attach vkapi.AttachIO) proc.Streams {
	var streams proc.Streams
	if in := attach.Stdin(); in != nil {
		streams.In = in
	}
	if out := attach.Stdout(); out != nil {
		streams.Out = out
	}
	if err := attach.Stderr(); err != nil {
		streams.Err = err
	}
	return streams
}

func (a *api) portForward(ctx context.Context, namespace, name string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	pod, err := a.pod(namespace, name)
	if err != nil {
		return err
	}
	if pod.Status.PodIP == "" {
		return errdefs.NotFoundf("pod %s/%s has no address", namespace, name)
	}
	connection, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(pod.Status.PodIP, strconv.Itoa(int(port))))
	if err != nil {
		return fmt.Errorf("port-forward: %w", err)
	}
	defer connection.Close()
	go func() {
		_, _ = io.Copy(connection, stream)
		if tcp, ok := connection.(*net.TCPConn); ok {
			_ = tcp.CloseWrite()
		}
	}()
	_, err = io.Copy(stream, connection)
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
