package namer_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming/namer"
	"github.com/tulle-mesh/tulle/naming/namer/api"
	"github.com/tulle-mesh/tulle/naming/namer/client"
)

// rulesSource says what ConfigMaps say, and counts who follows them.
type rulesSource struct {
	*source
	values map[api.ConfigMap]*watch.Value[*api.Rules]
}

func newRulesSource() *rulesSource {
	return &rulesSource{source: newSource(), values: map[api.ConfigMap]*watch.Value[*api.Rules]{}}
}

func (s *rulesSource) value(m api.ConfigMap) *watch.Value[*api.Rules] {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.values[m] == nil {
		s.values[m] = &watch.Value[*api.Rules]{}
	}
	return s.values[m]
}

func (s *rulesSource) rules(m api.ConfigMap) (*watch.Value[*api.Rules], func()) {
	return s.value(m), sync.OnceFunc(s.use(m.String()))
}

// told is what the namer says of m; of text "-" nothing is known.
func told(m api.ConfigMap, text, cause string) *api.Rules {
	r := &api.Rules{ConfigMap: m, Cause: cause}
	if text != "-" {
		r.Text = &text
	}
	return r
}

// Rules of ConfigMaps: several proxies share one look, what is known stays known, and nothing is repeated.
func TestStreamRules(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, n := newRulesSource(), &network{}
		dtab, other := api.ConfigMap{Namespace: "shop", Name: "rules", Key: "dtab"}, api.ConfigMap{Namespace: "shop", Name: "rules", Key: "other"}
		serve := func() (stop func()) {
			return n.serve(namer.NewStream(namer.StreamConfig{Store: memory(t, nil), Source: src, Rules: src.rules, Logger: quiet}))
		}
		stopServer := serve()
		hello := sidecar
		hello.ConfigMaps = []api.ConfigMap{dtab, other}
		a, stopA := n.start(t, hello)
		defer stopA()
		hello.ConfigMaps = []api.ConfigMap{dtab}
		b, stopB := n.start(t, hello)
		defer stopB()
		changes := 0
		a.Rules(dtab).Notify(func() { changes++ })
		show := func(c *client.Client, m api.ConfigMap) string {
			text := "unknown"
			if d := c.Rules(m).Get(); d != nil {
				text = d.Exact()
			}
			return text + " " + c.RulesCause(m)
		}
		expect := func(what, want string, sets int) {
			t.Helper()
			time.Sleep(4 * time.Second) // virtual; enough to connect again
			synctest.Wait()
			if x, y := show(a, dtab), show(b, dtab); x != want || y != want || changes != sets || show(a, other) != "unknown " {
				t.Fatalf("%s: %q and %q after %d changes, the other key %q; want %q after %d", what, x, y, changes, show(a, other), want, sets)
			}
		}
		<-a.Synced()
		expect("nothing is known", "unknown ", 0)
		if src.usersOf(dtab.String()) != 1 || src.usersOf(other.String()) != 1 {
			t.Errorf("%d and %d look", src.usersOf(dtab.String()), src.usersOf(other.String()))
		}
		v := src.value(dtab)
		v.Set(told(dtab, "-", "it may not be read"))
		expect("it may not be read", "unknown it may not be read", 0)
		v.Set(told(dtab, "/svc=>0.001*/a & /b", ""))
		expect("it may", "/svc=>0.001*/a & /b ", 1)
		v.Set(told(dtab, "/svc=>0.001*/a & /b", ""))
		expect("the same again", "/svc=>0.001*/a & /b ", 1)
		v.Set(told(dtab, "/svc=>0.001*/a & /b", "it does not parse"))
		expect("it does not parse", "/svc=>0.001*/a & /b it does not parse", 1)
		v.Set(told(dtab, "", ""))
		expect("it is gone", " ", 2)
		v.Set(told(dtab, "/svc=>/c", ""))
		expect("it is back", "/svc=>/c ", 3)

		// Another namer, which knows less and then as much.
		stopServer()
		expect("without a namer", "/svc=>/c ", 3)
		if src.usersOf(dtab.String()) != 0 {
			t.Error("proxies that are gone are still served")
		}
		v.Set(nil)
		defer serve()()
		expect("with one that has read nothing", "/svc=>/c ", 3)
		v.Set(told(dtab, "-", "it may not be read"))
		expect("with one that may not", "/svc=>/c it may not be read", 3)
		v.Set(told(dtab, "/svc=>/c", ""))
		expect("with one that may", "/svc=>/c ", 3)
		v.Set(told(dtab, "/svc=>//", ""))
		expect("with one that has other words", "/svc=>/c the rules that the namer sent are not understood: label character expected but '/' found at '/svc=>/[/]'", 3)
	})
}

