//go:build e2e

package names

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/browser"
)

// page asks for one of the namer's pages.
func (r *replica) page(t *testing.T, path string) (status int, body string) {
	t.Helper()
	res, err := http.Get("http://" + r.pages + path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(text)
}

// TestPages looks at a controller as people do by kubectl port-forward: at dtabs that are objects, at names that are
// Services, and at what is in use.
func TestPages(t *testing.T) {
	m := newMesh(t)
	r := m.start(t)
	service(t, m.namespace, "cart", "http", "node-1", "10.1.2.3:8080")
	rules := "/srv => /#/io.l5d.k8s/" + m.namespace + "/http ; /svc => /srv"
	for _, body := range []string{"/svc => /$/fail", rules} {
		if status, _, answer := r.ask(t, "PUT", "dtabs/shop", body); status != 204 {
			t.Fatalf("PUT: %d %s", status, answer)
		}
	}
	follow(t, r, "/svc/cart")
	for path, want := range map[string]string{
		"/":          `<a href="dtab/shop">shop</a></td><td>2</td><td>1</td>`,
		"/dtab/shop": `data-path="/svc/cart"`,
		"/dtab/delegator.json?path=/svc/cart&dtab=" + url.QueryEscape(rules): `"ip":"10.1.2.3","port":8080`,
		"/namer_state/io.l5d.k8s.json":                                       `"address": "10.1.2.3:8080"`,
		"/bound-names.json":                                                  "/#/io.l5d.k8s/" + m.namespace + "/http/cart",
		"/storage/dtabs.json":                                                `"dst": "/#/io.l5d.k8s/` + m.namespace + `/http"`,
		"/config.json":                                                       `"dtab-store": "kubernetes"`,
		"/admin/ready":                                                       "ready",
	} {
		until(t, func() (bool, string) {
			status, body := r.page(t, path)
			return status == 200 && strings.Contains(body, want), path + ": " + body
		})
	}
	if status, body := r.page(t, "/dtab/none"); status != 404 || !strings.Contains(body, "There is no dtab") {
		t.Errorf("a dtab that is not there: %d %s", status, body)
	}

	t.Run("logging", func(t *testing.T) {
		res, err := http.PostForm("http://"+r.pages+"/logging.json", url.Values{"logger": {"root"}, "level": {"DEBUG"}})
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if _, body := r.page(t, "/logging.json"); res.StatusCode != 204 || !strings.Contains(body, `"level": "DEBUG"`) {
			t.Errorf("after %d it is %s", res.StatusCode, body)
		}
		until(t, func() (bool, string) {
			said := r.said(t)
			return strings.Contains(said, `msg="the log level is set" before=INFO after=DEBUG`), said
		})
	})

	t.Run("browser", func(t *testing.T) {
		dom := browser.New(t).DOM("http://" + r.pages + "/dtab/shop?path=/svc/cart")
		for _, want := range []string{"It leads to /#/io.l5d.k8s/" + m.namespace + "/http/cart", "10.1.2.3:8080", "What the rules were", "by local"} {
			if !strings.Contains(dom, want) {
				t.Errorf("it does not show %q:\n%s", want, dom)
			}
		}
	})
}
