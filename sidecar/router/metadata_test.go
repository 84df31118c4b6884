package router_test

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"testing"

	"github.com/tulle-mesh/tulle/internal/metadata"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/sidecar/router"
)

// refuse makes a host lead to metadata, which the router's DNS does not follow.
func (m *mesh) refuse(host, port string) {
	err := metadata.Refuse(netip.MustParseAddr("169.254.169.254"))
	m.table.value("/$/inet/" + host + "/" + port).Set(naming.Replicas{State: naming.StateFailed, Cause: err.Error()})
}

// refusesMetadata is a network whose addresses of metadata nobody may dial.
type refusesMetadata struct{ network }

func (n refusesMetadata) dial(ctx context.Context, address string) (net.Conn, error) {
	if err := metadata.Refuse(netip.MustParseAddrPort(address).Addr()); err != nil {
		return nil, err
	}
	return n.network.dial(ctx, address)
}

// A proxy does not ask for a cloud's metadata, whichever way it is led there.
func TestMetadataIsRefused(t *testing.T) {
	m := startOn(t, refusesMetadata{newLoopback(t)}, router.OutgoingConfig{})
	for _, host := range []string{"169.254.169.254", "metadata.google.internal", "::ffff:169.254.169.254", "innocent.example.org"} {
		m.refuse(host, "80")
		m.refuse(host, "443")
	}
	for _, url := range []string{
		"http://169.254.169.254/latest/meta-data", "http://metadata.google.internal/computeMetadata/v1/", "http://[::ffff:169.254.169.254]/",
		"http://innocent.example.org/", "http://innocent.example.org:443/",
	} {
		if res, body := get(t, m.client(t), url); res.StatusCode != 403 || res.Header.Get("tulle-code") != "T205" {
			t.Errorf("%s: %d %s", url, res.StatusCode, body)
		}
	}
	for _, target := range []string{"169.254.169.254:443", "169.254.169.254:80", "metadata.google.internal:443", "[::ffff:169.254.169.254]:443", "innocent.example.org:443"} {
		if _, res := m.connect(t, target); res.StatusCode != 403 || res.Header.Get("tulle-code") != "T205" {
			t.Errorf("CONNECT %s: %d %v", target, res.StatusCode, res.Header)
		}
	}
	m.table.service("sly", "168.63.129.16:80") // which Kubernetes lets anybody make an endpoint
	if res, body := get(t, m.client(t), "http://sly/"); res.StatusCode != 403 || res.Header.Get("tulle-code") != "T205" {
		t.Errorf("an endpoint: %d %s", res.StatusCode, body)
	}
	if n := m.count(t, "tulle_errors_total", "code", "T205"); n != 11 {
		t.Errorf("%v refusals are counted, want 11", n)
	}
	m.table.service("world", backend(t, func(http.ResponseWriter, *http.Request) {}))
	if res, body := get(t, m.client(t), "http://world/"); res.StatusCode != 200 {
		t.Errorf("another name: %d %s", res.StatusCode, body)
	}
}
