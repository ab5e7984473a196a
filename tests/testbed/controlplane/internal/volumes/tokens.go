package volumes

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/volume/util"
)

type token struct {
	value   string
	refresh time.Time
}

// refreshAt is when the kubelet asks for a new token: after 80 % of its life,
// and once a day at the latest.
func refreshAt(issued, expires time.Time) time.Time {
	return issued.Add(min(expires.Sub(issued)*8/10, 24*time.Hour))
}

func (v *Volumes) token(into payload, source *corev1.ServiceAccountTokenProjection, mode *int32) error {
	now := time.Now()
	held, ok := v.tokens[source.Path+"\x00"+source.Audience]
	if !ok || now.After(held.refresh) {
		answer, err := v.source.Token(v.pod.Pod, source)
		if err != nil {
			return err
		}
		held = token{answer.Token, refreshAt(now, answer.ExpirationTimestamp.Time)}
		v.tokens[source.Path+"\x00"+source.Audience] = held
	}
	if v.next.IsZero() || held.refresh.Before(v.next) {
		v.next = held.refresh
	}
	into[source.Path] = util.FileProjection{Data: []byte(held.value), Mode: modeOf(nil, mode)}
	return nil
}
