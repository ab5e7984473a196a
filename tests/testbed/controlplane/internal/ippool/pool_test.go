package ippool

import "testing"

func TestPool(t *testing.T) {
	pool, err := New("127.5.5.0/29") // 6 usable
	if err != nil {
		t.Fatal(err)
	}
	if !pool.Reserve("127.5.5.2") || pool.Reserve("127.5.5.2") || pool.Reserve("127.9.9.9") || pool.Reserve("") {
		t.Error("reservations")
	}
	seen := map[string]bool{"127.5.5.2": true}
	for range 5 {
		address, err := pool.Take()
		if err != nil || seen[address] || address == "127.5.5.0" || address == "127.5.5.7" {
			t.Fatal(address, err)
		}
		seen[address] = true
	}
	if address, err := pool.Take(); err == nil {
		t.Error("an address too many: " + address)
	}
	pool.Release("127.5.5.3")
	if address, err := pool.Take(); err != nil || address != "127.5.5.3" {
		t.Error(address, err)
	}
}

func TestReuseComesLast(t *testing.T) {
	pool, _ := New("127.5.0.0/16")
	first, _ := pool.Take()
	pool.Release(first)
	if second, _ := pool.Take(); second == first {
		t.Error("used again at once")
	}
}
