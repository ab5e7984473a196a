package volumes

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/volume/util"

	"flowbinding.io/testbed/controlplane/internal/podenv"
)

type payload map[string]util.FileProjection

const defaultMode int32 = 0o644

func modeOf(mode, fallback *int32) int32 {
	if mode != nil {
		return *mode
	}
	if fallback != nil {
		return *fallback
	}
	return defaultMode
}

// project picks the items of an object's data, all of it if there are none.
func project(into payload, data map[string][]byte, items []corev1.KeyToPath, mode *int32, optional bool, kind string) error {
	if len(items) == 0 {
		for key, value := range data {
			into[key] = util.FileProjection{Data: value, Mode: modeOf(nil, mode)}
		}
		return nil
	}
	for _, item := range items {
		value, ok := data[item.Key]
		if !ok {
			if optional {
				continue
			}
			return fmt.Errorf("references non-existent %s key: %s", kind, item.Key)
		}
		into[item.Path] = util.FileProjection{Data: value, Mode: modeOf(item.Mode, mode)}
	}
	return nil
}

func isTrue(b *bool) bool { return b != nil && *b }

func (v *Volumes) configMap(into payload, name string, items []corev1.KeyToPath, mode *int32, optional *bool) error {
	object, err := v.source.ConfigMap(v.pod.Namespace, name, isTrue(optional))
	if err != nil || object == nil {
		return err
	}
	data := make(map[string][]byte, len(object.Data)+len(object.BinaryData))
	for key, value := range object.Data {
		data[key] = []byte(value)
	}
	for key, value := range object.BinaryData {
		data[key] = value
	}
	return project(into, data, items, mode, isTrue(optional), "config")
}

func (v *Volumes) secret(into payload, name string, items []corev1.KeyToPath, mode *int32, optional *bool) error {
	object, err := v.source.Secret(v.pod.Namespace, name, isTrue(optional))
	if err != nil || object == nil {
		return err
	}
	return project(into, object.Data, items, mode, isTrue(optional), "secret")
}

func (v *Volumes) downward(into payload, items []corev1.DownwardAPIVolumeFile, mode *int32) error {
	for _, item := range items {
		var value string
		var err error
		switch {
		case item.FieldRef != nil:
			value, err = podenv.Field(v.pod, item.FieldRef.FieldPath)
		case item.ResourceFieldRef != nil:
			value, err = podenv.Resource(v.pod, item.ResourceFieldRef, item.ResourceFieldRef.ContainerName)
		}
		if err != nil {
			return err
		}
		into[item.Path] = util.FileProjection{Data: []byte(value), Mode: modeOf(item.Mode, mode)}
	}
	return nil
}

func (v *Volumes) projected(into payload, source *corev1.ProjectedVolumeSource) error {
	for i := range source.Sources {
		var err error
		switch s := &source.Sources[i]; {
		case s.ConfigMap != nil:
			err = v.configMap(into, s.ConfigMap.Name, s.ConfigMap.Items, source.DefaultMode, s.ConfigMap.Optional)
		case s.Secret != nil:
			err = v.secret(into, s.Secret.Name, s.Secret.Items, source.DefaultMode, s.Secret.Optional)
		case s.DownwardAPI != nil:
			err = v.downward(into, s.DownwardAPI.Items, source.DefaultMode)
		case s.ServiceAccountToken != nil:
			err = v.token(into, s.ServiceAccountToken, source.DefaultMode)
		default:
			err = fmt.Errorf("a projected source that this node does not know")
		}
		if err != nil {
			return err
		}
	}
	return nil
}
