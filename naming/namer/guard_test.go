package namer_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/logtest"
	"github.com/tulle-mesh/tulle/naming/namer"
	"github.com/tulle-mesh/tulle/naming/namer/api"
	"github.com/tulle-mesh/tulle/naming/namer/client"
)

// untouched is a body that nobody may read.
type untouched struct{ t *testing.T }

func (u untouched) Read([]byte) (int, error) {
	u.t.Error("the body is read before it is known who sends it")
	return 0, io.EOF
}

// Who may not is refused before a byte of what was sent is read.
func TestAccessBeforeBody(t *testing.T) {
	var asked []string
	h := namer.NewAPI(namer.APIConfig{
		Store: memory(t, map[string]string{"shop": "/svc=>/a"}), Registry: known(t, newSource()), Logger: quiet,
		Authorize: func(_ *http.Request, verb, namespace string) (string, error) {
			asked = append(asked, verb+" "+namespace)
			return "", statusError(401)
		},
	})
	stream := namer.NewStream(namer.StreamConfig{Store: memory(t, nil), Source: newSource(), Logger: quiet,
		Admit: func(*http.Request) (namer.Guest, error) { return namer.Guest{}, statusError(401) }})
	for _, c := range []struct {
		h                  http.Handler
		method, uri, asked string
	}{
		{h, "PUT", "/api/1/dtabs/shop", "update shop"},
		{h, "POST", "/api/1/dtabs/new", "create new"},
		{h, "POST", "/api/1/plan/shop", "get shop"},
		{h, "POST", "/api/1/delegate/shop", "get shop"},
		{h, "POST", "/api/1/delegate", " "},
		{h, "GET", "/api/1/bind/shop?path=no+path", "get shop"},
		{stream, "POST", api.WatchPath, ""},
	} {
		asked = nil
		r := httptest.NewRequest(c.method, c.uri, untouched{t})
		r.Header.Set("Content-Type", asJSON)
		r.ProtoMajor = 2
		w := httptest.NewRecorder()
		c.h.ServeHTTP(w, r)
		if w.Code != 401 || strings.Join(asked, ",") != c.asked {
			t.Errorf("%s %s: %d, asked %q", c.method, c.uri, w.Code, asked)
		}
	}
}

// A question that says in its body whose dtab it is about needs the right to that one alone.
func TestDelegateAsksTwice(t *testing.T) {
	var asked []string
	h := namer.NewAPI(namer.APIConfig{
		Store: memory(t, map[string]string{"shop": "/svc=>!"}), Registry: known(t, newSource()), Logger: quiet,
		Authorize: func(_ *http.Request, verb, namespace string) (string, error) {
			if asked = append(asked, verb+" "+namespace); namespace == "other" || verb == "list" {
				return "", errors.New("no")
			}
			return "ann", nil
		},
	})
	for _, c := range []struct{ uri, body, asked, want string }{
		{"delegate", `{"namespace":"shop","path":"/svc"}`, " ,get shop", "200"},
		{"delegate", `{"namespace":"other","path":"/svc"}`, " ,get other", "403"},
		{"delegate", `{"path":"/svc"}`, " ,list ", "403"},
		{"delegate/shop", `{"namespace":"other","path":"/svc"}`, "get shop", "200"},
		{"delegate", `{`, " ", "400"},
	} {
		asked = nil
		got, _ := call(h, "POST", "/api/1/"+c.uri, c.body, "Content-Type", asJSON)
		if !strings.HasPrefix(got, c.want) || strings.Join(asked, ",") != c.asked {
			t.Errorf("%s %s: asked %q, %s", c.uri, c.body, asked, got)
		}
	}
}

