package registry_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// source is a namer whose answers a test sets. What it was not told is pending.
type source struct {
	mu     sync.Mutex
	values map[string]*watch.Value[naming.Replicas]
	users  map[string]int
}

func newSource() *source {
	return &source{values: map[string]*watch.Value[naming.Replicas]{}, users: map[string]int{}}
}

func (s *source) of(id string) *watch.Value[naming.Replicas] {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.values[id] == nil {
		s.values[id] = watch.New(naming.Replicas{})
	}
	return s.values[id]
}

func (s *source) Replicas(id string) (*watch.Value[naming.Replicas], func()) {
	value := s.of(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users[id]++
	return value, sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.users[id]--
	})
}

func (s *source) set(id, text string) { s.of(id).Set(replicas(text)) }

// unused checks that nothing is followed any more.
func (s *source) unused(t *testing.T) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, n := range s.users {
		if n != 0 {
			t.Errorf("%s is still followed %d times", id, n)
		}
	}
}

// replicas reads "10.1.1.7:80@a 10.1.2.9:80", or a state.
func replicas(text string) naming.Replicas {
	switch text {
	case "neg":
		return naming.Replicas{State: naming.StateNeg}
	case "pending":
		return naming.Replicas{}
	case "failed":
		return naming.Replicas{State: naming.StateFailed, Cause: "why"}
	}
	var all []naming.Endpoint
	for _, f := range strings.Fields(text) {
		a, node, _ := strings.Cut(f, "@")
		all = append(all, naming.Endpoint{Address: a, Node: node, Weight: 1})
	}
	return naming.Of(all...)
}

func text(r naming.Replicas) string {
	if r.State != naming.StateBound {
		return strings.TrimSpace(r.State.String() + " " + r.Cause)
	}
	var all []string
	for _, e := range r.Endpoints {
		s := e.Address
		if e.Node != "" {
			s += "@" + e.Node
		}
		all = append(all, s)
	}
	return strings.Join(all, " ")
}

func path(t testing.TB, s string) naming.Path {
	t.Helper()
	p, err := naming.ParsePath(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func show(r naming.Resolution) string {
	switch {
	case r.Err != nil:
		return r.Err.Error()
	case r.Pending:
		return "pending"
	case r.Bound != nil:
		return r.Bound.ID.String() + " + " + r.Bound.Residual.String()
	case r.Tree != nil:
		return r.Tree.String()
	}
	return "neg"
}

// world is a registry, its source, and what follows them.
type world struct {
	*testing.T
	*registry.Registry
	source *source
	asked  []string
}

var environment = map[string]string{"POD_NAMESPACE": "Shop", "OTHER": "eu", "NODE_NAME": "b", "POD_IP": "10.1.2.2"}

// newWorld reads namers as a configuration has them.
func newWorld(t *testing.T, namers string) *world {
	t.Helper()
	s := newSource()
	r, err := registry.New(registry.Config{
		Namers: read(t, namers), Source: s, Getenv: func(name string) string { return environment[name] },
		Addresses: func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("10.1.1.7")} },
	})
	if err != nil {
		t.Fatal(err)
	}
	return &world{T: t, Registry: r, source: s}
}

// state asks the registry what it asks its caller, as a proxy does.
func (w *world) state(id naming.Path) naming.Replicas {
	w.asked = append(w.asked, id.String())
	value, release := w.Replicas(id.String())
	defer release()
	return value.Get()
}

func (w *world) resolve(p string) string { return show(w.Resolver(w.state)(path(w, p))) }

func (w *world) expect(p, want string) {
	w.Helper()
	if got := w.resolve(p); got != want {
		w.Errorf("%s is %s, want %s", p, got, want)
	}
}

// replicasOf returns what an id is now.
func (w *world) replicasOf(id string) string {
	value, release := w.Replicas(id)
	defer release()
	return text(value.Get())
}

const here = "10.1.1.7:80@a 10.1.1.8:80@a 10.1.2.9:80@b"

