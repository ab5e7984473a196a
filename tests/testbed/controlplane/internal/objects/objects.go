// Package objects reads what pods refer to: ConfigMaps, Secrets, tokens, claims.
//
// Every read goes to the API server. A cache would sometimes be a moment
// behind, and a pod created right after its ConfigMap would then fail its first
// mount; the watch (watch.go) only says when to read again.
package objects

import (
	"context"
	"fmt"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// Reader reads objects for pods.
type Reader struct{ Client kubernetes.Interface }

const timeout = 10 * time.Second

// ConfigMap returns nil without an error if it does not exist but may be absent.
func (r Reader) ConfigMap(namespace, name string, optional bool) (*corev1.ConfigMap, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	object, err := r.Client.CoreV1().ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		if optional {
			return nil, nil
		}
		return nil, fmt.Errorf("configmap %q not found", name)
	}
	return object, err
}

// Secret returns nil without an error if it does not exist but may be absent.
func (r Reader) Secret(namespace, name string, optional bool) (*corev1.Secret, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	object, err := r.Client.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		if optional {
			return nil, nil
		}
		return nil, fmt.Errorf("secret %q not found", name)
	}
	return object, err
}

// HostPath returns the directory of the host that a claim is bound to. Other
// kinds of volumes need drivers, which this node has not.
func (r Reader) HostPath(namespace, name string) (*corev1.HostPathVolumeSource, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	claim, err := r.Client.CoreV1().PersistentVolumeClaims(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	volume, err := r.Client.CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	if volume.Spec.HostPath == nil {
		return nil, fmt.Errorf("persistentvolume %q is no hostPath", volume.Name)
	}
	return volume.Spec.HostPath, nil
}

// Token asks for a service-account token bound to the pod.
func (r Reader) Token(pod *corev1.Pod, source *corev1.ServiceAccountTokenProjection) (*authenticationv1.TokenRequestStatus, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: source.ExpirationSeconds,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	if source.Audience != "" {
		request.Spec.Audiences = []string{source.Audience}
	}
	account := pod.Spec.ServiceAccountName
	if account == "" {
		account = "default"
	}
	answer, err := r.Client.CoreV1().ServiceAccounts(pod.Namespace).CreateToken(ctx, account, request, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("failed to fetch token: %w", err)
	}
	return &answer.Status, nil
}
