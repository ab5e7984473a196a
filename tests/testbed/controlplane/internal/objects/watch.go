package objects

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// Ref names a ConfigMap or Secret.
type Ref struct{ Kind, Namespace, Name string }

// Watch calls changed for each ConfigMap and Secret that appears, changes or
// goes. Contents are dropped on arrival: they are read when needed.
func Watch(ctx context.Context, client kubernetes.Interface, changed func(Ref)) error {
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(strip))
	kinds := map[string]cache.SharedIndexInformer{
		"ConfigMap": factory.Core().V1().ConfigMaps().Informer(),
		"Secret":    factory.Core().V1().Secrets().Informer(),
	}
	for kind, informer := range kinds {
		report := func(object any) {
			if meta, ok := object.(metav1.Object); ok {
				changed(Ref{kind, meta.GetNamespace(), meta.GetName()})
			}
		}
		_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    report,
			UpdateFunc: func(_, object any) { report(object) },
			DeleteFunc: report,
		})
		if err != nil {
			return fmt.Errorf("watching %ss: %w", kind, err)
		}
	}
	factory.Start(ctx.Done())
	return nil
}

func strip(object any) (any, error) {
	switch o := object.(type) {
	case *corev1.ConfigMap:
		o.Data, o.BinaryData, o.ManagedFields, o.Annotations = nil, nil, nil, nil
	case *corev1.Secret:
		o.Data, o.ManagedFields, o.Annotations = nil, nil, nil
	}
	return object, nil
}

// References lists the ConfigMaps and Secrets that a pod's volumes and
// environment name.
func References(pod *corev1.Pod) map[Ref]bool {
	refs := map[Ref]bool{}
	add := func(kind, name string) { refs[Ref{kind, pod.Namespace, name}] = true }
	for i := range pod.Spec.Volumes {
		volumeReferences(&pod.Spec.Volumes[i], add)
	}
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			environmentReferences(&containers[i], add)
		}
	}
	return refs
}

func volumeReferences(v *corev1.Volume, add func(kind, name string)) {
	if v.ConfigMap != nil {
		add("ConfigMap", v.ConfigMap.Name)
	}
	if v.Secret != nil {
		add("Secret", v.Secret.SecretName)
	}
	if v.Projected == nil {
		return
	}
	for _, source := range v.Projected.Sources {
		if source.ConfigMap != nil {
			add("ConfigMap", source.ConfigMap.Name)
		}
		if source.Secret != nil {
			add("Secret", source.Secret.Name)
		}
	}
}

func environmentReferences(c *corev1.Container, add func(kind, name string)) {
	for _, from := range c.EnvFrom {
		if from.ConfigMapRef != nil {
			add("ConfigMap", from.ConfigMapRef.Name)
		}
		if from.SecretRef != nil {
			add("Secret", from.SecretRef.Name)
		}
	}
	for _, env := range c.Env {
		if env.ValueFrom == nil {
			continue
		}
		if ref := env.ValueFrom.ConfigMapKeyRef; ref != nil {
			add("ConfigMap", ref.Name)
		}
		if ref := env.ValueFrom.SecretKeyRef; ref != nil {
			add("Secret", ref.Name)
		}
	}
}