func TestKubernetes(t *testing.T) {
	w := newWorld(t, `
- kind: io.l5d.k8s
- {kind: io.l5d.k8s, prefix: /edge}
- {kind: io.l5d.k8s, prefix: /by/version, labelSelector: version}
- {kind: io.l5d.k8s.ns, prefix: /here}
- {kind: io.l5d.k8s.ns, prefix: /there, envVar: OTHER, labelSelector: example.org/version}
- kind: io.l5d.k8s.external
- {kind: io.l5d.k8s.external, prefix: /ext, labelSelector: v}
`)
	const k, ext = "/#/io.l5d.k8s/", "/#/io.l5d.k8s.external/"
	for _, c := range []struct{ name, id, residual, leaf string }{
		{k + "Shop/HTTP/Cart/Z", k + "shop/http/cart", "/Z", k + "shop/http/cart"},
		{k + "shop/80/cart", k + "shop/80/cart", "/", k + "shop/80/cart"},
		{"/#/edge/shop/http/Cart/Extra/bits", "/#/edge/shop/http/cart", "/Extra/bits", k + "shop/http/cart"},
		{"/#/by/version/shop/http/cart/V1.b/Z", "/#/by/version/shop/http/cart/v1.b", "/Z", k + "shop/http/cart/version/v1.b"},
		{"/#/here/HTTP/cart/Z", "/#/here/http/cart", "/Z", k + "shop/http/cart"},
		{"/#/there/http/cart/v1", "/#/there/http/cart/v1", "/", k + `eu/http/cart/\x65\x78\x61\x6d\x70\x6c\x65\x2e\x6f\x72\x67\x2f\x76\x65\x72\x73\x69\x6f\x6e/v1`},
		{ext + "Shop/80/Cart/Z", ext + "Shop/80/Cart", "/Z", ext + "shop/80/cart"},
		{"/#/ext/shop/80/cart/V1/Z", "/#/ext/shop/80/cart/V1", "/Z", ext + "shop/80/cart/v/v1"},
	} {
		for state, want := range map[string]string{
			here: c.id + " + " + c.residual, "": c.id + " + " + c.residual, "neg": "neg", "pending": "pending", "failed": "resolve " + c.id + ": why",
		} {
			w.source.set(c.leaf, state)
			w.expect(c.name, want)
			if got := w.replicasOf(c.id); got != text(replicas(state)) {
				t.Errorf("%s is %s, want %s", c.id, got, state)
			}
		}
	}
	// These can be no Service: nobody is asked.
	w.asked = nil
	for _, name := range []string{
		k + "shop/http", "/#/io.l5d.k8s", "/#/edge", "/#/by/version/shop/http/cart", "/#/here/http", "/#/nobody/shop/http/cart", "/#", "/svc/x",
		k + "shop/http/www.hello.world", k + "shop/http/_x", k + "sh_op/http/x", k + "shop/-a/x", k + `shop/http/\x61\x20`,
		k + "shop/http/" + strings.Repeat("a", 64), "/#/by/version/shop/http/cart/a:b", "/#/by/version/shop/http/cart/" + strings.Repeat("a", 64),
	} {
		w.expect(name, "neg")
	}
	if name := strings.Join(w.asked, " "); name != "" {
		t.Errorf("somebody was asked for %s", name)
	}
	for id, want := range map[string]string{
		k + "shop/http/cart/x": "neg", k + "shop/http": "neg", "/#/nobody/shop/http/cart": "neg", "/#": "neg", "/svc/x": "neg",
		"/%/io.l5d.port/80/#/io.l5d.k8s/shop/http/cart": "neg", "/%": "neg", "/%/a": "neg", "/$/nil": "neg",
		"nonsense": `failed "nonsense" is no id: '/' expected but 'n' found at '[n]onsense'`,
	} {
		if got := w.replicasOf(id); got != want {
			t.Errorf("%s is %s, want %s", id, got, want)
		}
	}
	w.source.unused(t)
}

func TestBuiltIn(t *testing.T) {
	w := newWorld(t, "[]")
	w.expect("/$/nil", "$")
	w.expect("/$/io.buoyant.http.domainToPathPfx/web/a.test", "/web/test/a")
	w.expect("/$/wrong/x", "Unknown namer: wrong for path: /$/wrong/x")
	w.expect("/$/io.buoyant.rinet/80/a.test/x", "/$/io.buoyant.rinet/80/a.test + /x")
	w.source.set("/$/inet/a.test/80", "192.0.2.1:80")
	for _, id := range []string{"/$/io.buoyant.rinet/80/a.test", "/$/inet/a.test/80"} {
		if got := w.replicasOf(id); got != "192.0.2.1:80" {
			t.Errorf("%s is %s", id, got)
		}
	}
}

