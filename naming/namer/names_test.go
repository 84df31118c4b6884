package namer_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/namer"
	"github.com/tulle-mesh/tulle/naming/namer/api"
	"github.com/tulle-mesh/tulle/naming/registry"
)

// leaves makes a source the one of a registry.
type leaves struct{ *source }

func (l leaves) Replicas(id string) (*watch.Value[naming.Replicas], func()) {
	return l.name(id), l.use(id)
}

// known returns a registry of the default namers and of one with a transformer.
func known(t testing.TB, src *source) *registry.Registry {
	t.Helper()
	r, err := registry.New(registry.Config{
		Namers: append(registry.Default(), registry.Namer{Kind: registry.Kubernetes, Prefix: naming.Path{"edge"},
			Transformers: []registry.Transformer{{Kind: registry.Port, Port: "4141"}}}),
		Source: leaves{src},
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

const (
	cart1  = "/#/io.l5d.k8s/shop/http/cart-v1"
	cart2  = "/#/io.l5d.k8s/shop/http/cart-v2"
	gone   = "/#/io.l5d.k8s/shop/http/gone"
	unread = "/#/io.l5d.k8s/shop/http/unread"
	shown1 = `{"type":"bound","addrs":[{"ip":"10.0.0.1","port":80,"meta":{}}],"meta":{}}`
	shown2 = `{"type":"bound","addrs":[{"ip":"10.0.0.2","port":80,"meta":{}}],"meta":{}}`
	leaf1  = `{"type":"leaf","bound":{"addr":` + shown1 + `,"id":"` + cart1 + `","path":"/"}}`
	leaf2  = `{"type":"leaf","bound":{"addr":` + shown2 + `,"id":"` + cart2 + `","path":"/"}}`
)

// newNames returns an API of a dtab namespace shop, in which two versions of cart are bound.
func newNames(t testing.TB, rules string) (*namer.API, *source, *namer.Memory, *namer.Seen) {
	store, src, seen := memory(t, map[string]string{"shop": rules}), newSource(), &namer.Seen{}
	src.name(cart1).Set(at("10.0.0.1:80"))
	src.name(cart2).Set(at("10.0.0.2:80"))
	src.name(gone).Set(naming.Replicas{State: naming.StateNeg})
	return namer.NewAPI(namer.APIConfig{Store: store, Registry: known(t, src), Seen: seen, Logger: quiet,
		BoundNames: func() []string { return []string{cart2, cart1} }}), src, store, seen
}

const shopRules = `/k=>/#/io.l5d.k8s/shop/http;/svc=>/k;/svc/both=>/k/cart-v1 & 9*/k/cart-v2;/svc/nil=>$;/svc/fail=>!;/svc/alt=>/k/gone | /k/cart-v1`

func query(pairs ...string) string {
	v := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		v.Add(pairs[i], pairs[i+1])
	}
	return "?" + v.Encode()
}

func TestNames(t *testing.T) {
	h, src, _, _ := newNames(t, shopRules)
	src.name("/$/inet/10.9.9.9/81").Set(at("10.9.9.9:81"))
	src.name("/#/io.l5d.k8s/mine/80/cart").Set(at("10.0.0.3:80"))
	src.name("/#/io.l5d.k8s/shop/http/bad").Set(naming.Replicas{State: naming.StateFailed, Cause: "no luck"})
	for _, c := range []struct{ name, request, want string }{
		{"bind", "bind/shop" + query("path", "/svc/cart-v1"), "200 " + leaf1},
		{"residual", "bind/shop" + query("path", "/svc/cart-v1/a/b"), "200 " + strings.Replace(leaf1, `"path":"/"`, `"path":"/a/b"`, 1)},
		{"union", "bind/shop" + query("path", "/svc/both"), `200 {"type":"union","union":[{"weight":1.0,"tree":` + leaf1 + `},{"weight":9.0,"tree":` + leaf2 + `}]}`},
		{"failover", "bind/shop" + query("path", "/svc/alt"), "200 " + leaf1},
		{"neg", "bind/shop" + query("path", "/svc/gone"), `200 {"type":"neg"}`},
		{"empty", "bind/shop" + query("path", "/svc/nil"), `200 {"type":"empty"}`},
		{"fail", "bind/shop" + query("path", "/svc/fail"), `200 {"type":"fail"}`},
		{"extra rules", "bind/shop" + query("path", "/svc/x", "dtab", "/svc/x=>/svc/cart-v1;/svc/x=>/svc/cart-v2"), "200 " + leaf2},
		{"an unknown namespace", "bind/nobody" + query("path", "/svc/cart-v1"), `200 {"type":"neg"}`},
		{"an unknown namespace, extra rules", "bind/nobody" + query("path", "/svc", "dtab", "/svc=>"+cart1), "200 " + leaf1},
		{"a caller", "bind/nobody" + query("path", "/svc/cart", "dtab", "/svc=>/caller", "caller", "mine"),
			`200 {"type":"leaf","bound":{"addr":{"type":"bound","addrs":[{"ip":"10.0.0.3","port":80,"meta":{}}],"meta":{}},"id":"/#/io.l5d.k8s/mine/80/cart","path":"/"}}`},
		{"no path", "bind/shop", "400 Invalid path: '/' expected but end of input found at '[]'"},
		{"a bad path", "bind/shop" + query("path", "cart"), "400 Invalid path: '/' expected but 'c' found at '[c]art'"},
		{"a bad dtab", "bind/shop" + query("path", "/a", "dtab", "/a=>"), "400 Invalid dtab: a path, '(', '~', '!' or '$' expected but end of input found at '/a=>[]'"},
		{"a bad caller", "bind/shop" + query("path", "/a", "caller", "A"), "400 Invalid caller: invalid name: want lower-case letters, digits and '-', at most 63, beginning and ending with a letter or digit"},
		{"a bare semicolon", "bind/shop?path=/a&dtab=/a=>/b;/c=>/d", "400 Invalid query: invalid semicolon separator in query; write % as %25 and ; as %3B"},
		{"a bad namespace", "bind/Shop" + query("path", "/a"), "400 invalid name: want lower-case letters, digits and '-', at most 63, beginning and ending with a letter or digit"},
		{"no namespace", "bind" + query("path", "/a"), "404"},
		{"no namespace either", "addr/" + query("path", "/a"), "404"},
		{"another URI", "binds/shop" + query("path", "/a"), "404"},
		{"an unknown namer", "bind/shop" + query("path", "/$/what/x"), "500 Unknown namer: what for path: /$/what/x"},
		{"endless rules", "bind/shop" + query("path", "/a", "dtab", "/a=>/a"), "500 Max recursion level: 100 reached in Namer lookup"},

		{"addr", "addr/shop" + query("path", cart1), "200 " + shown1},
		{"addr of nothing", "addr/shop" + query("path", gone), `200 {"type":"neg"}`},
		{"addr that failed", "addr/shop" + query("path", "/#/io.l5d.k8s/shop/http/bad"), `200 {"type":"failed","cause":"no luck"}`},
		{"addr of a transformer", "addr/shop" + query("path", "/%/io.l5d.port/4141/#/edge/shop/http/cart-v1"), "200 " + strings.Replace(shown1, "80", "4141", 1)},
		{"addr of a proxy's transformer", "addr/shop" + query("path", "/%/io.l5d.port/99"+cart1), "200 " + shown1},
		{"addr of two", "addr/shop" + query("path", "/%/io.l5d.localhost/%/io.l5d.k8s.localnode/10.1.2.2"+cart1), "200 " + shown1},
		{"addr of a transformer alone", "addr/shop" + query("path", "/%/io.l5d.nothing"), `200 {"type":"neg"}`},
		{"addr of no name", "addr/shop" + query("path", "/svc/cart"), `200 {"type":"neg"}`},
		{"resolve", "resolve/shop" + query("path", "/svc/alt"), "200 " + shown1},
		{"resolve nothing", "resolve/shop" + query("path", "/svc/gone"), `200 {"type":"neg"}`},
		{"resolve empty", "resolve/shop" + query("path", "/svc/nil"), `200 {"type":"neg"}`},
		{"bound names", "bound-names", `200 ["` + cart1 + `","` + cart2 + `"]`},

		{"delegate", "delegate/nobody" + query("path", "/svc/x", "dtab", "/svc=>/a|/b; /a=>~; /b=>/$/inet/10.9.9.9/81"),
			`200 {"type":"alt","path":"/svc/x","alt":[{"type":"delegate","path":"/a/x","dentry":{"prefix":"/svc","dst":"/a | /b"},"delegate":` +
				`{"type":"neg","path":"~","dentry":{"prefix":"/a","dst":"~"}}},{"type":"delegate","path":"/b/x","dentry":{"prefix":"/svc","dst":"/a | /b"},"delegate":` +
				`{"type":"leaf","path":"/$/inet/10.9.9.9/81/x","dentry":{"prefix":"/b","dst":"/$/inet/10.9.9.9/81"},"bound":` +
				`{"addr":{"type":"bound","addrs":[{"ip":"10.9.9.9","port":81,"meta":{}}],"meta":{}},"id":"/$/inet/10.9.9.9/81","path":"/x"}}}]}`},
		{"delegate without a namespace", "delegate" + query("path", "/svc/cart-v1"), `200 {"type":"neg","path":"/svc/cart-v1"}`},
		{"delegate without a namespace either", "delegate/" + query("path", "/svc/cart-v1"), `200 {"type":"neg","path":"/svc/cart-v1"}`},
		{"delegate a bad path", "delegate/shop" + query("path", ""), "400 Invalid path: '/' expected but end of input found at '[]'"},
	} {
		got, response := call(h, "GET", "/api/1/"+c.request, "")
		if got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
		if response.StatusCode == 200 && response.Header.Get("Content-Type") != asJSON {
			t.Errorf("%s: the type is %q", c.name, response.Header.Get("Content-Type"))
		}
	}
	for _, route := range []string{"bind/shop", "addr/shop", "resolve/shop", "bound-names"} {
		if got, _ := call(h, "POST", "/api/1/"+route+query("path", cart1), ""); got != "404" {
			t.Errorf("POST %s: %s", route, got)
		}
	}
	src.mu.Lock()
	defer src.mu.Unlock()
	for id, n := range src.users {
		if n != 0 {
			t.Errorf("%s is still followed", id)
		}
	}
}

func TestDelegatePosted(t *testing.T) {
	h, _, _, _ := newNames(t, "/svc=>"+cart1)
	want := `200 {"type":"leaf","path":"` + cart1 + `","bound":{"addr":` + shown1 + `,"id":"` + cart1 + `","path":"/"}}`
	led := `200 {"type":"delegate","path":"/svc","delegate":{"type":"leaf","path":"` + cart1 + `","dentry":{"prefix":"/svc","dst":"` + cart1 + `"},"bound":{"addr":` + shown1 + `,"id":"` + cart1 + `","path":"/"}}}`
	for _, c := range []struct{ uri, media, body, want string }{
		{"delegate", asJSON, `{"namespace":"","dtab":"","path":"` + cart1 + `"}`, want},
		{"delegate", asJSON + "; charset=utf-8", `{"namespace":"shop","dtab":"","path":"/svc"}`, led},
		{"delegate/shop", asJSON, `{"path":"/svc"}`, led},
		{"delegate", asJSON, `{"dtab":"/svc=>` + cart1 + `","path":"/svc"}`, led},
		{"delegate", asJSON, `{"path":"svc"}`, "400 Invalid path: '/' expected but 's' found at '[s]vc'"},
		{"delegate", asJSON, `{`, "400 Malformed delegation request: unexpected end of JSON input"},
		{"delegate", asJSON, `{"namespace":"A","path":"/"}`, "400 invalid name: want lower-case letters, digits and '-', at most 63, beginning and ending with a letter or digit"},
		{"delegate", asDtab, `{}`, `415 Invalid Content-Type "application/dtab": send application/json`},
		{"delegate", "", `{}`, `415 Invalid Content-Type "": send application/json`},
	} {
		if got, _ := call(h, "POST", "/api/1/"+c.uri, c.body, "Content-Type", c.media); got != c.want {
			t.Errorf("%s %s:\n got %s\nwant %s", c.uri, c.body, got, c.want)
		}
	}
}

// What is not known yet is waited for; a delegation for two seconds.
func TestNamesPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, src, _, _ := newNames(t, "/svc=>/#/io.l5d.k8s/shop/http")
		begin := time.Now()
		if got, _ := call(h, "GET", "/api/1/delegate/shop"+query("path", "/svc/unread"), ""); got != "503 Request timed out." || time.Since(begin) != 2*time.Second {
			t.Errorf("delegate: %s after %v", got, time.Since(begin))
		}
		for _, route := range []string{"bind/shop", "resolve/shop", "addr/shop", "delegate/shop"} {
			answered := make(chan string, 1)
			go func() {
				path := "/svc/unread"
				if route == "addr/shop" {
					path = unread
				}
				got, _ := call(h, "GET", "/api/1/"+route+query("path", path), "")
				answered <- got
			}()
			time.Sleep(1900 * time.Millisecond) // virtual
			select {
			case got := <-answered:
				t.Fatalf("%s does not wait: %s", route, got)
			default:
			}
			src.name(unread).Set(at("10.0.0.7:80"))
			if got := <-answered; !strings.Contains(got, "10.0.0.7") {
				t.Errorf("%s: %s", route, got)
			}
			src.name(unread).Set(naming.Replicas{})
		}
		// A host whose addresses are long in coming is bound all the same.
		begin = time.Now()
		got, _ := call(h, "GET", "/api/1/bind/shop"+query("path", "/$/inet/slow.test/80"), "")
		if !strings.Contains(got, `"addr":{"type":"pending"}`) || time.Since(begin) != 2*time.Second {
			t.Errorf("slow host: %s after %v", got, time.Since(begin))
		}
		if got, _ := call(namer.NewAPI(namer.APIConfig{Store: memory(t, nil), Logger: quiet}), "GET", "/api/1/bind/shop?path=/a", ""); !strings.HasPrefix(got, "501 ") {
			t.Error(got)
		}
	})
}

