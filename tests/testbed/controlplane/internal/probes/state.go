// Package probes runs startup, readiness and liveness probes.
package probes

import "time"

// State counts a probe's results against its thresholds.
type State struct {
	Success, Failure int // thresholds
	good, bad        int
	// Healthy is the verdict so far.
	Healthy bool
}

// Observe takes a result and says whether it makes a verdict: a threshold that
// was just reached or is still exceeded.
func (s *State) Observe(ok bool) (verdict bool) {
	if ok {
		s.good, s.bad = s.good+1, 0
		if s.good >= max(s.Success, 1) {
			s.Healthy = true
			return true
		}
		return false
	}
	s.good, s.bad = 0, s.bad+1
	if s.bad >= max(s.Failure, 1) {
		s.Healthy = false
		return true
	}
	return false
}

// Schedule decides when a probe runs next.
//
// Between the probe's own ticks, one that has not succeeded yet is tried in
// quicker steps whose failures do not count. A real kubelet does not do that; it
// saves a test the wait for the rest of a ten-second period after a start that
// took one second, and changes nothing else.
type Schedule struct {
	Period time.Duration
	Eager  bool
	tick   time.Time     // when the next counted attempt is due
	step   time.Duration // of the uncounted ones
}

const firstStep = 200 * time.Millisecond

// Next is called after an attempt at `now`; it returns the time of the next one
// and whether that one's failure counts.
func (s *Schedule) Next(now time.Time, succeededYet bool) (time.Time, bool) {
	if s.tick.IsZero() || !now.Before(s.tick) {
		s.tick = now.Add(s.Period)
	}
	if s.Eager && !succeededYet {
		s.step = max(firstStep, s.step*5/4)
		if early := now.Add(s.step); early.Before(s.tick) {
			return early, false
		}
	}
	return s.tick, true
}