func TestRewrite(t *testing.T) {
	w := newWorld(t, `
- {kind: io.l5d.rewrite, prefix: /flip, pattern: "/{p}/{n}/{s}", name: "/dst/{n}/{p}/{s}"}
- {kind: io.l5d.rewrite, prefix: /two, pattern: "/{a}-{b}", name: "/dst/{b}/{a}.{b}"}
- {kind: io.l5d.rewrite, prefix: /any, pattern: "/x/*", name: /dst}
- {kind: io.l5d.rewrite, prefix: /all, pattern: /, name: "/dst"}
- {kind: io.l5d.rewrite, prefix: /last, pattern: "/{a}/{a}", name: "/{a}", transformers: [{kind: io.l5d.port, port: 80}]}
`)
	for name, want := range map[string]string{
		"/#/flip/http/shop/cart":           "/dst/shop/http/cart",
		"/#/flip/http/shop/cart/dropped/x": "/dst/shop/http/cart",
		"/#/flip/http/shop":                "neg",
		"/#/flip":                          "neg",
		"/#/flip/HTTP/Shop/Cart":           "/dst/Shop/HTTP/Cart",
		`/#/flip/a/\x62\x20/c`:             `/dst/\x62\x20/a/c`,
		"/#/two/x-y-z":                     "/dst/z/x-y.z",
		"/#/two/xyz":                       "neg",
		"/#/any/x/y/z":                     "/dst",
		"/#/any/x":                         "neg",
		"/#/any/y/y":                       "neg",
		"/#/all":                           "/dst",
		"/#/all/x/y":                       "/dst",
		"/#/last/a/b":                      "/b", // transformers leave alone what goes on through the dtab
	} {
		w.expect(name, want)
	}
	if got := w.replicasOf("/#/flip/http/shop/cart"); got != "neg" {
		t.Errorf("a rewriting namer has replicas: %s", got)
	}
}

// What is listed last is asked first, whatever is Neg leaves it to the next.
func TestReverseOrder(t *testing.T) {
	w := newWorld(t, `
- {kind: io.l5d.rewrite, prefix: /x, pattern: "/{a}", name: "/first/{a}"}
- {kind: io.l5d.k8s, prefix: /x}
- {kind: io.l5d.k8s.ns, prefix: /x/shop}
- {kind: io.l5d.k8s.external, prefix: /x}
`)
	const name, plain, external = "/#/x/shop/http/cart", "/#/io.l5d.k8s/shop/http/cart", "/#/io.l5d.k8s.external/shop/http/cart"
	w.expect(name, "pending")
	w.source.set(external, "neg")
	w.expect(name, "pending")
	if got := w.replicasOf(name); got != "pending" {
		t.Errorf("the id is %s", got)
	}
	w.source.set(plain, "10.0.0.1:80")
	w.expect(name, name+" + /")
	if got := w.replicasOf(name); got != "10.0.0.1:80" {
		t.Errorf("the id is %s", got)
	}
	w.source.set(external, "192.0.2.1:80")
	w.expect(name, name+" + /")
	if got := w.replicasOf(name); got != "192.0.2.1:80" {
		t.Errorf("the id is %s", got)
	}
	w.source.set(external, "neg")
	w.source.set(plain, "neg")
	w.expect(name, "/first/shop")
	w.expect("/#/x/shop", "/first/shop")
	w.expect("/#/x", "neg")
}