// reader reads the lines of a stream.
func reader(t *testing.T, h http.Handler, uri string) (line func() string, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &streamed{header: http.Header{}, lines: make(chan string, 100)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(w.lines)
		h.ServeHTTP(w, httptest.NewRequest("GET", uri, nil).WithContext(ctx))
	}()
	return func() string {
		synctest.Wait()
		select {
		case s, open := <-w.lines:
			if !open {
				return "end"
			}
			return s
		default:
			return ""
		}
	}, func() { cancel(); <-done }
}

// streamed is a ResponseWriter that hands on what was flushed.
type streamed struct {
	header http.Header
	b      bytes.Buffer
	lines  chan string
}

func (s *streamed) Header() http.Header         { return s.header }
func (s *streamed) WriteHeader(int)             {}
func (s *streamed) Write(p []byte) (int, error) { return s.b.Write(p) }
func (s *streamed) FlushError() error {
	for s.b.Len() > 0 {
		text, err := s.b.ReadString('\n')
		if err != nil {
			return errors.New("no whole line")
		}
		s.lines <- strings.TrimSuffix(text, "\n")
	}
	return nil
}

func TestNamesWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, src, store, seen := newNames(t, "")
		writeDtab := func(rules string) {
			t.Helper()
			if _, err := store.Put(t.Context(), "shop", namer.Change{Dtab: dtab(t, rules)}); err != nil {
				t.Fatal(err)
			}
		}
		next, stop := reader(t, h, "/api/1/bind/shop"+query("path", "/svc", "watch", "true"))
		defer stop()
		expect := func(want string) {
			t.Helper()
			if got := next(); got != want {
				t.Fatalf("got %s, want %s", got, want)
			}
		}
		expect(`{"type":"neg"}`)
		if names := seen.Names("shop"); len(names) != 1 || names[0] != (api.Name{Path: "/svc"}) {
			t.Errorf("in use are %v", names)
		}
		writeDtab("/svc=>" + cart1)
		expect(leaf1)
		writeDtab("/x=>/y;/svc=>" + cart1) // comes to the same
		expect("")
		// Failover, and back.
		writeDtab("/svc=>" + cart2 + " | " + cart1)
		expect(leaf2)
		src.name(cart2).Set(naming.Replicas{State: naming.StateNeg})
		expect(leaf1)
		src.name(cart2).Set(at("10.0.0.2:80"))
		expect(leaf2)
		synctest.Wait()
		if src.usersOf(cart1) != 0 || src.usersOf(cart2) != 1 {
			t.Errorf("%d and %d users", src.usersOf(cart1), src.usersOf(cart2))
		}
		// What is not known any more changes nothing.
		src.name(cart2).Set(naming.Replicas{})
		expect("")
		src.name(cart2).Set(at("10.0.0.2:80"))
		expect("")
		if err := store.Delete(t.Context(), "shop", ""); err != nil {
			t.Fatal(err)
		}
		expect(`{"type":"neg"}`)
		// An error is the last line.
		writeDtab("/svc=>/$/what")
		expect("Unknown namer: what for path: /$/what")
		expect("end")
		if src.usersOf(cart2) != 0 || len(seen.Names("shop")) != 0 {
			t.Error("what it followed is not let go of")
		}

		for _, watch := range []string{"true", "1", "t"} {
			next, stop := reader(t, h, "/api/1/addr/shop"+query("path", unread, "watch", watch))
			expect := func(want string) {
				t.Helper()
				if got := next(); got != want {
					t.Fatalf("got %s, want %s", got, want)
				}
			}
			expect("")
			src.name(unread).Set(at("10.0.0.1:80"))
			expect(shown1)
			src.name(unread).Set(at("10.0.0.1:80"))
			expect("")
			src.name(unread).Set(naming.Replicas{State: naming.StateNeg})
			expect(`{"type":"neg"}`)
			src.name(unread).Set(naming.Replicas{})
			stop()
			if src.usersOf(unread) != 0 {
				t.Error("still followed")
			}
		}
		next, stop = reader(t, h, "/api/1/resolve/new"+query("path", "/svc", "watch", "true", "dtab", "/svc=>"+cart1))
		defer stop()
		expect(shown1)
		src.name(cart1).Set(at("10.0.0.2:80"))
		expect(shown2)
	})
}

