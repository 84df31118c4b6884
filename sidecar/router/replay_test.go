package router_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/sidecar/router"
)

const allAgain = "responseClassifier: {kind: io.l5d.http.retryableAll5XX}"

// attempts records the bodies that arrive, and fails the first.
type attempts struct {
	mu     sync.Mutex
	bodies [][]byte
}

func (a *attempts) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		body = []byte(err.Error())
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.bodies = append(a.bodies, body)
	if len(a.bodies) == 1 {
		w.WriteHeader(500)
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.IntN(256))
	}
	return b
}

// A body no larger than the replay buffer is sent again as it was, whatever its
// framing; one that is larger goes only once.
func TestBodiesAreReplayed(t *testing.T) {
	for _, test := range []struct {
		words string
		limit int
	}{{"", 16 << 10}, {"server: {replayBufferKB: 2}", 2 << 10}, {"server: {replayBufferKB: 0}", 0}} {
		m := start(t, "service: {"+allAgain+"}", test.words)
		c := m.client(t)
		for _, framing := range []string{"fixed", "chunked"} {
			for _, size := range []int{1, 2<<10 - 1, 2 << 10, 2<<10 + 1, 5000, 16<<10 - 1, 16 << 10, 16<<10 + 1, 300_000} {
				a := &attempts{}
				m.table.service("world", backend(t, a.ServeHTTP), backend(t, a.ServeHTTP))
				want := random(size)
				var body io.Reader = bytes.NewReader(want)
				if framing == "chunked" {
					body = io.MultiReader(body) // of a length that nobody knows
				}
				res, _ := do(t, c, "POST", "http://world/", body)
				status, n := 500, 1
				if size <= test.limit {
					status, n = 200, 2
				}
				if res.StatusCode != status || len(a.bodies) != n {
					t.Errorf("limit %d, %s, %d bytes: %d after %d attempts, want %d after %d",
						test.limit, framing, size, res.StatusCode, len(a.bodies), status, n)
				}
				for i, got := range a.bodies {
					if !bytes.Equal(got, want) {
						t.Errorf("limit %d, %s, %d bytes: attempt %d got %d other ones", test.limit, framing, size, i+1, len(got))
					}
				}
			}
		}
	}
}

// impatient answers as soon as it has seen the head, and reads nothing more.
func impatient(w http.ResponseWriter, status int) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	_, _ = fmt.Fprintf(rw, "HTTP/1.1 %d Whatever\r\nContent-Length: 0\r\n\r\n", status)
	_ = rw.Flush()
	_, _ = io.Copy(io.Discard, conn) // else closing would reset the connection
	_ = conn.Close()
}

// A failure that comes while the body is still on its way is followed by another
// attempt, with what has arrived and then with the rest.
func TestFailureDuringUpload(t *testing.T) {
	for name, pieces := range map[string][]string{
		"fixed":             {"Content-Length: 6\r\nExpect: 100-continue\r\n\r\n", "abcdef"},
		"fixed, large":      {"Content-Length: 20000\r\n\r\nabc", strings.Repeat("d", 19997)},
		"chunked":           {"Transfer-Encoding: chunked\r\n\r\n", "6\r\nabcdef\r\n0\r\n\r\n"},
		"in a chunk":        {"Transfer-Encoding: chunked\r\n\r\n6\r\nabc", "def\r\n0\r\n\r\n"},
		"in a size":         {"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0", "03\r\ndef\r\n0\r\n\r\n"},
		"before the end":    {"Transfer-Encoding: chunked\r\n\r\n6\r\nabcdef\r\n0\r\n", "X-Trailer: 1\r\n\r\n"},
		"after a chunk's":   {"Transfer-Encoding: chunked\r\n\r\n6\r\nabcdef\r", "\n0\r\n\r\n"},
		"in the trailer":    {"Transfer-Encoding: chunked\r\n\r\n6\r\nabcdef\r\n0\r\nX-Tra", "iler: 1\r\n\r\n"},
		"nothing but a bit": {"Transfer-Encoding: chunked\r\n\r\n1", "\r\na\r\n5\r\nbcdef\r\n0\r\n\r\n"},
	} {
		m := start(t, "service: {"+allAgain+"}")
		began, got := make(chan struct{}), make(chan string, 1)
		var seen atomic.Int64
		m.table.service("world", backend(t, func(w http.ResponseWriter, r *http.Request) {
			if seen.Add(1) == 1 {
				impatient(w, 500)
				return
			}
			close(began)
			b, err := io.ReadAll(r.Body)
			got <- fmt.Sprint(string(b), err)
			_, _ = io.WriteString(w, "fine")
		}))
		c := m.talk(t)
		c.say("POST / HTTP/1.1\r\nHost: world\r\n" + pieces[0])
		select {
		case <-began:
		case <-time.After(10 * time.Second):
			t.Errorf("%s: there is no second attempt", name)
			continue
		}
		c.say(pieces[1])
		want := "abcdef<nil>"
		if name == "fixed, large" {
			want = "abc" + pieces[1] + "<nil>"
		}
		if text := <-got; text != want {
			t.Errorf("%s: the second endpoint got %.100q", name, text)
		}
		if res, body := c.answer("POST"); res.StatusCode != 200 || body != "fine" {
			t.Errorf("%s: %d %q", name, res.StatusCode, body)
		}
	}
}

