package balance

import "testing"

func endpoints(n int) []*Endpoint[int] {
	var all []*Endpoint[int]
	for i := range n {
		all = append(all, NewEndpoint(i, 1))
	}
	return all
}

func TestPickSpreadsByLoad(t *testing.T) {
	all := endpoints(4)
	p := NewPicker(Config{}, all, nil)
	for range 4000 {
		p.Pick(0, nil).Begin(0) // none ends: the loads must stay level
	}
	for _, e := range all {
		if e.Load() < 990 || e.Load() > 1010 {
			t.Errorf("endpoint %d holds %d of 4000 requests, want about 1000", e.Value, e.Load())
		}
	}
}

func TestPickPrefersOpenEndpoints(t *testing.T) {
	all := endpoints(3)
	p := NewPicker(Config{}, all, nil)
	all[0].CloseUntil(1000)
	for range 200 {
		if p.Pick(0, nil) == all[0] {
			t.Fatal("picked a closed endpoint while there were others")
		}
	}
	all[1].CloseUntil(1000)
	all[2].CloseUntil(1000)
	if p.Pick(0, nil) == nil {
		t.Fatal("picked nothing although only closed endpoints are left")
	}
	seen := map[*Endpoint[int]]bool{}
	for range 200 {
		seen[p.Pick(1000, nil)] = true
	}
	if len(seen) != 3 {
		t.Fatalf("picked %d endpoints once all were open again, want 3", len(seen))
	}
}

func TestPickTried(t *testing.T) {
	all := endpoints(3)
	p := NewPicker(Config{}, all, nil)
	var tried []*Endpoint[int]
	for range 3 {
		e := p.Pick(0, tried)
		for _, old := range tried {
			if e == old {
				t.Fatal("picked an endpoint twice")
			}
		}
		tried = append(tried, e)
	}
	if p.Pick(0, tried) != nil {
		t.Fatal("picked an endpoint although all were tried")
	}
	if NewPicker[int](Config{}, nil, nil).Pick(0, nil) != nil {
		t.Fatal("picked from an empty set")
	}
}

func TestPickAllocatesNothing(t *testing.T) {
	p := NewPicker(Config{}, endpoints(10), nil)
	if n := testing.AllocsPerRun(1000, func() { p.Pick(0, nil) }); n != 0 {
		t.Fatalf("Pick allocates %v times", n)
	}
}
