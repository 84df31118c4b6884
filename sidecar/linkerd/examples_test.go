package linkerd_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tulle-mesh/tulle/internal/document"
	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/registry"
	"github.com/tulle-mesh/tulle/sidecar/linkerd"
)

const examples = "../../manifests/examples/linkerd"

// report says what a configuration is, router by router, and what is not served.
func report(c *linkerd.Config) string {
	var b strings.Builder
	say := func(what string, warnings []document.Warning) {
		for _, w := range warnings {
			fmt.Fprintf(&b, "  %d: %s: %s\n", w.Line, what, w.Text)
		}
	}
	for _, r := range c.Routers {
		fmt.Fprintf(&b, "  %s %s %s", r.Protocol, r.Label, r.Interpreter.Kind)
		for _, t := range r.Transformers {
			fmt.Fprintf(&b, " %s", t.Kind)
		}
		for _, s := range r.Servers {
			fmt.Fprintf(&b, " %s", s.Address)
		}
		fmt.Fprintln(&b)
		say("missing", r.Missing)
		for _, s := range r.Servers {
			say("missing", s.Missing)
		}
	}
	say("warning", c.Warnings)
	return b.String()
}

// Every example loads, can be made, and says what of it has no effect or is not
// served yet: testdata/examples.txt has all of it.
func TestExamples(t *testing.T) {
	files, err := filepath.Glob(examples + "/*.yaml")
	if err != nil || len(files) != 12 {
		t.Fatalf("%v %v", files, err)
	}
	var got strings.Builder
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		c, err := linkerd.Parse(filepath.Base(file), content)
		if err != nil {
			t.Error(err)
			continue
		}
		fmt.Fprintf(&got, "%s\n%s", c.File, report(c))
	}
	want, err := os.ReadFile("testdata/examples.txt")
	if err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("the examples say (+), want (-):\n%s\nwhole:\n%s", diff, got.String())
	}
}

// What an example makes of a name, in a cluster where these bound names are.
func TestNamesInExamples(t *testing.T) {
	for _, c := range []struct{ example, router, name, want string }{
		{"base", "outgoing", "/svc/hello", "/#/io.l5d.k8s/default/http/hello"},
		{"base", "incoming", "/svc/world", "/#/io.l5d.k8s/default/http/world-v1"},
		{"base", "outgoing", "/svc/nope", "~"},
		{"ingress-by-domain", "ingress", "/svc/www.hello.world", "/#/io.l5d.k8s/default/http/hello"},
		{"ingress-by-domain", "ingress", "/svc/api.hello.world", "/#/io.l5d.k8s/default/http/api"},
		{"ingress-by-domain", "ingress", "/svc/www.hello.world:80", "~"},
		{"ingress-by-domain", "incoming", "/svc/www.hello.world", "/#/io.l5d.k8s/default/http/hello"},
		{"ingress-by-domain", "incoming", "/svc/world", "/#/io.l5d.k8s/default/http/world-v1"},
		{"egress", "outgoing", "/svc/hello", "/#/io.l5d.k8s.ds/default/http/hello"},
		{"egress", "outgoing", "/svc/site.test", "/$/io.buoyant.rinet/80/site.test"},
		{"egress", "outgoing", "/svc/site.test:443", "/$/io.buoyant.rinet/443/site.test"},
		{"grpc", "outgoing", "/svc/helloworld.World", "/#/io.l5d.k8s/default/grpc/world-v1"},
		{"grpc", "outgoing", "/svc/helloworld.Hello", "/#/io.l5d.k8s/default/grpc/hello"},
		{"ingress-controller", "ingress", "/svc/default/http/hello", "/#/io.l5d.k8s/default/http/hello"},
		{"servicemesh", "http-outgoing", "/svc/cart", "/#/to-http/default/http/cart"},
		{"servicemesh", "http-outgoing", "/svc/cart.shop", "/#/to-http/shop/http/cart"},
		{"servicemesh", "http-outgoing", "/svc/site.test", "/$/io.buoyant.rinet/80/site.test"},
		{"servicemesh", "http-incoming", "/svc/cart.shop", "/#/io.l5d.k8s/shop/http/cart"},
		{"servicemesh", "grpc-outgoing", "/svc/pkg.Hello", "/#/to-grpc/default/grpc/hello"},
	} {
		content, err := os.ReadFile(filepath.Join(examples, c.example+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		cfg, err := linkerd.Parse(c.example, content)
		if err != nil {
			t.Fatal(err)
		}
		if got := bind(t, cfg, c.router, c.name); got != c.want {
			t.Errorf("%s: %s: %s leads to %s, want %s", c.example, c.router, c.name, got, c.want)
		}
	}
}

// nowhere is a source of addresses that has none.
type nowhere struct{}

func (nowhere) Replicas(string) (*watch.Value[naming.Replicas], func()) {
	return watch.New(naming.Replicas{}), func() {}
}

// bind returns what the name is bound to, without transformers.
func bind(t *testing.T, c *linkerd.Config, label, name string) string {
	t.Helper()
	namers := c.Namers
	for i := range namers {
		namers[i].Transformers = nil
	}
	names, err := registry.New(registry.Config{Namers: namers, Source: nowhere{}})
	if err != nil {
		t.Fatal(err)
	}
	resolve := names.Resolver(func(id naming.Path) naming.Replicas {
		state := naming.Replicas{State: naming.StateNeg}
		switch id := id.String(); {
		case strings.HasPrefix(id, "/$/"), strings.HasSuffix(id, "/hello"), strings.HasSuffix(id, "/api"), strings.HasSuffix(id, "/cart"), strings.HasSuffix(id, "/world-v1"):
			state.State = naming.StateBound
		}
		return state
	})
	for _, r := range c.Routers {
		if r.Label != label {
			continue
		}
		path, err := naming.ParsePath(name)
		if err != nil {
			t.Fatal(err)
		}
		tree, err := naming.Bind(r.Dtab, path, resolve)
		if err != nil {
			t.Fatal(err)
		}
		if tree.Kind == naming.BoundLeaf {
			return tree.Leaf.ID.String()
		}
		return "~"
	}
	t.Fatalf("there is no router %s", label)
	return ""
}
