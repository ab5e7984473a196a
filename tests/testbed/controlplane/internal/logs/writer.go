// Package logs keeps containers' output in files of the kubelet's own format
// (CRI: time, stream, full or partial, text) and reads them back for
// `kubectl logs`. Files are never rotated.
package logs

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// maxLine is where a line without an end is cut, as container runtimes do.
const maxLine = 16 << 10

// Writer takes the two streams of one run of a container.
type Writer struct {
	mu      sync.Mutex
	file    *os.File
	streams []*stream
}

// Create makes the file (and its directory).
func Create(path string) (*Writer, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
	if err != nil {
		return nil, err
	}
	return &Writer{file: file}, nil
}

// Stream is an io.Writer for "stdout" or "stderr".
func (w *Writer) Stream(name string) io.Writer {
	s := &stream{name: name, to: w}
	w.streams = append(w.streams, s)
	return s
}

// Close writes what was left without a line end.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.streams {
		if len(s.rest) > 0 {
			w.line(s.name, "P", s.rest)
		}
	}
	return w.file.Close()
}

func (w *Writer) line(stream, tag string, text []byte) {
	// A full disk must not stop a pod: a lost log line is the lesser harm.
	_, _ = fmt.Fprintf(w.file, "%s %s %s %s\n", time.Now().UTC().Format(time.RFC3339Nano), stream, tag, text)
}

type stream struct {
	name string
	to   *Writer
	rest []byte
}

func (s *stream) Write(p []byte) (int, error) {
	s.to.mu.Lock()
	defer s.to.mu.Unlock()
	s.rest = append(s.rest, p...)
	for {
		if end := bytes.IndexByte(s.rest, '\n'); end >= 0 {
			s.to.line(s.name, "F", s.rest[:end])
			s.rest = s.rest[end+1:]
		} else if len(s.rest) >= maxLine {
			s.to.line(s.name, "P", s.rest)
			s.rest = nil
		} else {
			return len(p), nil
		}
	}
}
