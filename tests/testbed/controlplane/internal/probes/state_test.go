package probes

import (
	"testing"
	"time"
)

func TestState(t *testing.T) {
	type step struct{ ok, verdict, healthy bool }
	for name, c := range map[string]struct {
		state State
		steps []step
	}{
		"thresholds of one":       {State{Success: 1, Failure: 1}, []step{{true, true, true}, {false, true, false}, {true, true, true}}},
		"failures in a row":       {State{Success: 1, Failure: 2}, []step{{true, true, true}, {false, false, true}, {true, true, true}, {false, false, true}, {false, true, false}, {false, true, false}}},
		"successes in a row":      {State{Success: 2, Failure: 1}, []step{{true, false, false}, {false, true, false}, {true, false, false}, {true, true, true}}},
		"unset counts as one":     {State{}, []step{{true, true, true}, {false, true, false}}},
		"unhealthy to begin with": {State{Success: 1, Failure: 3}, []step{{false, false, false}}},
	} {
		t.Run(name, func(t *testing.T) {
			for i, s := range c.steps {
				if verdict := c.state.Observe(s.ok); verdict != s.verdict || c.state.Healthy != s.healthy {
					t.Fatalf("step %d: verdict %v, healthy %v", i, verdict, c.state.Healthy)
				}
			}
		})
	}
}

func TestScheduleCountsOnlyItsTicks(t *testing.T) {
	start := time.Now()
	s, counted, uncounted := Schedule{Period: 10 * time.Second, Eager: true}, 0, 0
	for at, counts := start, true; at.Before(start.Add(25 * time.Second)); {
		if counts {
			counted++
		} else {
			uncounted++
		}
		at, counts = s.Next(at, false)
	}
	if counted != 3 || uncounted < 10 {
		t.Errorf("%d counted, %d uncounted attempts", counted, uncounted)
	}
}

func TestScheduleIsPlainAfterSuccess(t *testing.T) {
	now := time.Now()
	s := Schedule{Period: 5 * time.Second, Eager: true}
	if next, counts := s.Next(now, true); !counts || next.Sub(now) != 5*time.Second {
		t.Error(next.Sub(now), counts)
	}
	s = Schedule{Period: 5 * time.Second}
	if next, counts := s.Next(now, false); !counts || next.Sub(now) != 5*time.Second {
		t.Error(next.Sub(now), counts)
	}
}
