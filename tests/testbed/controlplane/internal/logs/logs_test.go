package logs

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"
)

func written(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c", "0.log")
	w, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	out := w.Stream("stdout")
	for _, b := range []byte(text) { // in the smallest pieces
		if _, err := out.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func read(t *testing.T, path string, options Options) string {
	t.Helper()
	var out bytes.Buffer
	if err := Copy(context.Background(), path, options, nil, &out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestCopy(t *testing.T) {
	path := written(t, "one\ntwo words\n\nrest")
	lines := func(n int) *int { return &n }
	for name, c := range map[string]struct {
		options Options
		want    string
	}{
		"all":    {Options{}, "one\ntwo words\n\nrest"},
		"tail":   {Options{Tail: lines(2)}, "\nrest"},
		"tail 0": {Options{Tail: lines(0)}, ""},
		"long":   {Options{Tail: lines(99)}, "one\ntwo words\n\nrest"},
		"limit":  {Options{Limit: 6}, "one\ntw"},
		"since":  {Options{Since: time.Now().Add(time.Hour)}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := read(t, path, c.options); got != c.want {
				t.Errorf("%q", got)
			}
		})
	}
	if got := read(t, path, Options{Timestamps: true, Tail: lines(1)}); len(got) < 25 || got[len(got)-5:] != " rest" {
		t.Errorf("%q", got)
	}
}

func TestTailOfMoreThanABlock(t *testing.T) {
	text := ""
	for i := range 3000 {
		text += fmt.Sprintf("line %d\n", i)
	}
	n := 2
	if got := read(t, written(t, text), Options{Tail: &n}); got != "line 2998\nline 2999\n" {
		t.Errorf("%q", got)
	}
}

func TestFollowEndsWithTheContainer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	w, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		time.Sleep(50 * time.Millisecond)
		fmt.Fprintln(w.Stream("stderr"), "last words")
		w.Close()
		close(done)
	}()
	var out bytes.Buffer
	if err := Copy(context.Background(), path, Options{Follow: true}, done, &out); err != nil || out.String() != "last words\n" {
		t.Errorf("%q %v", out.String(), err)
	}
}
