package podenv

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

type objects struct{}

func (objects) ConfigMap(_, name string, optional bool) (*corev1.ConfigMap, error) {
	if name == "cm" {
		return &corev1.ConfigMap{Data: map[string]string{"a": "1", "b": "2"}}, nil
	}
	if optional {
		return nil, nil
	}
	return nil, fmt.Errorf("configmap %q not found", name)
}

func (objects) Secret(_, name string, optional bool) (*corev1.Secret, error) {
	if name == "s" {
		return &corev1.Secret{Data: map[string][]byte{"pw": []byte("x")}}, nil
	}
	if optional {
		return nil, nil
	}
	return nil, fmt.Errorf("secret %q not found", name)
}

func pod(env ...corev1.EnvVar) (Pod, *corev1.Container) {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", Labels: map[string]string{"app": "web"}},
		Spec: corev1.PodSpec{NodeName: "n", ServiceAccountName: "sa", Containers: []corev1.Container{{Name: "c", Env: env,
			Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{"memory": resource.MustParse("64Mi")}}}}}}
	return Pod{Pod: p, IP: "127.1.0.1", HostIP: "127.0.0.1", Allocatable: corev1.ResourceList{"cpu": resource.MustParse("8")}}, &p.Spec.Containers[0]
}

func field(name, path string) corev1.EnvVar {
	return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}}
}

func key(name, object, key string, optional bool) corev1.EnvVar {
	return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{
		LocalObjectReference: corev1.LocalObjectReference{Name: object}, Key: key, Optional: &optional}}}
}

func TestEnvironment(t *testing.T) {
	limits := func(name, what string) corev1.EnvVar {
		return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: what}}}
	}
	p, c := pod(field("POD_IP", "status.podIP"), corev1.EnvVar{Name: "ADDRESS", Value: "$(POD_IP):80"}, corev1.EnvVar{Name: "FROM_BASE", Value: "$(BASE)"},
		corev1.EnvVar{Name: "ESCAPED", Value: "$$(POD_IP)"}, corev1.EnvVar{Name: "UNKNOWN", Value: "$(NOPE)"}, corev1.EnvVar{Name: "LATER", Value: "$(Z)"},
		corev1.EnvVar{Name: "Z", Value: "z"}, field("APP", "metadata.labels['app']"), field("NODE", "spec.nodeName"), field("SA", "spec.serviceAccountName"),
		key("A", "cm", "a", false), key("GONE", "cm", "zz", true), key("GONE2", "none", "zz", true), limits("MEM", "limits.memory"), limits("CPU", "limits.cpu"))
	c.EnvFrom = []corev1.EnvFromSource{{Prefix: "CM_", ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}}},
		{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "s"}}}}
	env, err := Environment(p, c, []corev1.EnvVar{{Name: "BASE", Value: "base"}, {Name: "A", Value: "overridden"}}, objects{})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"BASE": "base", "POD_IP": "127.1.0.1", "ADDRESS": "127.1.0.1:80", "FROM_BASE": "base", "ESCAPED": "$(POD_IP)", "UNKNOWN": "$(NOPE)",
		"LATER": "$(Z)", "Z": "z", "APP": "web", "NODE": "n", "SA": "sa", "A": "1", "CM_a": "1", "CM_b": "2", "pw": "x", "MEM": "67108864", "CPU": "8"}
	if !reflect.DeepEqual(env, want) {
		t.Errorf("got  %v\nwant %v", env, want)
	}
	if got := Expand([]string{"--at=$(ADDRESS)", "$(NOPE)"}, env); got[0] != "--at=127.1.0.1:80" || got[1] != "$(NOPE)" {
		t.Error(got)
	}
}

func TestEnvironmentSaysWhatIsMissing(t *testing.T) {
	for want, variable := range map[string]corev1.EnvVar{
		`configmap "none" not found`:              key("A", "none", "a", false),
		"couldn't find key zz in ConfigMap ns/cm": key("A", "cm", "zz", false),
	} {
		p, c := pod(variable)
		if _, err := Environment(p, c, nil, objects{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, not %s", err, want)
		}
	}
}
