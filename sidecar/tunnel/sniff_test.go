package tunnel

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestSniff(t *testing.T) {
	long := strings.Repeat("x", MaxSniff)
	for _, test := range []struct {
		first string
		want  Kind
	}{
		{"", NeedMore},
		{"G", NeedMore},
		{"GET", NeedMore},
		{"GET ", NeedMore},
		{"GET /x HTTP/1.1", NeedMore},
		{"GET /x HTTP/1.1\r", NeedMore},
		{"GET /x HTTP/1.1\r\n", HTTP1},
		{"GET /x HTTP/1.0\nHost: a", HTTP1},
		{"CONNECT db:5432 HTTP/1.1\r\n", HTTP1},
		{"OPTIONS * HTTP/1.1\r\n", HTTP1},
		{"brew!# http://pot/ HTTP/1.1\r\n", HTTP1},
		{"\r\nGET / HTTP/1.1\r\n", HTTP1},
		{"\r\n", NeedMore},
		{"\r", NeedMore},
		{"\rGET / HTTP/1.1\r\n", Unknown},
		{"GET / HTTP/9.9\r\n", HTTP1}, // for the codec to refuse
		{"GET /a b HTTP/1.1\r\n", HTTP1},
		{"GET /" + long, HTTP1},
		{"GET /\r\n", Unknown}, // HTTP/0.9
		{"GET /x HTTP/1.1.\r\n", Unknown},
		{"GET /xHTTP/1.1\r\n", Unknown},
		{" GET / HTTP/1.1\r\n", Unknown},
		{"GET\t/ HTTP/1.1\r\n", Unknown},
		{"GET /\x00", Unknown},
		{"GET /\xff", Unknown},
		{strings.Repeat("A", 32), NeedMore},
		{strings.Repeat("A", 33), Unknown},
		{"HTTP/1.1 200 OK\r\n", Unknown},

		{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", HTTP2},
		{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x12", HTTP2},
		{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", NeedMore},
		{"PRI * HTTP/2.0\r\n\r\nSM\r\nX", HTTP1},

		{"SSH-2.0-OpenSSH_9.6p1 Ubuntu-3ubuntu13.5\r\n", Unknown},
		{"SSH-2.0-Go\r\n", Unknown},
		{"EHLO host.example\r\n", Unknown},
		{"USER anonymous\r\n", Unknown},
		{"*1\r\n$4\r\nPING\r\n", Unknown},
		{"get /key\r\n", Unknown},
		{"\x00\x03\x00\x00user\x00postgres\x00", Unknown},
		{"\x80\x2e\x01\x03\x01", Unknown}, // SSL 2
		{"{\"id\": 1}\n", Unknown},

		{"\x16", NeedMore},
		{"\x16\x03", NeedMore},
		{"\x16\x03\x01\x00", NeedMore},
		{"\x16\x03\x01\x00\x00", Unknown},
		{"\x16\x02", Unknown},
		{"\x16\x03\x09", Unknown},
		{"\x16\x03\x01\xff\xff", Unknown},
		{"\x16\x03\x01\x00\x10\x02", Unknown},             // a ServerHello
		{"\x16\x03\x01\x00\x04\x01\x00\x00\x00", Unknown}, // an empty ClientHello
		{"\x16\x03\x01\x40\x00\x01\x00\x80\x00" + long, TLS},
		{"\x16\x03\x01\x00\x01\x01\x17", Unknown}, // another kind of record inside
	} {
		if got, name := Sniff([]byte(test.first)); got != test.want || name != nil {
			t.Errorf("%.60q is %s for %q, want %s", test.first, got, name, test.want)
		}
	}
}

// hello returns what a client of crypto/tls says first.
func hello(t testing.TB, cfg *tls.Config) []byte {
	t.Helper()
	client, server := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = tls.Client(client, cfg).Handshake()
	}()
	b := make([]byte, MaxSniff)
	_ = server.SetReadDeadline(time.Now().Add(10 * time.Second))
	n, err := io.ReadAtLeast(server, b, 5)
	if err == nil {
		n += must(io.ReadFull(server, b[n:max(n, 5+int(b[3])<<8+int(b[4]))]))
	}
	_ = server.Close()
	<-done
	if err != nil {
		t.Fatal(err)
	}
	return b[:n]
}

func must(n int, _ error) int { return n }

// records spreads what is in one TLS record over records of n bytes.
func records(one []byte, n int) []byte {
	var all []byte
	for rest := one[5:]; len(rest) > 0; {
		part := rest[:min(n, len(rest))]
		all = append(all, one[0], one[1], one[2], byte(len(part)>>8), byte(len(part)))
		all = append(all, part...)
		rest = rest[len(part):]
	}
	return all
}

func TestSniffTLS(t *testing.T) {
	for _, test := range []struct {
		cfg  *tls.Config
		want string
	}{
		{&tls.Config{ServerName: "cart.shop.example"}, "cart.shop.example"},
		{&tls.Config{ServerName: "A-b_c.Example", MaxVersion: tls.VersionTLS12}, "A-b_c.Example"},
		{&tls.Config{ServerName: "x.example", NextProtos: []string{"h2", "http/1.1"}}, "x.example"},
		{&tls.Config{InsecureSkipVerify: true}, ""},
		{&tls.Config{ServerName: "10.0.0.1"}, ""},
	} {
		one := hello(t, test.cfg)
		for _, first := range [][]byte{one, records(one, 3), records(one, 100), append(bytes.Clone(one), "early data"...)} {
			if kind, name := Sniff(first); kind != TLS || string(name) != test.want {
				t.Errorf("the ClientHello for %q is %s for %q", test.want, kind, name)
			}
		}
		if kind, name := Sniff(records(one, 1)); kind != TLS || name != nil && string(name) != test.want {
			t.Errorf("the ClientHello for %q in records of a byte is %s for %q", test.want, kind, name)
		}
		for n := range one {
			if kind, _ := Sniff(one[:n]); kind != NeedMore {
				t.Fatalf("%d of %d bytes of a ClientHello are %s", n, len(one), kind)
			}
		}
		if n := testing.AllocsPerRun(10, func() { Sniff(one) }); n != 0 {
			t.Errorf("Sniff allocates %v times", n)
		}
	}
}

// said is a connection on which a peer has said something and waits.
type said struct {
	net.Conn
	r io.Reader
}

func (s said) Read(p []byte) (int, error)  { return s.r.Read(p) }
func (s said) Write(p []byte) (int, error) { return len(p), nil }

var errSeen = errors.New("seen")

// reference asks crypto/tls whether it reads a ClientHello, and for whom.
func reference(first []byte) (name string, ok bool) {
	cfg := &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		name, ok = hello.ServerName, true
		return nil, errSeen
	}}
	_ = tls.Server(said{r: bytes.NewReader(first)}, cfg).Handshake()
	return name, ok
}

