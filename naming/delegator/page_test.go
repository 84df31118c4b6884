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

// What a page shows cannot run, and nothing is loaded from elsewhere.
func TestFile(t *testing.T) {
	for path, media := range map[string]string{"/delegator": "text/html", "/x/delegator.css": "text/css", "/dtab/delegator.js": "text/javascript"} {
		w := httptest.NewRecorder()
		delegator.File(w, httptest.NewRequest("GET", path, nil))
		policy := w.Header().Get("Content-Security-Policy")
		if w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), media) || !strings.HasPrefix(policy, "default-src 'none';") || strings.Contains(policy, "unsafe") {
			t.Errorf("%s: %d %v", path, w.Code, w.Header())
		}
		for _, word := range []string{"http://", "https://", "innerHTML", "style=", "onclick"} {
			if strings.Contains(w.Body.String(), word) {
				t.Errorf("%s has %s in it", path, word)
			}
		}
	}
}