// Two directories, one of them at the prefix of both.
func TestFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two := t.TempDir(), t.TempDir()
		write := func(dir, name, content string) {
			t.Helper()
			file := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write(one, "web", "10.0.0.1 80\n")
		write(one, "both", "10.0.0.1 80\n")
		write(two, "both", "10.0.0.2 80\n")
		write(two, "deep/er", "db.test 80\n")
		w := newWorld(t, fmt.Sprintf(`
- {kind: io.l5d.fs, rootDir: %q}
- {kind: io.l5d.fs, rootDir: %q}
- {kind: io.l5d.fs, rootDir: %q, prefix: /alone}
`, one, two, one))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- w.Registry.Run(ctx) }()
		w.source.set("/$/inet/db.test/80", "192.0.2.1:80")
		var releases []func()
		values := map[string]*watch.Value[naming.Replicas]{}
		// As a proxy does, that follows what it was asked for.
		state := func(id naming.Path) naming.Replicas {
			if values[id.String()] == nil {
				value, release := w.Replicas(id.String())
				values[id.String()], releases = value, append(releases, release)
			}
			return values[id.String()].Get()
		}
		expect := func(name, want, endpoints string) {
			t.Helper()
			w.Resolver(state)(path(t, name))
			for range 5 {
				time.Sleep(time.Second)
				w.Resolver(state)(path(t, name))
			}
			r := w.Resolver(state)(path(t, name))
			if got := show(r); got != want {
				t.Errorf("%s is %s, want %s", name, got, want)
			}
			if r.Bound != nil {
				if got := text(state(r.Bound.ID)); got != endpoints {
					t.Errorf("%s is %s, want %s", name, got, endpoints)
				}
			}
		}
		const fs = "/#/io.l5d.fs"
		expect(fs+"/web/rest", fs+"/web + /rest", "10.0.0.1:80")
		expect(fs+"/both", fs+"/both + /", "10.0.0.2:80")
		expect(fs+"/deep/er/rest", fs+"/deep/er + /rest", "192.0.2.1:80")
		expect(fs+"/none", "neg", "")
		expect(fs+"/../x", "neg", "")
		expect(fs, "neg", "")
		expect("/#/alone/both", "/#/alone/both + /", "10.0.0.1:80")
		if err := os.Remove(filepath.Join(two, "both")); err != nil {
			t.Fatal(err)
		}
		expect(fs+"/both", fs+"/both + /", "10.0.0.1:80")
		for _, release := range releases {
			release()
		}
		synctest.Wait()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		w.source.unused(t)
	})
}

