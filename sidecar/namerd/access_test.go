package namerd_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/sidecar/namerd"
)

// guarded is a namerd that speaks TLS as example.com and wants the token "right". shown
// is the last that it was shown.
func guarded(t *testing.T) (c *cluster, roots *x509.CertPool, shown *atomic.Value) {
	c, shown = newCluster(t), &atomic.Value{}
	known := httptest.NewTLSServer(nil)
	defer known.Close()
	c.tls = &tls.Config{Certificates: known.TLS.Certificates}
	roots = x509.NewCertPool()
	roots.AddCert(known.Certificate())
	api := c.api
	c.api = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		shown.Store(r.Header.Get("Authorization"))
		switch r.Header.Get("Authorization") {
		case "Bearer right":
			api.ServeHTTP(w, r)
		case "Bearer other":
			http.Error(w, "you may not get this dtab", http.StatusForbidden)
		default:
			http.Error(w, "who are you", http.StatusUnauthorized)
		}
	})
	return c, roots, shown
}

// A namerd that wants to know who asks: a refusal is no connection, and a token that is
// replaced counts within half a minute.
func TestToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, roots, shown := guarded(t)
		c.up()
		defer c.down()
		var log bytes.Buffer
		var token atomic.Value
		token.Store("")
		n, stop := c.client(func(cfg *namerd.Config) {
			cfg.TLS = &namerd.TLS{Name: "example.com", Roots: func() (*x509.CertPool, error) { return roots, nil }}
			cfg.Token = func() (string, error) {
				if token.Load() == "none" {
					return "", errors.New("there is no such file")
				}
				return token.Load().(string), nil
			}
			cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
		})
		defer stop()
		cart, other := c.bind(n, "/svc/cart", ""), c.bind(n, "/svc/other", "")
		for _, step := range []struct{ token, shown, name, state, hint string }{
			{"", "", "error: namerd answered 401 Unauthorized: who are you", "false true refused: namerd answered 401 Unauthorized: who are you", "no token was shown"},
			{"wrong", "Bearer wrong", "error: namerd answered 401 Unauthorized: who are you", "false true refused: namerd answered 401 Unauthorized: who are you", "audience tulle.dev"},
			{"other", "Bearer other", "error: namerd answered 403 Forbidden: you may not get this dtab", "false true refused: namerd answered 403 Forbidden: you may not get this dtab", "who may get and watch the dtab shop"},
			{"none", "Bearer other", "error: namerd answered 403 Forbidden: you may not get this dtab", "false false ask namerd: there is no such file", ""},
			{"right", "Bearer right", v1, "true false <nil>", ""},
		} {
			token.Store(step.token)
			time.Sleep(11 * time.Minute)
			synctest.Wait()
			state := n.State()
			c.expect("shown with "+step.token, shown.Load(), step.shown)
			c.expect("the name with "+step.token, cart, step.name)
			c.expect("the state with "+step.token, fmt.Sprint(state.Connected, " ", state.Refused, " ", state.Err), step.state)
			if !strings.Contains(state.Hint, step.hint) || (state.Hint == "") != (step.hint == "") {
				t.Errorf("the hint with %q is %q", step.token, state.Hint)
			}
		}
		if n.Refusals() == 0 {
			t.Error("no refusal is counted")
		}
		c.expect("lines of refusals", strings.Count(log.String(), `level=WARN msg="namerd not connected"`), 2) // refused, and no token
		c.expect("lines of names", strings.Count(log.String(), "refuses a name"), 0)

		// What is known stands when the token does not count any more.
		token.Store("wrong")
		c.down()
		c.up()
		time.Sleep(time.Minute)
		synctest.Wait()
		c.expect("known", cart, v1)
		c.expect("refused again", n.State().Refused, true)
		cart.release()
		other.release()
	})
}

// Who cannot prove to be the namerd that is meant is told nothing, a token least of all.
func TestTLS(t *testing.T) {
	for name, want := range map[string]string{"example.com": "<nil>", "other.test": "not other.test", "nobody": "unknown authority", "broken": "no such file"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, roots, shown := guarded(t)
				c.up()
				defer c.down()
				n, stop := c.client(func(cfg *namerd.Config) {
					cfg.Token = func() (string, error) { return "right", nil }
					expected := "example.com"
					if name == "other.test" {
						expected = name
					}
					cfg.TLS = &namerd.TLS{Name: expected, Roots: func() (*x509.CertPool, error) {
						switch name {
						case "nobody":
							return x509.NewCertPool(), nil
						case "broken":
							return nil, errors.New("no such file")
						}
						return roots, nil
					}}
				})
				defer stop()
				cart := c.bind(n, "/svc/cart", "")
				defer cart.release()
				synctest.Wait()
				state := n.State()
				if got := fmt.Sprint(state.Err); state.Connected != (want == "<nil>") || !strings.Contains(got, want) {
					t.Errorf("the state is %+v", state)
				}
				if told := shown.Load(); (told != nil) != state.Connected {
					t.Errorf("it was shown %v", told)
				}
			})
		})
	}
}

func TestDelegate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.of("/#/io.l5d.k8s/shop/http/cart").Set(naming.Replicas{State: naming.StateNeg})
		c.up()
		defer c.down()
		n, stop := c.client(nil)
		defer stop()
		d, err := n.Delegate(t.Context(), naming.Path{"svc", "cart"}, naming.Dtab{{Prefix: naming.Prefix{"svc", "cart"}, Dst: naming.Leaf{"srv", "cart-v2"}}}, "shop")
		if err != nil {
			t.Fatal(err)
		}
		tree, err := d.BoundTree()
		if err != nil || show(tree) != v2 {
			t.Errorf("%s %v", show(tree), err)
		}
		answer := func(text string) string {
			c.api = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) })
			c.down()
			c.up()
			_, err := n.Delegate(t.Context(), naming.Path{"a"}, nil, "")
			return fmt.Sprint(err)
		}
		const hollow = `{"type":"transformation"}`
		for text, want := range map[string]string{
			`{"type":"neg"}`: "<nil>", "what": "read what namerd says: invalid character", hollow: "a transformation is of nothing",
			`{"type":"alt","alt":[{"type":"delegate","delegate":{"type":"union","union":[{"weight":1,"tree":` + hollow + `}]}}]}`: "of nothing",
		} {
			if got := answer(text); !strings.Contains(got, want) {
				t.Errorf("%s: %s, want %s", text, got, want)
			}
		}
		c.api = http.NotFoundHandler()
		c.down()
		c.up()
		if _, err := n.Delegate(t.Context(), naming.Path{"a"}, nil, ""); err == nil || !strings.Contains(err.Error(), "namerd answered 404 Not Found") {
			t.Errorf("of a namerd without delegations: %v", err)
		}
	})
}