// Who may do what, and what the log says of writes.
func TestAuthorize(t *testing.T) {
	var asked []string
	var refuse error
	var log bytes.Buffer
	h := namer.NewAPI(namer.APIConfig{
		Store: memory(t, map[string]string{"shop": "/svc=>/a"}), Registry: known(t, newSource()),
		Logger: slog.New(slog.NewTextHandler(&log, nil)),
		Authorize: func(r *http.Request, verb, namespace string) (string, error) {
			asked = append(asked, verb+" "+namespace)
			return "ann", refuse
		},
	})
	for _, c := range []struct{ method, uri, asked, log string }{
		{"GET", "dtabs", "list ", ""},
		{"GET", "dtabs/shop", "get shop", ""},
		{"HEAD", "dtabs/shop", "get shop", ""},
		{"GET", "dtabs/shop/history", "get shop", ""},
		{"GET", "bind/shop?path=/a", "get shop", ""},
		{"GET", "addr/shop?path=/a&watch=true", "watch shop", ""},
		{"GET", "delegate?path=/a", "list ", ""},
		{"GET", "bound-names", "list ", ""},
		{"GET", "bound-names?watch=true", "watch ", ""},
		{"POST", "plan/shop", "get shop", ""},
		{"PUT", "dtabs/shop", "update shop", `msg="dtab written" namespace=shop by=ann before="AAAAAAAAAAE=" after="AAAAAAAAAAI="`},
		{"PUT", "dtabs/new", "update new,create new", `msg="dtab written" namespace=new by=ann before="" after="AAAAAAAAAAE="`},
		{"POST", "dtabs/made", "create made", `msg="dtab created" namespace=made by=ann before="" after="AAAAAAAAAAE="`},
		{"DELETE", "dtabs/made", "delete made", `msg="dtab deleted" namespace=made by=ann before="AAAAAAAAAAE=" after=""`},
	} {
		for _, refusal := range []error{statusError(401), errors.New("no"), nil} {
			if refusal == nil && strings.Contains(c.uri, "watch") {
				continue
			}
			asked, refuse = nil, refusal
			log.Reset()
			got, response := call(h, c.method, "/api/1/"+c.uri, "/svc=>/b", "Content-Type", asDtab)
			switch {
			case refusal == nil:
				if strings.Join(asked, ",") != c.asked || response.StatusCode >= 300 {
					t.Errorf("%s %s: asked %v, %s", c.method, c.uri, asked, got)
				}
				if !strings.Contains(log.String(), c.log) || (c.log == "") != (log.Len() == 0) {
					t.Errorf("%s %s: log is %s, want %s", c.method, c.uri, &log, c.log)
				}
			case errors.As(refusal, new(statusError)):
				if got != "401 try later" || response.Header.Get("WWW-Authenticate") != `Bearer realm="tulle"` {
					t.Errorf("%s %s: %s, %v", c.method, c.uri, got, response.Header)
				}
			default:
				if got != "403 no" {
					t.Errorf("%s %s: %s", c.method, c.uri, got)
				}
			}
		}
	}
	past, _ := call(h, "GET", "/api/1/dtabs/shop/history", "")
	if !strings.Contains(past, `"by":"ann","dtab":[{"prefix":"/svc","dst":"/b"}]},{"version":"AAAAAAAAAAE=",`) || !strings.HasPrefix(past, `200 [{"version":"AAAAAAAAAAI=","time":"`) {
		t.Errorf("the history is %s", past)
	}
	if got, _ := call(h, "GET", "/api/1/dtabs/nobody/history", ""); got != "404" {
		t.Error(got)
	}
}

// What a store refuses, by status.
func TestRefusals(t *testing.T) {
	for err, want := range map[error]string{
		namer.ErrConflict:                          "409",
		fmt.Errorf("x: %w", namer.ErrForbidden):    "403 x: the storage forbids it",
		errors.New("the disk is full"):             "500 the disk is full",
		fmt.Errorf("wrapped: %w", namer.ErrExists): "409",
	} {
		h := namer.NewAPI(namer.APIConfig{Store: refusing{memory(t, nil), err}, Logger: quiet})
		if got, _ := call(h, "PUT", "/api/1/dtabs/shop", "", "Content-Type", asDtab); got != want {
			t.Errorf("%v: %s, want %s", err, got, want)
		}
	}
}

type refusing struct {
	namer.Store
	err error
}

func (r refusing) Put(context.Context, string, namer.Change) (string, error) { return "", r.err }