func TestLargeBodies(t *testing.T) {
	h := namer.NewAPI(namer.APIConfig{Store: memory(t, nil), Registry: known(t, newSource()), Logger: quiet})
	const most = 1 << 20
	for _, uri := range []string{"PUT dtabs/shop", "POST dtabs/shop2", "POST plan/shop", "POST delegate"} {
		method, path, _ := strings.Cut(uri, " ")
		for _, size := range []int{most, most + 1} {
			for _, said := range []bool{true, false} {
				text := `[]` + strings.Repeat(" ", size-2)
				if path == "delegate" {
					text = `{"path":"/a"}` + strings.Repeat(" ", size-13)
				}
				r := httptest.NewRequest(method, "/api/1/"+path, strings.NewReader(text))
				r.Header.Set("Content-Type", asJSON)
				if !said {
					r.ContentLength = -1
				}
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				if tooLarge := w.Code == 413 && strings.Contains(w.Body.String(), "more than 1048576 bytes"); tooLarge != (size > most) {
					t.Errorf("%s of %d bytes, said %v: %d %.100s", uri, size, said, w.Code, w.Body)
				}
				call(h, "DELETE", "/api/1/dtabs/shop2", "")
			}
		}
	}
}

// A body that trickles is not waited for, be it read or not.
func TestSlowBodies(t *testing.T) {
	for _, c := range []struct{ name, request, want string }{
		{"read", "PUT /api/1/dtabs/shop", "408 Request Timeout"},
		{"chunked", "POST /api/1/plan/shop", "408 Request Timeout"},
		{"refused", "PUT /api/1/dtabs/other", "403 Forbidden"},
		{"not asked for", "PUT /elsewhere", "404 Not Found"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &network{}
				defer n.serve(namer.NewAPI(namer.APIConfig{
					Store: memory(t, map[string]string{"shop": ""}), Registry: known(t, newSource()), Logger: quiet,
					Authorize: func(_ *http.Request, _, namespace string) (string, error) {
						if namespace == "other" {
							return "", errors.New("no")
						}
						return "ann", nil
					},
				}))()
				conn, err := n.dial(t.Context(), "", "")
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				length := "Content-Length: 1000"
				if c.name == "chunked" {
					length = "Transfer-Encoding: chunked"
				}
				begin := time.Now()
				trickle := make(chan struct{})
				go func() {
					defer close(trickle)
					fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: namer\r\nContent-Type: application/dtab\r\n%s\r\n\r\n", c.request, length)
					for {
						drop := "/"
						if c.name == "chunked" {
							drop = "1\r\n/\r\n"
						}
						if _, err := io.WriteString(conn, drop); err != nil {
							return
						}
						time.Sleep(time.Second) // virtual
					}
				}()
				answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
				if err != nil {
					t.Fatal(err)
				}
				text, _ := io.ReadAll(answer.Body)
				if answer.Status != c.want || c.want[0] == '4' && c.want[2] == '8' && !strings.Contains(string(text), "within 10s") {
					t.Errorf("got %s: %s", answer.Status, text)
				}
				<-trickle // nobody listens any more
				if took := time.Since(begin); took > 12*time.Second {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}

// Nor over HTTP/2, where other requests share the connection.
func TestSlowBodiesInStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{}
		defer n.serve(namer.NewAPI(namer.APIConfig{Store: memory(t, map[string]string{"shop": ""}), Logger: quiet}))()
		transport := &http.Transport{DialContext: n.dial, Protocols: new(http.Protocols)}
		transport.Protocols.SetUnencryptedHTTP2(true)
		defer transport.CloseIdleConnections()
		for range 2 {
			begin := time.Now()
			body, slow := io.Pipe()
			r, err := http.NewRequestWithContext(t.Context(), "PUT", "http://namer"+shop, body)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", asDtab)
			go func() { _, _ = io.WriteString(slow, "/svc") }()
			answer, err := transport.RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			text, _ := io.ReadAll(answer.Body)
			answer.Body.Close()
			slow.Close()
			if took := time.Since(begin); answer.StatusCode != 408 || !strings.Contains(string(text), "within 10s") || took > 11*time.Second {
				t.Errorf("%s %s after %v", answer.Status, text, took)
			}
		}
		if n.dialled() != 1 {
			t.Errorf("%d connections", n.dialled())
		}
	})
}

// A stream is a request in virtual time.
type stream struct {
	w    *httptest.ResponseRecorder
	stop context.CancelFunc
	done chan struct{}
}