// A large body that fails half-way is not sent again, and the failure is passed
// on while the client still sends.
func TestFailureDuringLargeUpload(t *testing.T) {
	m := start(t, "service: {"+allAgain+"}")
	m.table.service("world", backend(t, func(w http.ResponseWriter, _ *http.Request) { impatient(w, 503) }))
	c := m.talk(t)
	c.say("POST / HTTP/1.1\r\nHost: world\r\nContent-Length: 10000000\r\n\r\n" + strings.Repeat("x", 100_000))
	if res, _ := c.answer("POST"); res.StatusCode != 503 || res.Header.Get("tulle-code") != "" {
		t.Errorf("got %d %v", res.StatusCode, res.Header)
	}
	if n := m.count(t, "tulle_retries_total"); n != 0 {
		t.Errorf("%v retries are counted", n)
	}
}

// A client that goes away in the middle of its body ends the request, and the
// backend does not take what it got for a whole.
func TestClientLeavesDuringUpload(t *testing.T) {
	m := start(t)
	got := make(chan error, 1)
	began := make(chan struct{})
	m.table.service("world", backend(t, func(_ http.ResponseWriter, r *http.Request) {
		close(began)
		_, err := io.ReadAll(r.Body)
		got <- err
	}))
	c := m.talk(t)
	c.say("POST / HTTP/1.1\r\nHost: world\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
	<-began
	_ = c.Close()
	if err := <-got; !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the backend saw the end of the body as %v", err)
	}
}

