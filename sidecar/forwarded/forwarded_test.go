package forwarded

import (
	"net/netip"
	"regexp"
	"strings"
	"testing"
)

func hop(local, remote string) *Hop {
	h := &Hop{Router: "outgoing", Connection: [2]uint64{7, 8}, Host: []byte("cart")}
	h.Local, _ = netip.ParseAddrPort(local)
	h.Remote, _ = netip.ParseAddrPort(remote)
	return h
}

func TestLabels(t *testing.T) {
	for _, test := range []struct {
		kind          Kind
		local, remote string
		want          string
	}{
		{IP, "192.0.2.1:4140", "192.0.2.7:51000", `by=192.0.2.1;for=192.0.2.7;host=cart`},
		{IP, "[2001:db8::1]:4140", "[2001:db8::7]:51000", `by="[2001:db8::1]";for="[2001:db8::7]";host=cart`},
		{IP, "[::ffff:192.0.2.1]:4140", "[fe80::7%eth0]:51000", `by=192.0.2.1;for="[fe80::7]";host=cart`},
		{IP, "192.0.2.1:4140", "", `by=192.0.2.1;for=unknown;host=cart`},
		{IPPort, "192.0.2.1:4140", "[2001:db8::7]:51000", `by="192.0.2.1:4140";for="[2001:db8::7]:51000";host=cart`},
		{IPPort, "", "[::ffff:192.0.2.7]:51000", `by=unknown;for="192.0.2.7:51000";host=cart`},
		{Router, "", "", `by=_outgoing;for=_outgoing;host=cart`},
	} {
		l := Labels{Label{Kind: test.kind}, Label{Kind: test.kind}}
		if got := string(l.AppendTo([]byte("x"), hop(test.local, test.remote))); got != "x"+test.want {
			t.Errorf("kind %d: %s, want %s", test.kind, got, test.want)
		}
	}
	l := Labels{By: Label{Kind: Static, Text: "edge-1.a_B"}, For: Label{Kind: IP}}
	if got := string(l.AppendTo(nil, hop("", "192.0.2.7:1"))); got != "by=_edge-1.a_B;for=192.0.2.7;host=cart" {
		t.Errorf("static: %s", got)
	}
}

// Whatever a router is called, its label is one that RFC 7239 allows.
func TestText(t *testing.T) {
	for name, want := range map[string]string{
		"outgoing": "outgoing", "a.B_c-9": "a.B_c-9", "b 3;for=evil": "b-3-for-evil", "a\"\r\n\x00": "a----", "zürich": "z--rich", "": "-",
	} {
		if got := Text(name); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}

func TestHostAndProto(t *testing.T) {
	l := Labels{Label{Kind: Router}, Label{Kind: Router}}
	for host, want := range map[string]string{
		"":               "",
		"cart":           ";host=cart",
		"cart.shop:8080": `;host="cart.shop:8080"`,
		"[2001:db8::1]":  `;host="[2001:db8::1]"`,
		`a"b\c`:          `;host="a\"b\\c"`,
	} {
		got := l.AppendTo(nil, &Hop{Router: "r", Host: []byte(host)})
		if string(got) != "by=_r;for=_r"+want {
			t.Errorf("host %q: %s", host, got)
		}
	}
	if got := string(l.AppendTo(nil, &Hop{Router: "r", HTTPS: true})); got != "by=_r;for=_r;proto=https" {
		t.Errorf("https: %s", got)
	}
}

func TestRandom(t *testing.T) {
	pattern := regexp.MustCompile(`^by=(_[A-Za-z0-9._-]+);for=(_[A-Za-z0-9._-]+);host=cart$`)
	ends := func(l *Labels, h *Hop) (string, string) {
		t.Helper()
		m := pattern.FindStringSubmatch(string(l.AppendTo(nil, h)))
		if m == nil {
			t.Fatalf("%s is not obfuscated", l.AppendTo(nil, h))
		}
		return m[1], m[2]
	}
	h := hop("192.0.2.1:4140", "192.0.2.7:51000")
	var each Labels
	by, from := ends(&each, h)
	if again, other := ends(&each, h); by == from || by == again || from == other {
		t.Error("two requests have one label")
	}
	fixed := Labels{Label{Kind: ConnectionRandom}, Label{Kind: ConnectionRandom}}
	by, from = ends(&fixed, h)
	again, other := ends(&fixed, h)
	if by == from || by != again || from != other {
		t.Errorf("on one connection %s and %s became %s and %s", by, from, again, other)
	}
	h.Connection = [2]uint64{9, 10}
	if again, other := ends(&fixed, h); by == again || from == other {
		t.Error("two connections have one label")
	}
}

func TestAllocations(t *testing.T) {
	b, h := make([]byte, 0, 256), hop("[2001:db8::1]:4140", "[2001:db8::7]:51000")
	for kind := RequestRandom; kind <= Static; kind++ {
		l := Labels{Label{Kind: kind, Text: "a"}, Label{Kind: kind, Text: "a"}}
		if n := testing.AllocsPerRun(100, func() { b = l.AppendTo(b[:0], h) }); n != 0 {
			t.Errorf("kind %d: %v allocations", kind, n)
		}
	}
}

// element is RFC 7239, section 4, for the parameters we write.
var element = regexp.MustCompile(`^by=(unknown|_[A-Za-z0-9._-]+|[0-9.]+|"[^"]+");for=(unknown|_[A-Za-z0-9._-]+|[0-9.]+|"[^"]+")` +
	`(;host=([!#$%&'*+.^_|~0-9A-Za-z` + "`" + `-]+|"(\\["\\]|[^"\\])*"))?(;proto=https)?$`)

func FuzzElement(f *testing.F) {
	f.Add("cart:80", "outgoing", uint8(1), uint8(2), []byte{1, 2, 3, 4}, true)
	f.Add(`"\;,`, "b 3;for=evil", uint8(4), uint8(2), make([]byte, 16), false)
	f.Fuzz(func(t *testing.T, host, router string, by, from uint8, ip []byte, https bool) {
		if strings.ContainsAny(host, "\r\n") {
			t.Skip("no head holds such a host")
		}
		addr, _ := netip.AddrFromSlice(ip)
		end := netip.AddrPortFrom(addr, 1)
		l := Labels{Label{Kind(by % 6), "x"}, Label{Kind(from % 6), "y"}}
		got := l.AppendTo(nil, &Hop{Local: end, Remote: end, Router: Text(router), Host: []byte(host), HTTPS: https})
		if !element.Match(got) {
			t.Fatalf("%q for host %q and router %q", got, host, router)
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	var l Labels
	h, value := hop("192.0.2.1:4140", "192.0.2.7:51000"), make([]byte, 0, 256)
	b.ReportAllocs()
	for b.Loop() {
		value = l.AppendTo(value[:0], h)
	}
}