func (s *stream) ended() bool {
	synctest.Wait()
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

func open(t *testing.T, h http.Handler, uri, from string) *stream {
	ctx, cancel := context.WithCancel(t.Context())
	r := httptest.NewRequestWithContext(ctx, "GET", uri, nil)
	r.RemoteAddr = from + ":1234"
	s := &stream{httptest.NewRecorder(), cancel, make(chan struct{})}
	go func() { defer close(s.done); h.ServeHTTP(s.w, r) }()
	return s
}

// What somebody follows ends when the right to it is gone, and not when that cannot be found out.
func TestStreamsEndWithTheRight(t *testing.T) {
	for _, uri := range []string{"/api/1/dtabs?watch=true", "/api/1/dtabs/shop?watch=true", "/api/1/bind/shop?path=/svc&watch=true"} {
		for _, refusal := range []error{statusError(401), statusError(403), errors.New("no")} {
			synctest.Test(t, func(t *testing.T) {
				var says atomic.Pointer[error]
				var asked atomic.Int32
				store := memory(t, map[string]string{"shop": "/svc=>!"})
				h := namer.NewAPI(namer.APIConfig{Store: store, Registry: known(t, newSource()), Logger: quiet,
					Authorize: func(_ *http.Request, verb, _ string) (string, error) {
						asked.Add(1)
						if verb != "watch" {
							t.Errorf("asked for %q", verb)
						}
						if err := says.Load(); err != nil {
							return "", *err
						}
						return "ann", nil
					}})
				s := open(t, h, uri, "10.0.0.1")
				defer s.stop()
				time.Sleep(10 * time.Minute) // virtual
				if s.ended() || asked.Load() < 10 || asked.Load() > 11 {
					t.Fatalf("%s: ended %v, asked %d times", uri, s.ended(), asked.Load())
				}
				away := error(statusError(503))
				says.Store(&away)
				time.Sleep(10 * time.Minute) // virtual
				if s.ended() {
					t.Fatalf("%s: it ends because nobody can be asked", uri)
				}
				if _, err := store.Put(t.Context(), "shop", namer.Change{Dtab: dtab(t, "/svc=>~")}); err != nil {
					t.Fatal(err)
				}
				says.Store(&refusal)
				time.Sleep(time.Minute + time.Second) // virtual
				if !s.ended() || s.w.Code != 200 || s.w.Body.Len() == 0 {
					t.Errorf("%s after %v: ended %v, %d %s", uri, refusal, s.ended(), s.w.Code, s.w.Body)
				}
			})
		}
	}
}

// One caller follows so much and no more, and is told so; others are not held up.
func TestStreamsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		by := "ann"
		h := namer.NewAPI(namer.APIConfig{Store: memory(t, map[string]string{"shop": "/svc=>!"}), Registry: known(t, newSource()), Logger: quiet,
			MaxStreams: 2, Authorize: func(*http.Request, string, string) (string, error) { return by, nil }})
		var all []*stream
		expect := func(uri, from string, code int) *stream {
			t.Helper()
			s := open(t, h, uri, from)
			all = append(all, s)
			if refused := s.ended(); refused != (code != 200) || s.w.Code != code {
				t.Errorf("%s from %s: ended %v with %d %s", uri, from, refused, s.w.Code, s.w.Body)
			}
			if code == 429 && (s.w.Header().Get("Retry-After") != "10" || !strings.Contains(s.w.Body.String(), "has 2 streams open, the most that one caller may")) {
				t.Errorf("%v %s", s.w.Header(), s.w.Body)
			}
			return s
		}
		const names, shop, bind = "/api/1/dtabs?watch=true", "/api/1/dtabs/shop?watch=true", "/api/1/bind/shop?path=/svc&watch=true"
		first := expect(names, "10.0.0.1", 200)
		expect(bind, "10.0.0.1", 200)
		expect(shop, "10.0.0.1", 429)
		expect(bind, "10.0.0.1", 429)
		expect(names, "10.0.0.1", 429)
		if got, _ := call(h, "GET", "/api/1/dtabs/shop", ""); !strings.HasPrefix(got, "200") {
			t.Errorf("who has streams may not ask: %s", got)
		}
		expect(shop, "10.0.0.2", 200) // the same user elsewhere
		by = "bob"
		expect(shop, "10.0.0.1", 200) // another one there
		by = "ann"
		first.stop()
		if !first.ended() {
			t.Error("it does not end")
		}
		expect(shop, "10.0.0.1", 200)
		expect(shop, "10.0.0.1", 429)
		for _, s := range all {
			s.stop()
			<-s.done
		}
	})
}

