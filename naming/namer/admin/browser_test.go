package admin_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/browser"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/namer"
	"github.com/tulle-mesh/tulle/naming/namer/admin"
)

// What people see: the browser runs the page, asks the namer, and shows what it said.
func TestInABrowser(t *testing.T) {
	w := seeded(t)
	for _, text := range []string{"/svc => /$/inet/127.1/8080", rules} {
		dtab, err := naming.ParseDtab(text)
		if err == nil {
			_, err = w.store.Put(t.Context(), "default", namer.Change{Dtab: dtab, By: "alice"})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	s := httptest.NewServer(admin.Handler(w.config))
	t.Cleanup(s.Close)
	query := func(dtab string) string {
		return "?" + url.Values{"path": {"/svc/cart"}, "dtab": {dtab}}.Encode()
	}
	for name, c := range map[string]struct {
		address string
		shows   []string
		lacks   string
	}{
		"begin":  {s.URL + "/dtab/default", []string{"as they are stored; change them to try others", `hidden="">as stored`, "/svc/cart <i>from shop</i>", "What the rules were", "1 rule</td>"}, "leads"},
		"stored": {s.URL + "/dtab/default?path=/svc/cart", []string{"It leads to /#/io.l5d.k8s/shop/http/cart", "10.0.0.1:80", "[fd00::1]:80", "by /svc =&gt; /srv/canary", "there is no such thing", "chosen"}, "leads nowhere"},
		// The same rules, written in another way.
		"spaced":  {s.URL + "/dtab/default" + query("/srv=>/#/io.l5d.k8s/shop/http;/svc=>/srv;\n/svc  => /srv/canary;"), []string{"as they are stored;", "It leads to /#/io.l5d.k8s/shop/http/cart"}, "As stored"},
		"changed": {s.URL + "/dtab/default" + query("/svc => /$/inet/127.1/8080"), []string{"only tried here; namerctl dtab update default FILE would store them", "With these rules it leads to /$/inet/127.1/8080", "As stored it leads to /#/io.l5d.k8s/shop/http/cart", "/$/inet/127.1/8080", "10.0.0.1:80"}, "nowhere"},
		"wrong":   {s.URL + "/dtab/default" + query("/svc = > /srv"), []string{"Invalid dtab: ", "As stored it leads to /#/io.l5d.k8s/shop/http/cart"}, "With these rules"},
		"both":    {s.URL + "/dtab/default" + query("/svc => 1 * /$/inet/127.1/8080 & 9 * /$/inet/127.1/8081"), []string{"With these rules it leads to /$/inet/127.1/8080 and /$/inet/127.1/8081", "9 × /$/inet", "gets 90&nbsp;%"}, "nowhere"},
		"half":    {s.URL + "/dtab/default" + query("/svc => 1 * /#/nobody & 9 * /#/io.l5d.k8s/shop/http"), []string{"With these rules it leads to /#/io.l5d.k8s/shop/http/cart", ">chosen<"}, "gets"},
		"nobody":  {s.URL + "/dtab/default" + query("/svc => /#/io.l5d.k8s/shop/http/idle/x"), []string{"With these rules it leads to /#/io.l5d.k8s/shop/http/idle, which has no endpoints", ">no endpoints<"}, "nowhere"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dom := browser.New(t).DOM(c.address)
			for _, want := range c.shows {
				if !strings.Contains(dom, want) {
					t.Errorf("it does not show %q:\n%s", want, dom)
				}
			}
			if _, body, _ := strings.Cut(dom, "<body>"); strings.Contains(body, c.lacks) || strings.Contains(body, "<script>") {
				t.Errorf("it shows %q:\n%s", c.lacks, dom)
			}
		})
	}
}

// scripted returns the pages with a script that does something at its end.
func scripted(pages http.Handler, does string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, ".js") {
			pages.ServeHTTP(w, r)
			return
		}
		script := httptest.NewRecorder()
		pages.ServeHTTP(script, r)
		w.Header().Set("Content-Type", "text/javascript")
		_, _ = io.WriteString(w, script.Body.String()+"\nsetTimeout(() => { "+does+" }, 500);\n")
	})
}

// What people do there: the script of the page has a click at its end.
func TestClicksInABrowser(t *testing.T) {
	w := seeded(t)
	dtab, err := naming.ParseDtab("/svc => /$/inet/127.1/8080")
	if err == nil {
		_, err = w.store.Put(t.Context(), "default", namer.Change{Dtab: dtab, By: "alice"})
	}
	if err != nil {
		t.Fatal(err)
	}
	pages := admin.Handler(w.config)
	for name, c := range map[string]struct {
		query, does string
		shows       []string
	}{
		"name": {"", `document.querySelector("a.name").click()`, []string{"It leads to /$/inet/127.1/8080"}},
		"past": {"?path=/svc/cart", `document.querySelector("a.past").click()`, []string{"only tried here", "With these rules it leads to /#/io.l5d.k8s/shop/http/cart", "As stored it leads to /$/inet/127.1/8080"}},
		"edit": {"", `const d = document.getElementById("dtab"); d.value += "; /x => /y"; d.dispatchEvent(new Event("input"))`, []string{"only tried here", `id="stored">as stored`}},
		"back": {"?path=/svc/cart&dtab=/svc=>!", `document.getElementById("stored").click()`, []string{"as they are stored", "It leads to /$/inet/127.1/8080"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(scripted(pages, c.does))
			defer s.Close()
			dom := browser.New(t).DOM(s.URL + "/dtab/default" + c.query)
			for _, want := range c.shows {
				if !strings.Contains(dom, want) {
					t.Errorf("it does not show %q:\n%s", want, dom)
				}
			}
		})
	}
}

// Rules that are too many for an address are asked about, and tried, all the same.
func TestManyRulesInABrowser(t *testing.T) {
	w := seeded(t)
	var many strings.Builder
	for i := range 10000 {
		fmt.Fprintf(&many, "/host/%080d=>/x;", i)
	}
	for _, last := range []string{"/svc=>!", "/svc=>/$/inet/127.1/8080"} {
		dtab, err := naming.ParseDtab(many.String() + last)
		if err == nil {
			_, err = w.store.Put(t.Context(), "default", namer.Change{Dtab: dtab, By: "alice"})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	pages := admin.Handler(w.config)
	for name, c := range map[string]struct {
		does  string
		shows []string
	}{
		"stored": {`document.getElementById("ask").requestSubmit()`, []string{"It leads to /$/inet/127.1/8080"}},
		"past":   {`document.querySelector("a.past").click(); document.getElementById("ask").requestSubmit()`, []string{"With these rules it leads nowhere: a rule stops here", "As stored it leads to /$/inet/127.1/8080", "<title>?path=%2Fsvc%2Fcart</title>", `class="past" href="?"`}},
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(scripted(pages, `document.getElementById("path").value = "/svc/cart"; `+c.does+"; document.title = location.search"))
			defer s.Close()
			dom := browser.New(t).DOM(s.URL + "/dtab/default")
			for _, want := range c.shows {
				if !strings.Contains(dom, want) {
					_, result, _ := strings.Cut(dom, `id="result"`)
					t.Errorf("it does not show %q:\n%.3000s", want, result)
				}
			}
		})
	}
}
