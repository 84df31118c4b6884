package serving

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"slices"
	"testing"
	"time"
)

// ca is an authority that began at some time, and a certificate of it.
type ca struct {
	*x509.Certificate
	leaf *x509.Certificate
}

func (c ca) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

func newCA(t *testing.T, began time.Time, life time.Duration) ca {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(template, parent *x509.Certificate) *x509.Certificate {
		raw, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(raw)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(began.UnixNano()), Subject: pkix.Name{CommonName: "ca"}, NotBefore: began, NotAfter: began.Add(life),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	root := sign(template, template)
	return ca{root, sign(&x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: began, NotAfter: began.Add(life)}, root)}
}

func bundle(all ...ca) []byte {
	var out []byte
	for _, c := range all {
		out = append(out, c.pem()...)
	}
	return out
}

func TestMerge(t *testing.T) {
	const overlap, year = time.Hour, 365 * 24 * time.Hour
	now := time.Now().Truncate(time.Second)
	old, older := newCA(t, now.Add(-300*24*time.Hour), year), newCA(t, now.Add(-320*24*time.Hour), year)
	current, settled := newCA(t, now.Add(-time.Minute), year), newCA(t, now.Add(-2*time.Hour), year)
	ended, newer := newCA(t, now.Add(-2*year), year), newCA(t, now.Add(-time.Second), year)
	for name, c := range map[string]struct {
		published []byte
		current   *ca
		want      []byte
	}{
		"none yet":                     {bundle(old), nil, nil},
		"the first":                    {nil, &current, bundle(current)},
		"rotated":                      {bundle(old), &current, bundle(current, old)},
		"twice":                        {bundle(old, older), &current, bundle(current, old, older)},
		"in any order":                 {bundle(older, current, old), &current, bundle(current, old, older)},
		"as is":                        {bundle(current, old), &current, bundle(current, old)},
		"what has ended":               {bundle(ended, old), &current, bundle(current, old)},
		"after the overlap":            {bundle(settled, old, older), &settled, bundle(settled)},
		"another replica is ahead":     {bundle(newer, settled), &settled, bundle(newer, settled)},
		"no certificates between them": {append([]byte("nonsense\n"), bundle(old)...), &current, bundle(current, old)},
	} {
		t.Run(name, func(t *testing.T) {
			var signs *x509.Certificate
			if c.current != nil {
				signs = c.current.Certificate
			}
			got := merge(parseBundle(c.published), signs, now, overlap)
			if !bytes.Equal(got, c.want) {
				t.Errorf("got %d authorities, want %d, or in another order", len(parseBundle(got)), len(parseBundle(c.want)))
			}
			if again := merge(parseBundle(got), signs, now, overlap); !bytes.Equal(again, got) {
				t.Error("it does not come to rest")
			}
		})
	}
	var many []*x509.Certificate
	for i := range 12 {
		many = append(many, newCA(t, now.Add(-time.Duration(i)*time.Second), year).Certificate)
	}
	for _, signs := range []*x509.Certificate{many[0], many[11]} {
		if got := parseBundle(merge(many, signs, now, overlap)); len(got) != maxAuthorities || !slices.ContainsFunc(got, signs.Equal) {
			t.Errorf("of twelve authorities %d are left, that which signs: %v", len(got), slices.ContainsFunc(got, signs.Equal))
		}
	}
}

func TestTrust(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	a, b := newCA(t, now, time.Hour), newCA(t, now.Add(time.Second), time.Hour)
	tr := trust{}.next([][]byte{bundle(a), bundle(a)}, time.Time{})
	if since, ok := tr.of(a.leaf); !ok || !since.IsZero() {
		t.Errorf("what was there before us is trusted since %v, %v", since, ok)
	}
	tr = tr.next([][]byte{bundle(b, a), bundle(a)}, now)
	if _, ok := tr.of(b.leaf); ok {
		t.Error("trusted though one entry has another bundle")
	}
	tr = tr.next([][]byte{bundle(b, a), bundle(b, a)}, now.Add(time.Second))
	tr = tr.next([][]byte{bundle(a, b), bundle(b, a)}, now.Add(time.Minute))
	if since, ok := tr.of(b.leaf); !ok || !since.Equal(now.Add(time.Second)) {
		t.Errorf("trusted since %v, %v", since, ok)
	}
	if since, ok := tr.of(a.leaf); !ok || !since.IsZero() {
		t.Errorf("the old one is trusted since %v, %v", since, ok)
	}
	if _, ok := tr.next([][]byte{bundle(b), bundle(b), nil}, now).of(b.leaf); ok {
		t.Error("trusted though an entry has no bundle")
	}
}

func FuzzParseBundle(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		all := parseBundle(text)
		for _, c := range all {
			if got := parseBundle(merge(all, c, time.Now(), time.Hour)); len(got) > maxAuthorities || !slices.ContainsFunc(got, c.Equal) {
				t.Errorf("%d authorities", len(got))
			}
		}
	})
}