// A proxy whose token is no good any more is let go of, and comes back with one that is.
func TestProxiesAreAdmittedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var good atomic.Value
		good.Store("first")
		var away atomic.Bool
		var hellos atomic.Int32
		n := &network{}
		defer n.serve(namer.NewStream(namer.StreamConfig{
			Store: memory(t, map[string]string{"default": ""}), Source: newSource(), Logger: quiet, MaxStreams: 1,
			Admit: func(r *http.Request) (namer.Guest, error) {
				switch {
				case away.Load():
					return namer.Guest{}, statusError(503)
				case r.Header.Get("Authorization") != "Bearer "+good.Load().(string):
					return namer.Guest{}, statusError(401)
				}
				return namer.Guest{Name: "shop/web/web-0", May: func(api.Hello) error { hellos.Add(1); return nil }}, nil
			},
		}))()
		var log logtest.Buffer
		c, stop := n.startWith(t, client.Config{URL: "http://namer:4181", Hello: sidecar, Logger: slog.New(slog.NewTextHandler(&log, nil)), Dial: n.dial,
			Token: func() (string, error) { return good.Load().(string), nil }})
		defer stop()
		<-c.Synced()
		time.Sleep(time.Hour) // virtual
		if asked := hellos.Load(); n.dialled() != 1 || asked < 4 || asked > 13 {
			t.Fatalf("%d connections, asked %d times", n.dialled(), asked)
		}
		away.Store(true)
		time.Sleep(time.Hour) // virtual
		if !c.Connected() || n.dialled() != 1 {
			t.Fatal("it ends because nobody can be asked")
		}
		away.Store(false)
		good.Store("second")
		time.Sleep(16 * time.Minute) // virtual
		if !c.Connected() || n.dialled() < 2 || n.dialled() > 3 {
			t.Fatalf("connected %v, %d connections", c.Connected(), n.dialled())
		}
		if text := log.String(); strings.Contains(text, "level=WARN") || strings.Count(text, "namer not connected") != n.dialled()-1 {
			t.Errorf("a proxy whose stream was ended says\n%s", text)
		}
	})
}

// A guest has so many streams, by name and address.
func TestGuestsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		name := "a"
		h := namer.NewStream(namer.StreamConfig{Store: memory(t, nil), Source: newSource(), Logger: quiet, MaxStreams: 2,
			Admit: func(*http.Request) (namer.Guest, error) { return namer.Guest{Name: name}, nil }})
		var got []int
		var all []*stream
		connect := func(from string) {
			ctx, cancel := context.WithCancel(t.Context())
			r := httptest.NewRequestWithContext(ctx, "POST", api.WatchPath, nil)
			body, lines := io.Pipe()
			r.Body, r.ProtoMajor, r.RemoteAddr = body, 2, from+":99"
			s := &stream{httptest.NewRecorder(), func() { cancel(); lines.Close() }, make(chan struct{})}
			all = append(all, s)
			go func() { defer close(s.done); h.ServeHTTP(s.w, r) }()
			go func() { _, _ = io.WriteString(lines, "{\"hello\":{}}\n") }()
			synctest.Wait()
			got = append(got, s.w.Code)
			if s.w.Code == 429 {
				body.Close()
				if s.w.Header().Get("Retry-After") != "10" || !strings.Contains(s.w.Body.String(), "a at 10.0.0.1 has 2 streams open") {
					t.Errorf("%v %s", s.w.Header(), s.w.Body)
				}
			}
		}
		connect("10.0.0.1")
		connect("10.0.0.1")
		connect("10.0.0.1")
		connect("10.0.0.2")
		name = "b"
		connect("10.0.0.1")
		if !slices.Equal(got, []int{200, 200, 429, 200, 200}) {
			t.Errorf("got %v", got)
		}
		for _, s := range all {
			s.stop()
			<-s.done
		}
	})
}