// Without a directory the files are the source's matter.
func TestFilesElsewhere(t *testing.T) {
	s := newSource()
	r, err := registry.New(registry.Config{Namers: registry.Default(), Source: s})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{T: t, Registry: r, source: s}
	s.set("/#/io.l5d.fs/dir", "neg")
	s.set("/#/io.l5d.fs/dir/web", "10.0.0.1:80")
	w.expect("/#/io.l5d.fs/dir/web/rest", "/#/io.l5d.fs/dir/web + /rest")
	s.set("/#/io.l5d.k8s/shop/http/cart", "10.0.0.1:80")
	w.expect("/#/io.l5d.k8s/shop/http/cart", "/#/io.l5d.k8s/shop/http/cart + /")
	deep := "/#/io.l5d.fs"
	for range 20 {
		deep += "/d"
		s.set(deep, "neg")
	}
	w.asked = nil
	if w.expect(deep, "neg"); len(w.asked) > 8 {
		t.Errorf("it asked %d times", len(w.asked))
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct {
		namers   []registry.Namer
		distinct bool
		want     string
	}{
		{[]registry.Namer{{Kind: "io.l5d.none", Prefix: naming.Path{"x"}}}, false, `namers[0]: kind "io.l5d.none" is none`},
		{[]registry.Namer{{Kind: registry.KubernetesHere, Prefix: naming.Path{"x"}, EnvVar: "MISSING"}}, false,
			`namers[0]: kind io.l5d.k8s.ns: the variable MISSING is "" and must be the namespace; a pod gets it from metadata.namespace`},
		{[]registry.Namer{{Kind: registry.Rewrite, Prefix: naming.Path{"x"}, Pattern: "/{a}", Name: "/b/{c}"}}, false,
			`namers[0]: kind io.l5d.rewrite: name "/b/{c}" is no path, with what pattern /{a} captures in it`},
		{[]registry.Namer{{Kind: registry.Rewrite, Prefix: naming.Path{"x"}, Pattern: "a", Name: "/b"}}, false, `pattern: "a" does not begin with /`},
		{[]registry.Namer{{Kind: registry.Kubernetes, Prefix: naming.Path{"x"}}, {Kind: registry.Kubernetes, Prefix: naming.Path{"x", "y"}}}, true,
			"namers[1]: prefix /x/y and prefix /x of namers[0] overlap"},
		{[]registry.Namer{{Kind: registry.Kubernetes}}, true, "namers[0]: the prefix is empty"},
		{[]registry.Namer{{Kind: registry.Kubernetes, Prefix: naming.Path{"x"}},
			{Kind: registry.KubernetesExternal, Prefix: naming.Path{"x"}, Transformers: []registry.Transformer{{Kind: registry.Port, Port: "81"}}}}, false,
			"can have the same names and have different transformers"},
		{[]registry.Namer{{Kind: registry.Kubernetes, Prefix: naming.Path{"x"}, Transformers: []registry.Transformer{
			{Kind: registry.Port, Port: "80"}, {Kind: "no"}, {Kind: registry.Port, Port: "0"}, {Kind: registry.SpecificHost, Host: "a.test"},
			{Kind: registry.Const, Path: naming.Path{"svc", "x"}}, {Kind: registry.Replace}, {Kind: registry.Localhost, Prefix: naming.Path{"a", "#"}},
			{Kind: registry.DaemonSet, Namespace: "a", Port: "b c", Service: "d"},
			{Kind: registry.Port, Port: "81", Prefix: naming.Path{"io.l5d.port", "80"}}}}}, false,
			`namers[0]: transformers[1]: no: kind "no" is none
transformers[2]: io.l5d.port: "0" is no port from 1 to 65535
transformers[3]: io.l5d.specificHost: "a.test" is no IP address
transformers[4]: io.l5d.const: path /svc/x must begin with /#/ or /$/: it is bound without a dtab
transformers[5]: io.l5d.replace: path / must begin with /#/ or /$/: it is bound without a dtab
transformers[6]: io.l5d.localhost: prefix /a/# must have elements, none of which is #, $ or %
transformers[7]: io.l5d.k8s.daemonset: no Service can be called d with a port b c in a namespace a
transformers[8]: io.l5d.port: prefix /io.l5d.port/80 is that of another transformer, which does something else; give it one of its own`},
	} {
		_, err := registry.New(registry.Config{Namers: c.namers, Distinct: c.distinct, Source: newSource()})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v:\n got %v\nwant %s", c.namers, err, c.want)
		}
	}
	// Overlapping prefixes are fine otherwise.
	_, err := registry.New(registry.Config{Source: newSource(), Namers: []registry.Namer{
		{Kind: registry.Kubernetes, Prefix: naming.Path{"x"}}, {Kind: registry.Kubernetes, Prefix: naming.Path{"x", "y"}, Transformers: []registry.Transformer{{Kind: registry.Localhost}}}}})
	if err != nil {
		t.Error(err)
	}
}

func TestLocalNodeNeedsItsPlace(t *testing.T) {
	for _, c := range []struct {
		node, ip    string
		transformer registry.Transformer
		want        string // the prefix, or a part of the error
	}{
		{"b", "10.1.2.2", registry.Transformer{}, "/%/io.l5d.k8s.localnode/10.1.2.2"},
		{"b", "10.1.2.2", registry.Transformer{HostNetwork: true}, "/%/io.l5d.k8s.localnode/b"},
		{"b", "", registry.Transformer{HostNetwork: true}, "/%/io.l5d.k8s.localnode/b"},
		{"b", "", registry.Transformer{}, "POD_IP is not set"},
		{"b", "", registry.Transformer{Prefix: naming.Path{"local"}}, "/%/local"},
		{"", "10.1.2.2", registry.Transformer{}, "NODE_NAME is not set"},
		{"", "10.1.2.2", registry.Transformer{Subnet: true}, "/%/io.l5d.k8s.localnode/10.1.2.2"},
		{"", "fd00::1", registry.Transformer{Subnet: true}, "NODE_NAME is not set"},
		{"", "10.1.2.2", registry.Transformer{Subnet: true, HostNetwork: true}, "NODE_NAME is not set"},
	} {
		r, err := registry.New(registry.Config{Source: newSource(), Getenv: func(name string) string {
			return map[string]string{"NODE_NAME": c.node, "POD_IP": c.ip}[name]
		}})
		if err != nil {
			t.Fatal(err)
		}
		c.transformer.Kind = registry.LocalNode
		transformation, err := r.Transformation([]registry.Transformer{c.transformer})
		got := transformation.String()
		if err != nil {
			got = err.Error()
		}
		if got != c.want && (err == nil || !strings.Contains(got, c.want)) {
			t.Errorf("node %q, address %q, %v: %s, want %s", c.node, c.ip, c.transformer, got, c.want)
		}
	}
}

