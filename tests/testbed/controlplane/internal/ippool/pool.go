// Package ippool hands out pod addresses.
package ippool

import (
	"fmt"
	"net/netip"
	"sync"
)

// Pool gives each pod an unused address of a network. An address that was given
// back is used again only after all others had their turn, so that a late packet
// or a client's stale endpoint does not reach the wrong pod.
type Pool struct {
	mu     sync.Mutex
	prefix netip.Prefix
	last   netip.Addr
	used   map[netip.Addr]bool
}

// New returns a pool for a CIDR.
func New(cidr string) (*Pool, error) {
	prefix, err := netip.ParsePrefix(cidr)
	if err != nil {
		return nil, fmt.Errorf("pod network: %w", err)
	}
	if !prefix.Addr().Is4() || prefix.Bits() > 30 {
		return nil, fmt.Errorf("pod network %s: an IPv4 network of at least 4 addresses is needed", cidr)
	}
	prefix = prefix.Masked()
	return &Pool{prefix: prefix, last: prefix.Addr(), used: map[netip.Addr]bool{}}, nil
}

// Take returns a free address.
func (p *Pool) Take() (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for tries := 1 << (32 - p.prefix.Bits()); tries > 0; tries-- {
		p.last = p.last.Next()
		if !p.prefix.Contains(p.last) {
			p.last = p.prefix.Addr() // skips the network's own address
			continue
		}
		if !p.used[p.last] && p.prefix.Contains(p.last.Next()) { // the last one is for broadcast
			p.used[p.last] = true
			return p.last.String(), nil
		}
	}
	return "", fmt.Errorf("no address left in %s", p.prefix)
}

// Reserve takes a certain address, if it is of this network and free.
func (p *Pool) Reserve(address string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	a, err := netip.ParseAddr(address)
	if err != nil || !p.prefix.Contains(a) || p.used[a] {
		return false
	}
	p.used[a] = true
	return true
}

// Release gives an address back.
func (p *Pool) Release(address string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if a, err := netip.ParseAddr(address); err == nil {
		delete(p.used, a)
	}
}