func FuzzSniff(f *testing.F) {
	one := hello(f, &tls.Config{ServerName: "cart.shop.example"})
	for _, seed := range [][]byte{
		one, records(one, 7), hello(f, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}),
		[]byte("GET /x?y=1 HTTP/1.1\r\nHost: a\r\n\r\n"), []byte("\r\nPOST http://a/ HTTP/1.0\r\n\r\n"),
		[]byte(preface), []byte("SSH-2.0-OpenSSH_9.6p1 Ubuntu-3\r\n"), []byte("CONNECT a:1 HTTP/1.1\n\n"),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, first []byte) {
		if len(first) > MaxSniff+10 {
			return // the prefixes below would take for ever
		}
		kind, name := Sniff(first)
		if len(first) >= MaxSniff && kind == NeedMore {
			t.Fatalf("%d bytes are not enough", len(first))
		}
		if name != nil && (kind != TLS || !isHost(name)) {
			t.Fatalf("%s for %q", kind, name)
		}
		// An answer stays true whatever comes after.
		early := NeedMore
		for n := range first {
			at, _ := Sniff(first[:n])
			if early != NeedMore && at != early {
				t.Fatalf("%q is %s after %s", first[:n], at, early)
			}
			early = at
		}
		if early != NeedMore && kind != early {
			t.Fatalf("%q is %s after %s", first, kind, early)
		}
		if len(first) >= MaxSniff {
			return
		}
		// Whatever others read as a request or as a ClientHello is one for us.
		if req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(first))); err == nil &&
			isASCII(first) && len(req.Method) <= maxMethod && req.Method != "PRI" && kind != HTTP1 {
			t.Errorf("net/http reads %q, a request to it, as a request; Sniff says %s", first, kind)
		}
		if want, ok := reference(first); ok && isHost([]byte(want)) && (kind != TLS || string(name) != want) {
			t.Errorf("crypto/tls reads a ClientHello for %q; Sniff says %s for %q", want, kind, name)
		}
	})
}

func isASCII(b []byte) bool {
	for _, c := range b {
		if c >= 0x7f || c < ' ' && c != '\r' && c != '\n' {
			return false
		}
	}
	return true
}

func BenchmarkSniff(b *testing.B) {
	for name, first := range map[string][]byte{
		"HTTP": []byte("GET /some/path/or/other?x=1 HTTP/1.1\r\nHost: cart\r\n\r\n"),
		"TLS":  hello(b, &tls.Config{ServerName: "cart.shop.example"}),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Sniff(first)
			}
		})
	}
}