func TestDefault(t *testing.T) {
	kinds := []string{}
	for _, n := range registry.Default() {
		if n.Prefix.String() != "/"+n.Kind {
			t.Errorf("%s is at %s", n.Kind, n.Prefix)
		}
		kinds = append(kinds, n.Kind)
	}
	slices.Sort(kinds)
	if got := strings.Join(kinds, " "); got != "io.l5d.fs io.l5d.k8s io.l5d.k8s.external" {
		t.Errorf("the default is %s", got)
	}
}

// The default dtab, an override and every state of a Service, bound as a proxy does.
func TestDefaultDtab(t *testing.T) {
	base, err := naming.ParseDtab("/caller => /$/dev.tulle.service/shop ; /srv => /caller ; /host => /srv ; /svc => /host")
	if err != nil {
		t.Fatal(err)
	}
	const k = "/#/io.l5d.k8s/"
	r, err := registry.New(registry.Config{Namers: registry.Default(), Source: newSource()})
	if err != nil {
		t.Fatal(err)
	}
	states := map[string]naming.Replicas{}
	resolve := r.Resolver(func(id naming.Path) naming.Replicas { return states[id.String()] })
	bind := func(override, name string) string {
		local, err := naming.ParseDtab(override)
		if err != nil {
			t.Fatal(err)
		}
		b, err := naming.Bind(base.Concat(local...), naming.Path{"svc", name}, resolve)
		switch {
		case err != nil:
			return err.Error()
		case b.Kind == naming.BoundLeaf:
			return b.Leaf.ID.String()
		}
		return [...]string{"pending", "neg", "fail", "empty", "leaf", "union"}[b.Kind]
	}
	expect := func(override, name, want string) {
		t.Helper()
		if got := bind(override, name); got != want {
			t.Errorf("%s with %q is %s, want %s", name, override, got, want)
		}
	}
	neg, bound := naming.Replicas{State: naming.StateNeg}, naming.Of(naming.Endpoint{Address: "10.0.0.1:80"})

	expect("", "world", "pending")
	states[k+"shop/80/world"] = bound
	expect("", "world", k+"shop/80/world")
	states[k+"shop/80/world"] = neg
	expect("", "world", "pending")
	states[k+"shop/http/world"] = bound
	expect("", "world", k+"shop/http/world")
	states[k+"shop/http/world"] = naming.Of() // nobody ready, yet no failover
	expect("", "world", k+"shop/http/world")
	states[k+"shop/http/world"] = naming.Replicas{State: naming.StateFailed, Cause: "no access"}
	expect("", "world", "resolve "+k+"shop/http/world: no access")
	states[k+"shop/http/world"] = neg
	expect("", "world", "neg")

	states[k+"shop/80/world-v1"], states[k+"shop/80/world-v2"] = bound, bound
	expect("/host/world => /srv/world-v2", "world", k+"shop/80/world-v2")
	expect("/host/world => /srv/world-v2 | /srv/world-v1", "world", k+"shop/80/world-v2")
	states[k+"shop/80/world-v2"], states[k+"shop/http/world-v2"] = neg, neg
	expect("/host/world => /srv/world-v2 | /srv/world-v1", "world", k+"shop/80/world-v1")
	expect("/host/world => /srv/world-v1 & 9*/srv/world-v2", "world", k+"shop/80/world-v1")
	expect("/host/world => /$/inet/db.test/81 | /srv/world-v1", "world", "/$/inet/db.test/81")
	expect("/host/world => /$/wrong | /srv/world-v1", "world", "Unknown namer: wrong for path: /$/wrong")

	states[k+"test/80/api"], states[k+"test/http/api"] = neg, neg
	expect("", "api.test", "/$/inet/api.test/80")
}
