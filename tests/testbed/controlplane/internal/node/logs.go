package node

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/mux"
	"k8s.io/apimachinery/pkg/types"

	"flowbinding.io/testbed/controlplane/internal/logs"
)

// serveLogs takes the place of virtual-kubelet's own handler, for which
// `--tail=0` means everything.
func (a *api) serveLogs(w http.ResponseWriter, r *http.Request) {
	vars := mux.Vars(r)
	options, previous, err := logOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	pod, err := a.pod(vars["namespace"], vars["pod"])
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	run, ok := a.newestRun(pod.UID, vars["container"])
	if previous {
		run--
	}
	if !ok || run < 0 {
		which := ""
		if previous {
			which = "previous terminated "
		}
		http.Error(w, fmt.Sprintf("%scontainer %q in pod %q not found", which, vars["container"], pod.Name), http.StatusBadRequest)
		return
	}
	done := a.ended(pod.UID, vars["container"])
	if previous {
		done = closed
	}
	out := &flushing{w: w}
	if err := logs.Copy(r.Context(), a.host.LogPath(pod.UID, vars["container"], run), options, done, out); err != nil && !out.wrote {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

var closed = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

func (a *api) ended(uid types.UID, container string) <-chan struct{} {
	if worker, ok := a.manager.Worker(uid); ok {
		if access, ok := worker.Access(container); ok {
			return access.Done
		}
	}
	return closed
}

// newestRun finds the log of the latest start, which also works for pods from an
// earlier life of the node.
func (a *api) newestRun(uid types.UID, container string) (int32, bool) {
	entries, err := os.ReadDir(filepath.Dir(a.host.LogPath(uid, container, 0)))
	if err != nil {
		return 0, false
	}
	newest, found := int32(0), false
	for _, entry := range entries {
		if n, err := strconv.ParseInt(strings.TrimSuffix(entry.Name(), ".log"), 10, 32); err == nil {
			newest, found = max(newest, int32(n)), true
		}
	}
	return newest, found
}

func logOptions(r *http.Request) (options logs.Options, previous bool, err error) {
	query := r.URL.Query()
	options.Follow, previous = query.Get("follow") == "true", query.Get("previous") == "true"
	options.Timestamps = query.Get("timestamps") == "true"
	if text := query.Get("tailLines"); text != "" {
		lines, err := strconv.Atoi(text)
		if err != nil {
			return options, previous, fmt.Errorf("tailLines: %w", err)
		}
		options.Tail = &lines
	}
	if text := query.Get("limitBytes"); text != "" {
		if options.Limit, err = strconv.ParseInt(text, 10, 64); err != nil {
			return options, previous, fmt.Errorf("limitBytes: %w", err)
		}
	}
	if text := query.Get("sinceSeconds"); text != "" {
		seconds, err := strconv.Atoi(text)
		if err != nil {
			return options, previous, fmt.Errorf("sinceSeconds: %w", err)
		}
		options.Since = time.Now().Add(-time.Duration(seconds) * time.Second)
	}
	if text := query.Get("sinceTime"); text != "" {
		if options.Since, err = time.Parse(time.RFC3339, text); err != nil {
			return options, previous, fmt.Errorf("sinceTime: %w", err)
		}
	}
	return options, previous, nil
}

// flushing sends each line as it comes.
type flushing struct {
	w     io.Writer
	wrote bool
}

func (f *flushing) Write(p []byte) (int, error) {
	f.wrote = true
	n, err := f.w.Write(p)
	if flusher, ok := f.w.(http.Flusher); ok {
		flusher.Flush()
	}
	return n, err
}
