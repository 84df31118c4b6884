package main

import (
	"crypto/tls"
	"net"
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What both ends of a WebSocket here think of the protocol fits, and so what
// fails in the mesh is the mesh's.
func TestWebSocketWithoutProxy(t *testing.T) {
	server := httptest.NewServer(newApp("echo", tls.Certificate{}))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	conn, err := net.Dial("tcp", host)
	if err != nil {
		t.Fatal(err)
	}
	if err := (&caller{host: host}).converse(t.Context(), conn, "/ws"); err != nil {
		t.Error(err)
	}
}

// The example of RFC 6455, section 1.3.
func TestAccept(t *testing.T) {
	if got := acceptOf("dGhlIHNhbXBsZSBub25jZQ=="); got != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		t.Errorf("got %s", got)
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{nil, {"serve"}, {"call", "echo"}, {"other"}} {
		if err := command(t.Context(), args); err == nil || !strings.HasPrefix(err.Error(), "usage: ") {
			t.Errorf("%q: %v", args, err)
		}
	}
}
