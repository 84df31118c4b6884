package admin_test

import (
	"context"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/browser"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/sidecar/admin"
)

// cart returns pages of a proxy where /svc/cart leads to two endpoints, by the second of
// two rules.
func cart(t *testing.T) admin.Config {
	t.Helper()
	own, err := naming.ParseDtab("/srv => /#/io.l5d.k8s/shop/http ; /svc => /srv ; /svc => /srv/canary")
	if err != nil {
		t.Fatal(err)
	}
	const known = "/#/io.l5d.k8s/shop/http/cart"
	replicas := func(id naming.Path) naming.Replicas {
		if id.String() == known {
			return naming.Of(naming.Endpoint{Address: "10.0.0.1:80", Weight: 1}, naming.Endpoint{Address: "[fd00::1]:80", Weight: 1})
		}
		return naming.Replicas{State: naming.StateNeg}
	}
	c := config()
	c.Delegate = func(_ context.Context, q admin.Question) ([]byte, error) {
		if q.Router != "out" {
			return nil, &admin.NoRouter{Label: q.Router, Routers: []string{"out"}}
		}
		dtab := own
		if q.Dtab != nil {
			dtab = *q.Dtab
		}
		return naming.Delegate(dtab, q.Path, func(p naming.Path) naming.Resolution {
			if p.String() == known {
				return naming.Resolution{Bound: &naming.Bound{ID: p}}
			}
			return naming.Resolution{Tree: naming.Neg}
		}).JSON(replicas), nil
	}
	c.Configuration = func() any {
		return map[string]any{"tulle": map[string]any{"routers": []map[string]any{
			{"label": "out", "dstPrefix": "/svc", "dtab": own.String(), "stored": ""},
			{"label": "far", "dstPrefix": "/svc", "dtab": "", "stored": "", "namerd": "namerd.test:4180"},
		}}}
	}
	return c
}

// What people see on the playground: the browser runs the page, asks the proxy, and shows
// what it said.
func TestPlaygroundInABrowser(t *testing.T) {
	s := httptest.NewServer(admin.Handler(cart(t)))
	t.Cleanup(s.Close)
	for name, c := range map[string]struct {
		query url.Values
		shows []string
		lacks string
	}{
		"leads":    {url.Values{"router": {"out"}, "path": {"/svc/cart"}}, []string{"It leads to /#/io.l5d.k8s/shop/http/cart", "10.0.0.1:80", "[fd00::1]:80", `by /svc =&gt; /srv/canary`, "there is no such thing", "chosen"}, "leads nowhere"},
		"Linkerd":  {url.Values{"namespace": {"out"}, "path": {"/svc/cart"}, "dtab": {"/svc => !"}}, []string{"It leads nowhere: a rule stops here"}, "10.0.0.1"},
		"long":     {url.Values{"router": {"out"}, "path": {"/svc/cart"}, "dtab": {strings.Repeat("# x\n", 3000) + "/svc => !"}}, []string{"It leads nowhere: a rule stops here"}, "10.0.0.1"},
		"nobody":   {url.Values{"router": {"<b>x"}, "path": {"/svc/cart"}}, []string{`no router has the label "&lt;b&gt;x"; there are: out`, `id="effect"></small>`}, "<b>x"},
		"far":      {url.Values{"router": {"far"}}, []string{"these take the place of the router's own, after those of the namerd at namerd.test:4180"}, "leads"},
		"to begin": {nil, []string{`value="out"`, "these take the place of the router's own"}, "leads"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dom := browser.New(t).DOM(s.URL + "/delegator?" + c.query.Encode())
			for _, want := range c.shows {
				if !strings.Contains(dom, want) {
					t.Errorf("it does not show %q:\n%s", want, dom)
				}
			}
			if _, body, _ := strings.Cut(dom, "<body>"); strings.Contains(body, c.lacks) {
				t.Errorf("it shows %q:\n%s", c.lacks, dom)
			}
		})
	}
}
