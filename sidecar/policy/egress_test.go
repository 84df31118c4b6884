package policy

import (
	"net/netip"
	"strings"
	"testing"
)

func allowing(t testing.TB, list string) *Egress {
	t.Helper()
	p, err := Parse("f", []byte("egress: {allow: "+list+"}"))
	if err != nil {
		t.Fatal(err)
	}
	return p.Egress
}

func TestEgress(t *testing.T) {
	e := allowing(t, `[api.Example.com, "*.example.org", "*.test:443", db.test:5432, 10.0.0.0/8, "2001:db8::/32", 192.0.2.7, "[2001:db9::1]:443", 192.0.2.8:8443]`)
	for name, want := range map[string]bool{
		"api.example.com": true, "API.EXAMPLE.COM": true, "api.example.com.": true, "x.api.example.com": false, "example.com": false, "evilapi.example.com": false,
		"a.example.org": true, "a.b.example.org": true, "example.org": false, "evilexample.org": false, ".example.org": false,
		"x.test": false, "db.test": false, "10.0.0.1": false, "": false, ".": false, "api.example.com.evil.net": false,
	} {
		if got := e.Host(name, 80); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
	for name, want := range map[string]bool{"x.test": true, "test": false, "db.test": true} {
		port := uint16(443)
		if got := e.Host(name, port); got != want {
			t.Errorf("%q at %d: %v", name, port, got)
		}
	}
	if !e.Host("db.test", 5432) || !e.Addresses() {
		t.Error("a host at its port, or networks, are not allowed")
	}
	for address, want := range map[string]bool{
		"10.1.2.3:80": true, "[::ffff:10.1.2.3]:80": true, "11.0.0.1:80": false, "[2001:db8::5]:1": true, "[2001:db9::1]:443": true, "[2001:db9::1]:80": false,
		"192.0.2.7:1": true, "192.0.2.8:8443": true, "192.0.2.8:443": false, "192.0.2.9:8443": false,
	} {
		if got := e.Address(netip.MustParseAddrPort(address)); got != want {
			t.Errorf("%s: %v", address, got)
		}
	}
	if none := allowing(t, "[]"); none == nil || none.Addresses() || none.Host("a", 1) || none.Address(netip.MustParseAddrPort("10.0.0.1:1")) {
		t.Errorf("an empty list allows something: %+v", none)
	}
	if hosts := allowing(t, "[a.test]"); hosts.Addresses() {
		t.Error("a host is a network")
	}
	if p, err := Parse("f", nil); err != nil || p.Egress != nil {
		t.Errorf("without the key there is a list: %v", err)
	}
}

func TestEgressRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"egress: {}":                                     "f:1: egress.allow is not set; [] allows nothing outside",
		"egress:":                                        "f:1: egress: it has no value",
		"egress: [a.test]":                               "f:1: egress: it must hold keys and values",
		"egress: {alow: []}":                             "did you mean allow?",
		"egress: {allow: a.test}":                        "f:1: egress.allow: it must be a list",
		"egress:\n  allow:\n  - 443":                     "f:3: egress.allow[0]: 443 is not text but read as a number; quotes make it text",
		"egress:\n  allow:\n  - a.test\n  - ''":          `f:4: egress.allow[1]: "" is no host; an entry is`,
		"egress: {allow: ['*']}":                         `"*" is every name; leave egress out`,
		"egress: {allow: ['https://a.test/']}":           `is a URL; an entry is a host (api.example.com)`,
		"egress: {allow: ['*example.org']}":              `is no host`,
		"egress: {allow: [.example.org]}":                `is no host`,
		"egress: {allow: ['a.*.org']}":                   `is no host`,
		"egress: {allow: ['a b']}":                       `is no host`,
		"egress: {allow: [a..test]}":                     `is no host`,
		"egress: {allow: [10.0.0]}":                      `"10.0.0" ends like an address and is none`,
		"egress: {allow: [10.0.0.0/33]}":                 `is no network`,
		"egress: {allow: [10.1.0.0/8]}":                  `has bits behind its first 8; write 10.0.0.0/8`,
		"egress: {allow: ['::ffff:10.0.0.0/104']}":       `write it as one of IPv4`,
		"egress: {allow: [10.0.0.0/8:443]}":              `is no network`,
		"egress: {allow: ['a.test:0']}":                  `has the port "0"`,
		"egress: {allow: ['a.test:http']}":               `has the port "http"`,
		"egress: {allow: ['fe80::1%eth0']}":              `has a zone`,
		"egress: {allow: ['[2001:db8::1]']}":             `is no host and no address`,
		"egress: {allow: [a.test]}\negress: {allow: []}": "egress is set twice",
	} {
		if _, err := Parse("f", []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// What is shown can be read again.
func TestEgressIsShown(t *testing.T) {
	for _, list := range []string{"[]", `["*.example.org:443",10.0.0.0/8]`} {
		p, err := Parse("f", []byte("egress: {allow: "+list+"}"))
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse("f", []byte(p.String()))
		if err != nil || again.Egress == nil || strings.Join(again.Egress.Allow, " ") != strings.Join(p.Egress.Allow, " ") {
			t.Errorf("%s: %v\n%s", list, err, p)
		}
	}
	if strings.Contains(Default().String(), "egress") {
		t.Error("the default policy shows a list")
	}
}

// No entry is taken that allows another host than one it is part of.
func FuzzEgress(f *testing.F) {
	for _, entry := range []string{"api.example.com", "*.example.org:443", "10.0.0.0/8", "[::1]:80", "*.", ".", "a:b:c", "::ffff:1.2.3.4"} {
		f.Add(entry)
	}
	f.Fuzz(func(t *testing.T, entry string) {
		var e Egress
		if err := e.add(entry); err != nil {
			if len(e.Allow)+len(e.hosts)+len(e.networks) > 0 {
				t.Errorf("%q is refused and taken: %v", entry, err)
			}
			return
		}
		if len(e.hosts)+len(e.networks) != 1 || e.Host("elsewhere.invalid", 0) && !strings.Contains(strings.ToLower(entry), "invalid") {
			t.Errorf("%q is taken as %+v", entry, e)
		}
	})
}
