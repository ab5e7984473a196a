package pods

import (
	"sync"
	"time"

	"flowbinding.io/testbed/controlplane/internal/proc"
)

// pretended is a container that only exists in the API: for tests of thousands
// of pods, in which nothing has to run.
type pretended struct {
	once sync.Once
	done chan struct{}
	exit proc.Exit
}

func newPretended() *pretended { return &pretended{done: make(chan struct{})} }

func (p *pretended) Done() <-chan struct{} { return p.done }
func (p *pretended) Exit() proc.Exit       { return p.exit }
func (p *pretended) Kill()                 { p.Terminate() }

func (p *pretended) Terminate() {
	p.once.Do(func() {
		p.exit = proc.Exit{At: time.Now()}
		close(p.done)
	})
}
