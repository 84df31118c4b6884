package balance

import (
	"testing"
	"testing/synctest"
	"time"
)

func endpoints(n int) []*Endpoint[int] {
	var all []*Endpoint[int]
	for i := range n {
		all = append(all, NewEndpoint(i))
	}
	return all
}

func TestPickSpreadsByLoad(t *testing.T) {
	all := endpoints(4)
	p := NewPicker(all)
	for range 4000 {
		p.Pick(nil).Begin() // none ends: the loads must stay level
	}
	for _, e := range all {
		if e.Load() < 990 || e.Load() > 1010 {
			t.Errorf("endpoint %d holds %d of 4000 requests, want about 1000", e.Value, e.Load())
		}
	}
}

func TestPickAvoids(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := endpoints(3)
		p := NewPicker(all)
		all[0].Avoid(time.Second)
		for range 200 {
			if p.Pick(nil) == all[0] {
				t.Fatal("picked an avoided endpoint while there were others")
			}
		}
		all[1].Avoid(time.Second)
		all[2].Avoid(time.Second)
		if p.Pick(nil) == nil {
			t.Fatal("picked nothing although only avoided endpoints are left")
		}
		time.Sleep(time.Second) // virtual
		seen := map[*Endpoint[int]]bool{}
		for range 200 {
			seen[p.Pick(nil)] = true
		}
		if len(seen) != 3 {
			t.Fatalf("picked %d endpoints after the avoidance ended, want 3", len(seen))
		}
	})
}

func TestPickTried(t *testing.T) {
	all := endpoints(3)
	p := NewPicker(all)
	var tried []*Endpoint[int]
	for range 3 {
		e := p.Pick(tried)
		for _, old := range tried {
			if e == old {
				t.Fatal("picked an endpoint twice")
			}
		}
		tried = append(tried, e)
	}
	if p.Pick(tried) != nil {
		t.Fatal("picked an endpoint although all were tried")
	}
	if NewPicker[int](nil).Pick(nil) != nil {
		t.Fatal("picked from an empty set")
	}
}

func TestPickAllocatesNothing(t *testing.T) {
	p := NewPicker(endpoints(10))
	if n := testing.AllocsPerRun(1000, func() { p.Pick(nil) }); n != 0 {
		t.Fatalf("Pick allocates %v times", n)
	}
}
