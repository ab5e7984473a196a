// Package podenv works out a container's environment and command line, as the
// kubelet does. It runs when the pod has its address, so that $(POD_IP) works.
package podenv

import (
	"fmt"
	"sort"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	podresource "k8s.io/kubernetes/pkg/api/v1/resource"
	"k8s.io/kubernetes/pkg/fieldpath"
	"k8s.io/kubernetes/third_party/forked/golang/expansion"
)

// Source gives the objects that variables come from.
type Source interface {
	ConfigMap(namespace, name string, optional bool) (*corev1.ConfigMap, error)
	Secret(namespace, name string, optional bool) (*corev1.Secret, error)
}

// Pod is a pod with what it gets from its node.
type Pod struct {
	*corev1.Pod
	IP, HostIP  string
	Allocatable corev1.ResourceList
}

// Environment resolves envFrom and env on top of base; later ones win.
func Environment(pod Pod, c *corev1.Container, base []corev1.EnvVar, source Source) (map[string]string, error) {
	env := map[string]string{}
	for _, v := range base {
		env[v.Name] = v.Value
	}
	r := resolver{pod: pod, container: c, source: source, configMaps: map[string]*corev1.ConfigMap{}, secrets: map[string]*corev1.Secret{}}
	declared := map[string]string{}
	for i := range c.EnvFrom {
		if err := r.from(&c.EnvFrom[i], declared); err != nil {
			return nil, err
		}
	}
	expand := expansion.MappingFuncFor(declared, env)
	for i := range c.Env {
		v := &c.Env[i]
		value, present, err := expansion.Expand(v.Value, expand), true, error(nil)
		if v.ValueFrom != nil {
			value, present, err = r.valueFrom(v.ValueFrom)
		}
		if err != nil {
			return nil, err
		}
		if present {
			declared[v.Name] = value
		}
	}
	for name, value := range declared {
		env[name] = value
	}
	return env, nil
}

// List is the environment as exec wants it, sorted so that it is reproducible.
func List(env map[string]string) []string {
	list := make([]string, 0, len(env))
	for name, value := range env {
		list = append(list, name+"="+value)
	}
	sort.Strings(list)
	return list
}

// Expand replaces $(NAME) in words (a command, arguments).
func Expand(words []string, env map[string]string) []string {
	expanded, mapping := make([]string, len(words)), expansion.MappingFuncFor(env)
	for i, word := range words {
		expanded[i] = expansion.Expand(word, mapping)
	}
	return expanded
}

type resolver struct {
	pod        Pod
	container  *corev1.Container
	source     Source
	configMaps map[string]*corev1.ConfigMap
	secrets    map[string]*corev1.Secret
}

func (r *resolver) configMap(name string, optional *bool) (*corev1.ConfigMap, error) {
	if object, ok := r.configMaps[name]; ok {
		return object, nil
	}
	object, err := r.source.ConfigMap(r.pod.Namespace, name, optional != nil && *optional)
	if err == nil && object != nil {
		r.configMaps[name] = object
	}
	return object, err
}

func (r *resolver) secret(name string, optional *bool) (*corev1.Secret, error) {
	if object, ok := r.secrets[name]; ok {
		return object, nil
	}
	object, err := r.source.Secret(r.pod.Namespace, name, optional != nil && *optional)
	if err == nil && object != nil {
		r.secrets[name] = object
	}
	return object, err
}

func (r *resolver) from(from *corev1.EnvFromSource, into map[string]string) error {
	if ref := from.ConfigMapRef; ref != nil {
		object, err := r.configMap(ref.Name, ref.Optional)
		if err != nil {
			return err
		}
		if object != nil {
			for key, value := range object.Data {
				into[from.Prefix+key] = value
			}
		}
	}
	if ref := from.SecretRef; ref != nil {
		object, err := r.secret(ref.Name, ref.Optional)
		if err != nil {
			return err
		}
		if object != nil {
			for key, value := range object.Data {
				into[from.Prefix+key] = string(value)
			}
		}
	}
	return nil
}

// valueFrom says false where an optional source is absent.
func (r *resolver) valueFrom(from *corev1.EnvVarSource) (string, bool, error) {
	switch {
	case from.FieldRef != nil:
		value, err := Field(r.pod, from.FieldRef.FieldPath)
		return value, true, err
	case from.ResourceFieldRef != nil:
		value, err := Resource(r.pod, from.ResourceFieldRef, r.container.Name)
		return value, true, err
	case from.ConfigMapKeyRef != nil:
		ref := from.ConfigMapKeyRef
		object, err := r.configMap(ref.Name, ref.Optional)
		if err != nil || object == nil {
			return "", false, err
		}
		if value, ok := object.Data[ref.Key]; ok {
			return value, true, nil
		}
		return missingKey("ConfigMap", r.pod.Namespace, ref.Name, ref.Key, ref.Optional)
	case from.SecretKeyRef != nil:
		ref := from.SecretKeyRef
		object, err := r.secret(ref.Name, ref.Optional)
		if err != nil || object == nil {
			return "", false, err
		}
		if value, ok := object.Data[ref.Key]; ok {
			return string(value), true, nil
		}
		return missingKey("Secret", r.pod.Namespace, ref.Name, ref.Key, ref.Optional)
	}
	return "", false, fmt.Errorf("a kind of valueFrom that this node does not know")
}

func missingKey(kind, namespace, name, key string, optional *bool) (string, bool, error) {
	if optional != nil && *optional {
		return "", false, nil
	}
	return "", false, fmt.Errorf("couldn't find key %s in %s %s/%s", key, kind, namespace, name)
}

// Field reads a field of the downward API.
func Field(pod Pod, path string) (string, error) {
	switch path {
	case "spec.nodeName":
		return pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	case "status.hostIP", "status.hostIPs":
		return pod.HostIP, nil
	case "status.podIP", "status.podIPs":
		return pod.IP, nil
	}
	return fieldpath.ExtractFieldPathAsString(pod.Pod, path)
}

// Resource reads a container's resource; a limit that is not set is the node's
// whole capacity, as everywhere.
func Resource(pod Pod, ref *corev1.ResourceFieldSelector, container string) (string, error) {
	if ref.ContainerName != "" {
		container = ref.ContainerName
	}
	selector := ref.DeepCopy()
	if selector.Divisor.IsZero() {
		selector.Divisor = resource.MustParse("1")
	}
	return podresource.ExtractResourceValueByContainerNameAndNodeAllocatable(selector, pod.Pod, container, pod.Allocatable)
}
