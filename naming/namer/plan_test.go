package namer_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/naming/namer"
	"github.com/tulle-mesh/tulle/naming/namer/api"
)

// plannedName is what a plan says of a name.
type plannedName struct {
	Path, Caller, Dtab, Reason string
	Before, After              []struct {
		ID    string
		Share float64
	}
	Lost, Changed bool
	Unknown       []string
}

type planned struct {
	Version string
	Names   []plannedName
	Omitted int
}

// planOf asks what rules would change for shop.
func planOf(t *testing.T, h http.Handler, query, rules string) (p planned) {
	t.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequest("POST", "/api/1/plan/shop"+query, strings.NewReader(rules))
	r.Header.Set("Content-Type", asDtab)
	h.ServeHTTP(w, r)
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code != 200 {
		t.Fatalf("%d %s: %v", w.Code, w.Body, err)
	}
	return p
}

func TestPlan(t *testing.T) {
	h, src, _, seen := newNames(t, "/k=>/#/io.l5d.k8s/shop/http;/svc=>/k;/svc/here=>/caller/cart")
	src.name("/#/io.l5d.k8s/mine/80/cart").Set(at("10.0.0.3:80"))
	synctest.Test(t, func(t *testing.T) {
		src := newSource()
		n := &network{}
		defer n.serve(namer.NewStream(namer.StreamConfig{Store: memory(t, nil), Source: src, Seen: seen, Logger: quiet}))()
		hello := sidecar
		hello.DtabNamespace = "shop"
		var use atomic.Pointer[[]api.Name]
		use.Store(&[]api.Name{{Namespace: "mine", Path: "/svc/here"}, {Namespace: "mine", Path: "/svc/cart-v1"}, {Path: strings.Repeat("x", 3000)}})
		c, stop := n.start(t, hello, func() []api.Name { return *use.Load() })
		defer stop()
		<-c.Synced()
		synctest.Wait()
		show := func(n plannedName) string {
			return fmt.Sprint(n.Caller, " ", n.Path, " ", n.Before, " ", n.After, " ", n.Lost, " ", n.Changed, " ", n.Reason)
		}
		p := planOf(t, h, "", "/k=>/#/io.l5d.k8s/shop/http;/svc/cart-v1=>/k/cart-v1 & 9*/k/cart-v2")
		if p.Version != "AAAAAAAAAAE=" || len(p.Names) != 2 {
			t.Fatalf("got %+v", p)
		}
		for i, want := range []string{
			"mine /svc/cart-v1 [{" + cart1 + " 1}] [{" + cart1 + " 0.1} {" + cart2 + " 0.9}] false true ",
			"mine /svc/here [{/#/io.l5d.k8s/mine/80/cart 1}] [] true true no rule and no namer answers it",
		} {
			if got := show(p.Names[i]); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		}
		use.Store(&[]api.Name{})
		time.Sleep(api.Heartbeat + time.Second) // virtual
		synctest.Wait()
		if names := seen.Names("shop"); len(names) != 0 {
			t.Fatalf("still in use: %v", names)
		}
		for _, c := range []struct{ rules, want string }{
			{"/svc=>/k;/k=>/#/io.l5d.k8s/shop/http", " /svc/cart-v1 [{" + cart1 + " 1}] [{" + cart1 + " 1}] false false "},
			{"/svc=>!", " /svc/cart-v1 [{" + cart1 + " 1}] [] true true a rule says it fails: !"},
			{"/svc=>" + cart1 + " & $ | ~", " /svc/cart-v1 [{" + cart1 + " 1}] [{" + cart1 + " 0.5}] true true a branch of a union has no endpoints: $"},
			{"/svc=>/svc", " /svc/cart-v1 [{" + cart1 + " 1}] [] true true Max recursion level: 100 reached in Namer lookup"},
		} {
			p := planOf(t, h, query("path", "/svc/cart-v1"), c.rules)
			if len(p.Names) != 1 {
				t.Fatalf("%s: %+v", c.rules, p)
			}
			if got := show(p.Names[0]); !strings.HasPrefix(got, c.want) {
				t.Errorf("%s:\n got %s\nwant %s", c.rules, got, c.want)
			}
		}
	})
	for _, c := range []struct{ method, uri, body, want string }{
		{"POST", "plan/shop", "/a", "400 '=>' expected but end of input found at '/a[]'"},
		{"POST", "plan/shop?path=x", "", "400 Invalid path: '/' expected but 'x' found at '[x]'"},
		{"GET", "plan/shop", "", "404"},
		{"POST", "plan", "", "404"},
		{"POST", "plan/new", "/a=>/b", `200 {"version":"","names":[]}`},
	} {
		if got, _ := call(h, c.method, "/api/1/"+c.uri, c.body, "Content-Type", asDtab); got != c.want {
			t.Errorf("%s %s: %s, want %s", c.method, c.uri, got, c.want)
		}
	}
}

