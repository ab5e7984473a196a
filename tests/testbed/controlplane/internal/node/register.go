package node

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"

	vknode "github.com/virtual-kubelet/virtual-kubelet/node"
	"github.com/virtual-kubelet/virtual-kubelet/node/nodeutil"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-base/version"
)

// object is the node as it is registered. It is Ready at once: everything that
// could fail has been tried before.
func object(o *Options) (*corev1.Node, error) {
	host, portText, err := net.SplitHostPort(o.Listen)
	if err != nil {
		return nil, fmt.Errorf("--listen: %w", err)
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		return nil, fmt.Errorf("--listen: %w", err)
	}
	now := metav1.Now()
	healthy := func(kind corev1.NodeConditionType, status corev1.ConditionStatus, reason, message string) corev1.NodeCondition {
		return corev1.NodeCondition{Type: kind, Status: status, Reason: reason, Message: message, LastHeartbeatTime: now, LastTransitionTime: now}
	}
	room := corev1.ResourceList{ // scheduling must not depend on the machine that a test happens to run on
		corev1.ResourceCPU:              resource.MustParse("1000"),
		corev1.ResourceMemory:           resource.MustParse("4Ti"),
		corev1.ResourceEphemeralStorage: resource.MustParse("4Ti"),
		corev1.ResourcePods:             *resource.NewQuantity(int64(o.CapacityPods), resource.DecimalSI),
	}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: o.Name, Labels: map[string]string{
			corev1.LabelHostname: o.Name, corev1.LabelOSStable: runtime.GOOS, corev1.LabelArchStable: runtime.GOARCH,
			corev1.LabelInstanceTypeStable: "process", "flowbinding.io/node": "process",
		}},
		Status: corev1.NodeStatus{
			Capacity: room, Allocatable: room,
			Addresses:       []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: host}, {Type: corev1.NodeHostName, Address: o.Name}},
			DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: int32(port)}},
			NodeInfo:        info(),
			Conditions: []corev1.NodeCondition{
				healthy(corev1.NodeReady, corev1.ConditionTrue, "KubeletReady", "process node is posting ready status"),
				healthy(corev1.NodeMemoryPressure, corev1.ConditionFalse, "KubeletHasSufficientMemory", "not measured"),
				healthy(corev1.NodeDiskPressure, corev1.ConditionFalse, "KubeletHasNoDiskPressure", "not measured"),
				healthy(corev1.NodePIDPressure, corev1.ConditionFalse, "KubeletHasSufficientPID", "not measured"),
				healthy(corev1.NodeNetworkUnavailable, corev1.ConditionFalse, "Loopback", "pods have loopback addresses"),
			},
		},
	}, nil
}

func info() corev1.NodeSystemInfo {
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	machine, _ := os.ReadFile("/etc/machine-id")
	return corev1.NodeSystemInfo{Architecture: runtime.GOARCH, OperatingSystem: runtime.GOOS, OSImage: "process node",
		KernelVersion: strings.TrimSpace(string(kernel)), MachineID: strings.TrimSpace(string(machine)),
		KubeletVersion: version.Get().GitVersion, ContainerRuntimeVersion: "process://1"}
}

// register keeps the node and its lease in the API server until ctx ends.
func register(ctx context.Context, client kubernetes.Interface, node *corev1.Node) (*vknode.NodeController, error) {
	controller, err := vknode.NewNodeController(vknode.NewNaiveNodeProvider(), node, client.CoreV1().Nodes(),
		vknode.WithNodeEnableLeaseV1(nodeutil.NodeLeaseV1Client(client), vknode.DefaultLeaseDuration))
	if err != nil {
		return nil, err
	}
	go func() { _ = controller.Run(ctx) }() // its error is read from Err
	select {
	case <-controller.Ready():
		return controller, nil
	case <-controller.Done():
		return nil, fmt.Errorf("registering the node: %w", controller.Err())
	}
}