// A namer without ConfigMaps says so, one of before says nothing, and there is a limit.
func TestStreamRulesOfNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, m := &network{}, api.ConfigMap{Namespace: "shop", Name: "rules", Key: "dtab"}
		defer n.serve(namer.NewStream(namer.StreamConfig{Store: memory(t, nil), Source: newSource(), Logger: quiet}))()
		hello := sidecar
		hello.ConfigMaps = []api.ConfigMap{m}
		c, stop := n.start(t, hello)
		defer stop()
		<-c.Synced()
		synctest.Wait()
		if got := c.RulesCause(m); got != "this namer reads no ConfigMaps" || c.Rules(m).Get() != nil {
			t.Errorf("got %q", got)
		}
		hello.ConfigMaps = make([]api.ConfigMap, api.MaxConfigMaps+1)
		many, stopMany := n.start(t, hello)
		defer stopMany()
		synctest.Wait()
		if err := fmt.Sprint(many.State().Err); !strings.Contains(err, "400") || !strings.Contains(err, "names 81 ConfigMaps, 80 at most are allowed") {
			t.Errorf("got %v", err)
		}
	})
}

// A new name in use is told at once, several within a second together, and what is no longer used with the heartbeat.
func TestNamesInUseAreToldAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, seen := &network{}, &namer.Seen{}
		lines := &uses{}
		stream := namer.NewStream(namer.StreamConfig{Store: memory(t, nil), Source: newSource(), Seen: seen, Logger: quiet})
		defer n.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Body = lines.of(r.Body)
			stream.ServeHTTP(w, r)
		}))()
		var mu sync.Mutex
		used := map[string]bool{"/svc/first": true}
		var asked atomic.Int32
		c, stop := n.start(t, sidecar, func() (all []api.Name) {
			mu.Lock()
			defer mu.Unlock()
			asked.Add(1)
			for path := range used {
				all = append(all, api.Name{Namespace: "shop", Path: path})
			}
			return all
		})
		defer stop()
		expect := func(what, paths string, messages int) {
			t.Helper()
			synctest.Wait()
			var got []string
			for _, n := range seen.Names("default") {
				got = append(got, strings.TrimPrefix(n.Path, "/svc/"))
			}
			if strings.Join(got, " ") != paths || lines.count() != messages {
				t.Fatalf("%s: the namer knows %q after %d messages, want %s after %d", what, got, lines.count(), paths, messages)
			}
		}
		use := func(path string, is bool) {
			mu.Lock()
			defer mu.Unlock()
			if used[path] = true; !is {
				delete(used, path)
			}
			c.Used()
		}
		<-c.Synced()
		expect("at the beginning", "first", 1)
		time.Sleep(2 * time.Second) // virtual, as all of these
		use("/svc/a", true)
		expect("at once", "a first", 2)
		for _, path := range []string{"b", "c", "d"} {
			time.Sleep(100 * time.Millisecond)
			use("/svc/"+path, true)
		}
		expect("within a second", "a first", 2)
		time.Sleep(699 * time.Millisecond)
		expect("within a second", "a first", 2)
		time.Sleep(time.Millisecond)
		expect("after a second", "a b c d first", 3)
		before := asked.Load()
		c.Used()
		time.Sleep(2 * time.Second)
		expect("nothing is new", "a b c d first", 3)
		if asked.Load() != before+1 {
			t.Errorf("asked %d times", asked.Load()-before)
		}
		mu.Lock()
		clear(used)
		mu.Unlock()
		time.Sleep(api.Heartbeat)
		expect("with the heartbeat", "", 4)
		before = asked.Load()
		for i := range 2000 {
			use(fmt.Sprint("/svc/", i%10), i%20 < 10)
			time.Sleep(10 * time.Millisecond)
		}
		if asked.Load()-before > 21 {
			t.Errorf("asked %d times in 20 s", asked.Load()-before)
		}
	})
}

// uses counts the messages of use in what is read.
type uses struct {
	io.ReadCloser
	n atomic.Int32
}

func (u *uses) of(r io.ReadCloser) *uses {
	u.ReadCloser = r
	return u
}

func (u *uses) Read(p []byte) (int, error) {
	n, err := u.ReadCloser.Read(p)
	u.n.Add(int32(strings.Count(string(p[:n]), `{"use":`)))
	return n, err
}

func (u *uses) count() int { return int(u.n.Load()) }
