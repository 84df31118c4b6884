package registry_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/registry"
)

func TestLedger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now().UTC()
		var l registry.Ledger
		values := map[string]*watch.Value[naming.Replicas]{
			"/#/a/b": watch.New(naming.Replicas{}), "/$/inet/site.test/80": watch.New(naming.Of(naming.Endpoint{Address: "10.0.0.1:80", Weight: 1})),
		}
		released := 0
		follow := func(id string) (*watch.Value[naming.Replicas], func()) { return values[id], func() { released++ } }
		value, first := l.Follow("/#/a/b", follow)
		if value != values["/#/a/b"] {
			t.Error("it follows something else")
		}
		_, second := l.Follow("/#/a/b", follow)
		_, site := l.Follow("/$/inet/site.test/80", follow)
		all := l.Followed()
		if len(all) != 2 || all[0].ID != "/#/a/b" || !all[0].Updated.IsZero() || all[0].State != naming.StatePending ||
			!all[1].Updated.Equal(begin) || len(all[1].Endpoints) != 1 {
			t.Errorf("it says %+v", all)
		}
		time.Sleep(time.Minute)
		value.Set(naming.Replicas{State: naming.StateNeg})
		if all = l.Followed(); !all[0].Updated.Equal(begin.Add(time.Minute)) || all[0].State != naming.StateNeg || !all[1].Updated.Equal(begin) {
			t.Errorf("after a change it says %+v", all)
		}
		first()
		first()
		if all = l.Followed(); len(all) != 2 || released != 1 {
			t.Errorf("while one of two goes on it says %+v, %d released", all, released)
		}
		second()
		site()
		if all = l.Followed(); len(all) != 0 || released != 3 {
			t.Errorf("at the end it says %+v, %d released", all, released)
		}
	})
}

func TestLedgerOfARegistry(t *testing.T) {
	var l registry.Ledger
	r, err := registry.New(registry.Config{Namers: registry.Default(), Source: newSource(), Ledger: &l})
	if err != nil {
		t.Fatal(err)
	}
	_, release := r.Replicas("/#/nobody/x")
	if all := l.Followed(); len(all) != 1 || all[0].ID != "/#/nobody/x" || all[0].State != naming.StateNeg {
		t.Errorf("it says %+v", all)
	}
	release()
	if all := l.Followed(); len(all) != 0 {
		t.Errorf("after release it says %+v", all)
	}
	if all := (*registry.Ledger)(nil).Followed(); all != nil {
		t.Errorf("without a ledger: %+v", all)
	}
}

func TestUnder(t *testing.T) {
	for _, c := range []struct {
		id, prefix string
		want       bool
	}{
		{"/#/io.l5d.k8s/shop/http/cart", "io.l5d.k8s", true},
		{"/#/io.l5d.k8s/shop/http/cart", "#/io.l5d.k8s", true},
		{"/#/io.l5d.k8s/shop/http/cart", "io.l5d", false},
		{"/#/io.l5d.k8s.external/shop/http/cart", "io.l5d.k8s", false},
		{"/%/io.l5d.port/4141/#/edge/shop/http/cart", "edge", true},
		{"/%/io.l5d.port/4141/#/edge/shop/http/cart", "%/io.l5d.port", true},
		{"/$/inet/site.test/80", "$/inet", true},
		{"/$/inet/site.test/80", "inet", false},
		{"/#/two/words/x", "/two/words", true},
	} {
		if got := registry.Under(c.id, c.prefix); got != c.want {
			t.Errorf("%s under %s: %t", c.id, c.prefix, got)
		}
	}
}
