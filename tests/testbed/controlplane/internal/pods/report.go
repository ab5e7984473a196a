package pods

import (
	"context"
	"encoding/json"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/klog/v2"
)

// reporter writes a pod's status to the API server, beside the worker: a slow
// or absent API server must not delay a SIGKILL or a restart. Of several
// statuses in a row only the latest is written, and only if it differs.
type reporter struct {
	host  *Host
	pod   *corev1.Pod
	next  chan *corev1.PodStatus // the latest not yet written; capacity 1
	stop  chan struct{}
	ended chan struct{}
}

func newReporter(host *Host, pod *corev1.Pod) *reporter {
	r := &reporter{host: host, pod: pod, next: make(chan *corev1.PodStatus, 1), stop: make(chan struct{}), ended: make(chan struct{})}
	go r.loop()
	return r
}

// report takes a status over; its conditions are only the node's own ones. Only
// the worker calls it.
func (r *reporter) report(status *corev1.PodStatus) {
	select {
	case <-r.next: // outdated
	default:
	}
	r.next <- status
}

// finish ends the reporter after the last status; it gives up on that when the
// API server does not take it in time.
func (r *reporter) finish(wait time.Duration) {
	close(r.stop)
	select {
	case <-r.ended:
	case <-time.After(wait):
	}
}

func (r *reporter) loop() {
	defer close(r.ended)
	known := r.pod.Status // what the API server has, as far as we know
	for {
		var status *corev1.PodStatus
		select {
		case status = <-r.next:
		case <-r.stop:
			select {
			case status = <-r.next: // the last word
			default:
				return
			}
		}
		for !r.write(&known, status) {
			select {
			case <-time.After(500 * time.Millisecond):
			case <-r.stop:
				r.write(&known, status)
				return
			}
			select {
			case status = <-r.next:
			default:
			}
		}
	}
}

// write returns false if it should be tried again.
func (r *reporter) write(known, status *corev1.PodStatus) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	wanted := overlay(known, status)
	if equality.Semantic.DeepEqual(*known, wanted) {
		return true
	}
	patch, err := statusPatch(r.pod.UID, *known, wanted)
	if err != nil {
		klog.Errorf("status of pod %s/%s: %v", r.pod.Namespace, r.pod.Name, err)
		return true
	}
	pod, err := r.host.Client.CoreV1().Pods(r.pod.Namespace).Patch(ctx, r.pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	switch {
	case err == nil:
		*known = pod.Status
	case !apierrors.IsNotFound(err):
		klog.Warningf("status of pod %s/%s: %v", r.pod.Namespace, r.pod.Name, err)
		return false
	}
	return true
}

// statusPatch names the pod's UID, so that it never hits another pod of the
// same name.
func statusPatch(uid types.UID, known, wanted corev1.PodStatus) ([]byte, error) {
	before, err := json.Marshal(corev1.Pod{Status: known})
	if err != nil {
		return nil, err
	}
	after, err := json.Marshal(corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: uid}, Status: wanted})
	if err != nil {
		return nil, err
	}
	return strategicpatch.CreateTwoWayMergePatch(before, after, corev1.Pod{})
}

func overlay(known, status *corev1.PodStatus) corev1.PodStatus {
	wanted := *known.DeepCopy()
	wanted.Phase, wanted.Reason, wanted.Message = status.Phase, status.Reason, status.Message
	wanted.HostIP, wanted.HostIPs, wanted.PodIP, wanted.PodIPs = status.HostIP, status.HostIPs, status.PodIP, status.PodIPs
	wanted.StartTime = status.StartTime
	wanted.InitContainerStatuses, wanted.ContainerStatuses = status.InitContainerStatuses, status.ContainerStatuses
	wanted.Conditions = mergeConditions(known.Conditions, status.Conditions, metav1.Now())
	return wanted
}
