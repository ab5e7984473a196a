package pods

import "time"

// A kubelet waits 10 s, 20 s … 5 min between restarts and forgets after 10 min.
// Tests want to see the same sequence in less time.
const (
	firstDelay  = time.Second
	longestWait = 10 * time.Second
	goodRun     = 30 * time.Second
)

// Backoff is the wait before a crashed container starts again.
type Backoff struct{ delay time.Duration }

// Next returns the wait after a run of the given length.
func (b *Backoff) Next(ran time.Duration) time.Duration {
	switch {
	case b.delay == 0 || ran >= goodRun:
		b.delay = firstDelay
	default:
		b.delay = min(2*b.delay, longestWait)
	}
	return b.delay
}