// A failure that might be sent again, if the budget had anything left, is passed on
// whole though the client still sends.
func TestFinalFailureDuringUpload(t *testing.T) {
	virtual(t, "service: {"+allAgain+", retries: {budget: {minRetriesPerSec: 0, percentCanRetry: 0}}}", func(t *testing.T, m *mesh) {
		proceed := make(chan struct{})
		m.table.service("world", m.early(t, 503, proceed))
		c := m.talk(t)
		c.say("POST http://world/ HTTP/1.1\r\nHost: world\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
		c.early(503, proceed, func() {})
	})
}

// early is a backend that answers once it has a request's head, with a body that
// it sends later.
func (m *mesh) early(t *testing.T, status int, proceed <-chan struct{}) string {
	ln := m.network.listen(t)
	serveRaw(t, ln, func(conn net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err != nil {
			return
		}
		go func() { _, _ = io.Copy(io.Discard, r) }()
		_, _ = fmt.Fprintf(conn, "HTTP/1.1 %d Whatever\r\nContent-Length: 5\r\n\r\n", status)
		<-proceed
		_, _ = io.WriteString(conn, "sorry")
	})
	return ln.Addr().String()
}

// early reads the answer of an early backend, and acts in its midst.
func (c *talk) early(status int, proceed chan struct{}, act func()) {
	c.t.Helper()
	res, err := http.ReadResponse(c.r, nil)
	if err != nil || res.StatusCode != status {
		c.t.Fatal(res, err)
	}
	act()
	synctest.Wait()
	close(proceed)
	if body, err := io.ReadAll(res.Body); err != nil || string(body) != "sorry" {
		c.t.Errorf("got %q, %v", body, err)
	}
}

// A client that has seen the head of an early answer may break its body off, in
// whatever way: the answer goes on.
func TestEarlyAnswerOutlivesTheBody(t *testing.T) {
	for name, act := range map[string]func(c *talk, router *ending){
		"half-closed": func(_ *talk, router *ending) { router.end() },
		"malformed":   func(c *talk, _ *ending) { c.say("zz\r\n") },
	} {
		synctest.Test(t, func(t *testing.T) {
			n := &endings{memory: &memory{listeners: map[string]*pipes{}}}
			m := startOn(t, n, router.OutgoingConfig{Grace: time.Second})
			proceed := make(chan struct{})
			m.table.service("world", m.early(t, 413, proceed))
			c := m.talk(t)
			c.say("POST http://world/ HTTP/1.1\r\nHost: world\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
			c.early(413, proceed, func() { act(c, n.first.Load()) })
			if t.Failed() {
				t.Log(name)
			}
		})
	}
}

// endings is a network whose clients can close their side alone.
type endings struct {
	*memory
	first atomic.Pointer[ending] // that was accepted
}

func (n *endings) listen(t *testing.T) net.Listener { return &accepting{n.memory.listen(t), n} }

type accepting struct {
	net.Listener
	n *endings
}

func (l *accepting) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	e := &ending{Conn: conn}
	l.n.first.CompareAndSwap(nil, e)
	return e, nil
}

// ending is an accepted connection.
type ending struct {
	net.Conn
	ended atomic.Bool
}

// end makes it look as if the client had closed its side.
func (e *ending) end() {
	e.ended.Store(true)
	_ = e.SetReadDeadline(time.Unix(1, 0))
}

func (e *ending) Read(b []byte) (int, error) {
	if !e.ended.Load() {
		if n, err := e.Conn.Read(b); err == nil || !e.ended.Load() {
			return n, err
		}
	}
	return 0, io.EOF
}

// A body that outgrows what can be kept, just as the endpoint fails, arrives whole or
// not at all.
func TestNoBodyArrivesInPart(t *testing.T) {
	m := start(t, "service: {"+allAgain+", retries: {budget: {minRetriesPerSec: 100000}}}")
	const piece, pieces = 2 << 10, 30
	m.table.service("world", rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			if rand.IntN(2) == 0 {
				_, _ = io.WriteString(conn, "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
				_, _ = io.Copy(io.Discard, req.Body)
				return
			}
			if b, err := io.ReadAll(req.Body); err == nil && len(b) != piece*pieces {
				t.Errorf("%d bytes of %d are taken for the whole", len(b), piece*pieces)
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
	}))
	for range 100 {
		c := m.talk(t)
		var wg sync.WaitGroup
		wg.Go(func() {
			_, _ = io.WriteString(c, "POST http://world/ HTTP/1.1\r\nHost: world\r\nTransfer-Encoding: chunked\r\n\r\n")
			for range pieces {
				if _, err := fmt.Fprintf(c, "%x\r\n%s\r\n", piece, strings.Repeat("x", piece)); err != nil {
					return
				}
			}
			_, _ = io.WriteString(c, "0\r\n\r\n")
		})
		_, _ = http.ReadResponse(c.r, nil)
		wg.Wait()
		_ = c.Close()
	}
}

// Who goes on with a body whose answer is complete has two seconds for it, however
// it comes.
func TestTricklingUploadIsCut(t *testing.T) {
	virtual(t, "", func(t *testing.T, m *mesh) {
		cut := make(chan time.Time, 1)
		ln := m.network.listen(t)
		serveRaw(t, ln, func(conn net.Conn, r *bufio.Reader) {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			go func() { _, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") }()
			_, _ = io.Copy(io.Discard, req.Body)
			cut <- time.Now()
		})
		m.table.service("world", ln.Addr().String())
		c := m.talk(t)
		c.say("POST http://world/ HTTP/1.1\r\nHost: world\r\nContent-Length: 1000000\r\n\r\n")
		began := time.Now()
		c.answer("POST")
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				if _, err := io.WriteString(c, "x"); err != nil {
					return
				}
				time.Sleep(300 * time.Millisecond) // virtual
			}
		})
		if took := (<-cut).Sub(began); took != 2*time.Second {
			t.Errorf("given up after %s", took)
		}
		_ = c.Close()
		wg.Wait()
	})
}
