package delegator_test

import (
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/delegator"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func parse(t *testing.T, text string) naming.Dtab {
	t.Helper()
	d, err := naming.ParseDtab(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestLines(t *testing.T) {
	for text, want := range map[string]string{
		"":                             "",
		"/svc=>/srv":                   "/svc => /srv",
		"/srv=>/#/a;/svc/*/b=>/srv|/c": "/srv     => /#/a ;\n/svc/*/b => /srv | /c",
		"/a=>0.001*/b&9*/c;/b=>!":      "/a => 0.001*/b & 9*/c ;\n/b => !",
	} {
		d := parse(t, text)
		got := delegator.Lines(d)
		if got != want {
			t.Errorf("%q is printed as\n%s, want\n%s", text, got, want)
		}
		if again := parse(t, got); again.Exact() != d.Exact() {
			t.Errorf("%q is read back as %q", text, again.Exact())
		}
	}
}

// Whatever a page is told, it is text to the browser.
func TestPageEscapes(t *testing.T) {
	const evil = `</textarea><script>alert("x")</script>'"&`
	w := httptest.NewRecorder()
	delegator.Page{
		Title: evil, Name: evil, Up: "../", Above: evil, Notes: []string{evil}, Caller: evil,
		Names: []delegator.Name{{Path: evil, Caller: evil}},
		Past:  []delegator.Past{{When: evil, By: evil, Dtab: parse(t, "/svc=>/a | /b")}},
		Dtab:  parse(t, "/svc=>/a & /b"),
	}.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	body := w.Body.String()
	if w.Code != 200 || strings.Count(body, "<script") != 1 || strings.Count(body, "</textarea") != 1 || strings.Contains(body, "alert(&#34;x&#34;)</script>") ||
		!strings.Contains(body, "/svc =&gt; /a &amp; /b</textarea>") {
		t.Errorf("%d\n%s", w.Code, body)
	}
	if policy := w.Header().Get("Content-Security-Policy"); !strings.HasPrefix(policy, "default-src 'none';") || strings.Contains(policy, "unsafe") {
		t.Errorf("its policy is %q", policy)
	}
}
