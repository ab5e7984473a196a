// Package images maps container images to programs of this machine.
package images

import (
	"fmt"
	"sort"
	"strings"
)

// Image is what stands for a container image.
type Image struct {
	BinDir     string   // first on the container's PATH
	Entrypoint []string // for containers without a command
}

// Set is all images that "exist" on the node, by repository. The zero value
// knows none.
type Set struct {
	known map[string]Image
}

// Parse reads NAME=BINDIR and NAME=COMMAND options.
func Parse(dirs, entrypoints []string) (Set, error) {
	set := Set{known: map[string]Image{}}
	for _, option := range dirs {
		name, dir, ok := strings.Cut(option, "=")
		if !ok || name == "" || !strings.HasPrefix(dir, "/") {
			return set, fmt.Errorf("--image %q: NAME=/ABSOLUTE/BINDIR is wanted", option)
		}
		set.known[Repository(name)] = Image{BinDir: dir}
	}
	for _, option := range entrypoints {
		name, command, _ := strings.Cut(option, "=")
		image, ok := set.known[Repository(name)]
		if !ok || command == "" {
			return set, fmt.Errorf("--entrypoint %q: NAME=COMMAND is wanted, NAME being one of --image", option)
		}
		image.Entrypoint = strings.Fields(command)
		set.known[Repository(name)] = image
	}
	return set, nil
}

// Find returns the image for a reference with any tag or digest.
func (s Set) Find(reference string) (Image, bool) {
	image, ok := s.known[Repository(reference)]
	return image, ok
}

// Names lists what Find knows.
func (s Set) Names() string {
	names := make([]string, 0, len(s.known))
	for name := range s.known {
		names = append(names, name)
	}
	sort.Strings(names)
	return strings.Join(names, ", ")
}

// Repository is a reference without tag and digest. A colon before the last
// slash belongs to a registry's port.
func Repository(reference string) string {
	repository, _, _ := strings.Cut(reference, "@")
	if colon := strings.LastIndexByte(repository, ':'); colon > strings.LastIndexByte(repository, '/') {
		repository = repository[:colon]
	}
	return repository
}