// What rules of its own a proxy asks by is part of what its name means.
func TestPlanKnowsRulesOfProxies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _, _, seen := newNames(t, "/k=>/#/io.l5d.k8s/shop/http;/svc=>/host")
		for _, uri := range []string{
			"bind/shop" + query("path", "/svc/x", "watch", "true"),
			"bind/shop" + query("path", "/svc/x", "watch", "true", "dtab", "/host/x=>/k/cart-v1"),
			"bind/shop" + query("path", "/svc/x", "watch", "true", "dtab", "/host/x => /k/cart-v1"), // the same
			"resolve/shop" + query("path", "/svc/x", "watch", "true", "dtab", "/host/x=>0.001*/k/cart-v1 & /k/cart-v2"),
			"bind/shop" + query("path", "/svc/y", "watch", "true", "dtab", "/host/y=>/k/cart-v1"),
			"addr/shop" + query("path", cart1, "watch", "true"),
		} {
			_, stop := reader(t, h, "/api/1/"+uri)
			defer stop()
		}
		synctest.Wait()
		// The pages explain by the stored rules alone, which do not say what y means.
		if names := seen.Names("shop"); len(names) != 1 || names[0].Path != "/svc/x" {
			t.Errorf("in use are %v", names)
		}
		got := ""
		for _, n := range planOf(t, h, query("path", "/svc/x"), "/svc=>/host").Names {
			got += fmt.Sprintln(n.Path, n.Dtab, n.Before, n.After, n.Lost)
		}
		want := "/svc/x  [] [] false\n" +
			"/svc/x /host/x=>/k/cart-v1 [{" + cart1 + " 1}] [] true\n" +
			"/svc/x /host/x=>0.001*/k/cart-v1 & /k/cart-v2 [{" + cart1 + " 0.000999} {" + cart2 + " 0.999001}] [] true\n" +
			"/svc/y /host/y=>/k/cart-v1 [{" + cart1 + " 1}] [] true\n"
		if got != want {
			t.Errorf("got\n%swant\n%s", got, want)
		}
	})
}

// However many requests bring rules of their own, a plan has an end, and says what it does without.
func TestPlanIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newSource()
		src.name(cart1).Set(at("10.0.0.1:80"))
		h := namer.NewAPI(namer.APIConfig{Store: memory(t, map[string]string{"shop": "/svc=>" + cart1}), Registry: known(t, src),
			Seen: &namer.Seen{}, MaxStreams: 2000, Logger: quiet})
		var stops []func()
		follow := func(path, rules string) {
			_, stop := reader(t, h, "/api/1/bind/shop"+query("path", path, "watch", "true", "dtab", rules))
			stops = append(stops, stop)
		}
		follow("/svc/long", "/long=>/"+strings.Repeat("x", 5000))
		follow("/svc/"+strings.Repeat("x", 2000), "")
		for i := range 1003 {
			follow("/svc/x", fmt.Sprintf("/host/x=>/k/%d", i))
		}
		synctest.Wait()
		follow("/svc/x", "/host/x=>/k/0") // one that is known
		follow("/svc/a", "")
		synctest.Wait()
		if p := planOf(t, h, "", ""); len(p.Names) != 1001 || p.Omitted != 5 {
			t.Errorf("%d names, %d omitted", len(p.Names), p.Omitted)
		}
		for len(stops) > 0 {
			stops[0]()
			stops = stops[1:]
		}
		if p := planOf(t, h, "", ""); len(p.Names) != 0 || p.Omitted != 0 {
			t.Errorf("%d names, %d omitted after all are gone", len(p.Names), p.Omitted)
		}
	})
}

// What a namer has not said in time is not known: neither lost nor as before.
func TestPlanNotKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct{ now, next, want string }{
			{"/svc=>" + cart1, "/svc=>" + unread, "[{" + cart1 + " 1}] [] lost false unknown [after]: a namer has not answered yet"},
			{"/svc=>" + unread, "/svc=>" + cart1, "[] [{" + cart1 + " 1}] lost false unknown [before]: a namer has not answered yet where requests go now"},
			{"/svc=>" + unread, "/svc=>" + gone, "[] [] lost false unknown [before]: no rule and no namer answers it"},
			{"/svc=>" + cart1, "/svc=>" + unread + " | " + cart1, "[{" + cart1 + " 1}] [] lost false unknown [after]: a namer has not answered yet"},
			{"/svc=>" + unread, "/svc=>" + unread + " & $", "[] [] lost false unknown [before]: a rule says it has no endpoints: $"},
			{"/svc=>" + unread, "/svc=>" + unread + " | $", "[] [] lost false unknown [before after]: a namer has not answered yet"},
			{"/svc=>" + gone, "/svc=>" + unread, "[] [] lost false unknown [after]: a namer has not answered yet"},
			{"/svc=>" + cart1, "/svc=>" + gone, "[{" + cart1 + " 1}] [] lost true unknown []: no rule and no namer answers it"},
		} {
			h, _, _, _ := newNames(t, c.now)
			begin := time.Now()
			n := planOf(t, h, query("path", "/svc"), c.next).Names[0]
			if got := fmt.Sprint(n.Before, " ", n.After, " lost ", n.Lost, " unknown ", n.Unknown, ": ", n.Reason); got != c.want {
				t.Errorf("%s to %s:\n got %s\nwant %s", c.now, c.next, got, c.want)
			}
			if waited := time.Since(begin); (n.Unknown != nil) != (waited == 2*time.Second) {
				t.Errorf("%s to %s: after %v", c.now, c.next, waited)
			}
		}
	})
}

// Who follows the bound names is told of others.
func TestBoundNamesWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ids atomic.Pointer[[]string]
		ids.Store(&[]string{cart2, cart1})
		h := namer.NewAPI(namer.APIConfig{Store: memory(t, nil), Registry: known(t, newSource()), Logger: quiet, BoundNames: func() []string { return *ids.Load() }})
		next, stop := reader(t, h, "/api/1/bound-names?watch=true")
		defer stop()
		for _, want := range []string{`["` + cart1 + `","` + cart2 + `"]`, ""} {
			if got := next(); got != want {
				t.Fatalf("got %q, want %q", got, want)
			}
			time.Sleep(time.Minute) // virtual
		}
		ids.Store(&[]string{cart1})
		time.Sleep(5 * time.Second)
		if got := next(); got != `["`+cart1+`"]` {
			t.Errorf("got %q", got)
		}
		ids.Store(&[]string{})
		time.Sleep(5 * time.Second)
		if got := next(); got != `[]` {
			t.Errorf("got %q", got)
		}
	})
}
