package logs

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"time"
)

// Options are what `kubectl logs` can ask for.
type Options struct {
	Follow     bool
	Timestamps bool
	Tail       *int
	Since      time.Time
	Limit      int64
}

const followInterval = 100 * time.Millisecond

// Copy writes the log at path to out. When following, it goes on until done is
// closed and all is written, or until ctx ends.
func Copy(ctx context.Context, path string, options Options, done <-chan struct{}, out io.Writer) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	if options.Tail != nil {
		if err := seekTail(file, *options.Tail); err != nil {
			return err
		}
	}
	if options.Limit > 0 {
		out = &limited{to: out, left: options.Limit}
	}
	err = copyLines(ctx, file, options, done, out)
	if errors.Is(err, errLimit) {
		return nil
	}
	return err
}

func copyLines(ctx context.Context, file io.Reader, options Options, done <-chan struct{}, out io.Writer) error {
	reader, pending, last := bufio.NewReader(file), []byte(nil), !options.Follow
	for {
		line, err := reader.ReadBytes('\n')
		pending = append(pending, line...)
		if err == nil {
			if err := emit(out, pending, options); err != nil {
				return err
			}
			pending = pending[:0]
			continue
		}
		if err != io.EOF || last {
			return errOrNil(err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-done:
			last = true // one more round: what was written before the end
		case <-time.After(followInterval):
		}
	}
}

func errOrNil(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}

// emit turns a stored line into what the user sees.
func emit(out io.Writer, line []byte, options Options) error {
	parts := bytes.SplitN(line, []byte{' '}, 4)
	if len(parts) < 4 {
		return nil // cut short by a crash of the node
	}
	if !options.Since.IsZero() {
		if at, err := time.Parse(time.RFC3339Nano, string(parts[0])); err == nil && at.Before(options.Since) {
			return nil
		}
	}
	text := parts[3]
	if string(parts[2]) == "P" {
		text = bytes.TrimSuffix(text, []byte{'\n'})
	}
	if options.Timestamps {
		text = append(append(append([]byte(nil), parts[0]...), ' '), text...)
	}
	_, err := out.Write(text)
	return err
}

// seekTail moves to where the last n lines begin.
func seekTail(file *os.File, n int) error {
	end, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	const block = 32 << 10
	buffer, newlines := make([]byte, block), 0
	for at := end; at > 0; {
		size := min(int64(block), at)
		at -= size
		if _, err := file.ReadAt(buffer[:size], at); err != nil && err != io.EOF {
			return err
		}
		for i := size - 1; i >= 0; i-- {
			if buffer[i] != '\n' {
				continue
			}
			if newlines++; newlines > n {
				_, err := file.Seek(at+i+1, io.SeekStart)
				return err
			}
		}
	}
	_, err = file.Seek(0, io.SeekStart)
	return err
}

var errLimit = errors.New("limit reached")

type limited struct {
	to   io.Writer
	left int64
}

func (l *limited) Write(p []byte) (int, error) {
	n, err := l.to.Write(p[:min(int64(len(p)), l.left)])
	l.left -= int64(n)
	if err == nil && l.left == 0 {
		err = errLimit
	}
	return n, err
}
