package node

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	corev1listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"flowbinding.io/testbed/controlplane/internal/images"
	"flowbinding.io/testbed/controlplane/internal/ippool"
	"flowbinding.io/testbed/controlplane/internal/objects"
	"flowbinding.io/testbed/controlplane/internal/pods"
	"flowbinding.io/testbed/controlplane/internal/proc"
)

// closingGrace is what pods get when the node itself is told to end.
const closingGrace = 5 * time.Second

// Main is the node command; it returns the exit code.
func Main(args []string) int {
	options, err := parse(args)
	if errors.Is(err, pflag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "node:", err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, options); err != nil {
		fmt.Fprintln(os.Stderr, "node:", err)
		return 1
	}
	return 0
}

func run(ctx context.Context, o *Options) error {
	if err := o.prepareStateDir(); err != nil {
		return err
	}
	unlock, err := lock(o.StateDir)
	if err != nil {
		return err
	}
	defer unlock()
	client, err := connect(o.Kubeconfig)
	if err != nil {
		return err
	}
	node, err := object(o)
	if err != nil {
		return err
	}
	host, err := newHost(o, client, node)
	if err != nil {
		return err
	}
	// The API of pods outlives ctx: while they end, it is still to be heard of.
	life, end := context.WithCancel(context.Background())
	defer end()
	host.Recorder = recorder(life, client, o.Name)
	lister, informer := podInformer(life, client, o.Name)
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return ctx.Err()
	}
	present, err := lister.List(labels.Everything())
	if err != nil {
		return err
	}
	manager := pods.NewManager(host, present)
	defer manager.Close(closingGrace)
	server, err := serve(o, &api{manager: manager, pods: lister, host: host})
	if err != nil {
		return err
	}
	defer server.Close()
	return work(ctx, life, o, client, node, manager, informer, server)
}

// work connects the parts and waits for the end.
func work(ctx, life context.Context, o *Options, client kubernetes.Interface, node *corev1.Node, manager *pods.Manager, informer cache.SharedIndexInformer, server *http.Server) error {
	if !o.NoRun {
		if err := objects.Watch(life, client, manager.Changed); err != nil {
			return err
		}
	}
	if _, err := informer.AddEventHandler(handler(manager)); err != nil {
		return err
	}
	controller, err := register(life, client, node)
	if err != nil {
		return err
	}
	klog.Infof("node %s is ready; kubelet API on %s", o.Name, o.Listen)
	select {
	case <-ctx.Done():
		klog.Infof("ending: stopping all pods")
		return nil
	case <-controller.Done():
		return fmt.Errorf("node registration ended: %w", controller.Err())
	}
}

func handler(manager *pods.Manager) cache.ResourceEventHandler {
	seen := func(object any) {
		if pod, ok := object.(*corev1.Pod); ok {
			manager.Seen(pod)
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    seen,
		UpdateFunc: func(_, object any) { seen(object) },
		DeleteFunc: func(object any) {
			if unknown, ok := object.(cache.DeletedFinalStateUnknown); ok {
				object = unknown.Obj
			}
			if pod, ok := object.(*corev1.Pod); ok {
				manager.Gone(pod.UID)
			}
		},
	}
}

func connect(kubeconfig string) (kubernetes.Interface, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	config.QPS = -1 // the API server has its own limits
	config.UserAgent = "flowbinding-process-node"
	return kubernetes.NewForConfig(config)
}

func newHost(o *Options, client kubernetes.Interface, node *corev1.Node) (*pods.Host, error) {
	known, err := images.Parse(o.Images, o.Entrypoints)
	if err != nil {
		return nil, err
	}
	addresses, err := ippool.New(o.PodCIDR)
	if err != nil {
		return nil, err
	}
	host := &pods.Host{Client: client, Source: objects.Reader{Client: client}, Addresses: addresses, Images: known,
		Environment: o.environment(), Expose: o.Expose, StateDir: o.StateDir, IP: node.Status.Addresses[0].Address, Allocatable: node.Status.Allocatable}
	if o.NoRun {
		return host, nil
	}
	scratch := filepath.Join(o.StateDir, "scratch")
	if err := os.MkdirAll(scratch, 0o755); err != nil {
		return nil, err
	}
	host.Launcher, err = proc.NewLauncher(scratch)
	return host, err
}

func recorder(ctx context.Context, client kubernetes.Interface, name string) record.EventRecorder {
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	broadcaster.StartRecordingToSink(&corev1client.EventSinkImpl{Interface: client.CoreV1().Events(metav1.NamespaceAll)})
	return broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "kubelet", Host: name})
}

func podInformer(ctx context.Context, client kubernetes.Interface, name string) (corev1listers.PodLister, cache.SharedIndexInformer) {
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTweakListOptions(func(options *metav1.ListOptions) {
		options.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", name).String()
	}))
	podsOfNode := factory.Core().V1().Pods()
	informer := podsOfNode.Informer()
	factory.Start(ctx.Done())
	return podsOfNode.Lister(), informer
}

// lock keeps a second node away from the same state: it would remove the first
// one's files.
func lock(dir string) (func(), error) {
	file, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		file.Close()
		return nil, fmt.Errorf("another node uses %s", dir)
	}
	return func() { file.Close() }, nil
}
