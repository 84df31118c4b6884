package admin_test

import (
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/browser"
	"github.com/tulle-mesh/tulle/naming/namer/admin"
)

// What people see: the browser runs the page, asks the namer, and shows what it said.
func TestInABrowser(t *testing.T) {
	s := httptest.NewServer(admin.Handler(seeded(t).config))
	t.Cleanup(s.Close)
	query := func(dtab string) string {
		return "?" + url.Values{"path": {"/svc/cart"}, "dtab": {dtab}}.Encode()
	}
	for name, c := range map[string]struct {
		address string
		shows   []string
		lacks   string
	}{
		"index":  {s.URL + "/", []string{"default", "<td>3</td>", "/namer_state"}, "No namespaces"},
		"begin":  {s.URL + "/dtab/default", []string{"as they are stored; change them to try others", `hidden="">as stored`, "/svc/cart <i>from shop</i>"}, "leads"},
		"stored": {s.URL + "/dtab/default?path=/svc/cart", []string{"It leads to /#/io.l5d.k8s/shop/http/cart", "10.0.0.1:80", "[fd00::1]:80", "by /svc =&gt; /srv/canary", "there is no such thing", "chosen"}, "leads nowhere"},
		// The same rules, written in another way.
		"spaced":  {s.URL + "/dtab/default" + query("/srv=>/#/io.l5d.k8s/shop/http;/svc=>/srv;\n/svc  => /srv/canary;"), []string{"as they are stored;", "It leads to /#/io.l5d.k8s/shop/http/cart"}, "As stored"},
		"changed": {s.URL + "/dtab/default" + query("/svc => /$/inet/127.1/8080"), []string{"only tried here; namerctl dtab update default FILE would store them", "With these rules it leads to /$/inet/127.1/8080", "As stored it leads to /#/io.l5d.k8s/shop/http/cart", "/$/inet/127.1/8080", "10.0.0.1:80"}, "nowhere"},
		"lost":    {s.URL + "/dtab/default" + query("/svc => !"), []string{"With these rules it leads nowhere: a rule stops here", "As stored it leads to /#/io.l5d.k8s/shop/http/cart"}, "It leads"},
		"wrong":   {s.URL + "/dtab/default" + query("/svc = > /srv"), []string{"Invalid dtab: ", "As stored it leads to /#/io.l5d.k8s/shop/http/cart"}, "With these rules"},
		"both":    {s.URL + "/dtab/default" + query("/svc => 1 * /$/inet/127.1/8080 & 9 * /$/inet/127.1/8081"), []string{"With these rules it leads to /$/inet/127.1/8080 and /$/inet/127.1/8081", "9 × /$/inet", "gets 90&nbsp;%"}, "nowhere"},
		"half":    {s.URL + "/dtab/default" + query("/svc => 1 * /#/nobody & 9 * /#/io.l5d.k8s/shop/http"), []string{"With these rules it leads to /#/io.l5d.k8s/shop/http/cart", ">chosen<"}, "gets"},
		"nobody":  {s.URL + "/dtab/default" + query("/svc => /#/io.l5d.k8s/shop/http/idle/x"), []string{"With these rules it leads to /#/io.l5d.k8s/shop/http/idle, which has no endpoints", ">no endpoints<"}, "nowhere"},
		"logging": {s.URL + "/logging", []string{"<b>INFO</b>", "DEBUG"}, "leads"},
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
