package serving

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"time"
)

// maxAuthorities bounds a bundle: somebody who deletes the Secret again and again must not make it grow for ever.
const maxAuthorities = 8

// parseBundle returns the certificates in a bundle of PEM text. What is none is passed over: it is of no use to the API
// server either.
func parseBundle(bundle []byte) []*x509.Certificate {
	var all []*x509.Certificate
	for {
		var block *pem.Block
		if block, bundle = pem.Decode(bundle); block == nil {
			return all
		}
		if c, err := x509.ParseCertificate(block.Bytes); err == nil && block.Type == "CERTIFICATE" {
			all = append(all, c)
		}
	}
}

// merge returns the bundle to publish: the authority that signs now, and before that one has signed for as long as
// overlap, those that are published and may have signed what a replica still serves. Authorities that began later than
// current are kept too; another replica knows of them already. Nil without a current one: nothing is to be changed.
//
// The order is by age, so that all replicas write the same.
func merge(published []*x509.Certificate, current *x509.Certificate, now time.Time, overlap time.Duration) []byte {
	if current == nil {
		return nil
	}
	keep := []*x509.Certificate{current}
	for _, c := range published {
		old := c.NotAfter.Before(now) || now.Sub(current.NotBefore) >= overlap && !c.NotBefore.After(current.NotBefore)
		if !old && !slices.ContainsFunc(keep, c.Equal) {
			keep = append(keep, c)
		}
	}
	slices.SortFunc(keep, func(a, b *x509.Certificate) int {
		if d := b.NotBefore.Compare(a.NotBefore); d != 0 {
			return d
		}
		return bytes.Compare(a.Raw, b.Raw)
	})
	if len(keep) > maxAuthorities {
		if i := slices.IndexFunc(keep, current.Equal); i >= maxAuthorities {
			keep[maxAuthorities-1] = current
		}
		keep = keep[:maxAuthorities]
	}
	var out bytes.Buffer
	for _, c := range keep {
		_ = pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}) // to memory
	}
	return out.Bytes()
}

// trust is which authorities all API servers trust, as far as the objects tell, and since when.
type trust map[string]trusted // by their DER bytes

type trusted struct {
	authority *x509.Certificate
	since     time.Time // zero: before we came
}

// next returns the trust that these bundles give, one for each entry: what is in all of them.
func (t trust) next(bundles [][]byte, now time.Time) trust {
	next := trust{}
	for i, b := range bundles {
		in := map[string]*x509.Certificate{}
		for _, c := range parseBundle(b) {
			in[string(c.Raw)] = c
		}
		if i == 0 {
			for raw, c := range in {
				next[raw] = trusted{authority: c, since: now}
				if was, ok := t[raw]; ok {
					next[raw] = was
				}
			}
			continue
		}
		for raw := range next {
			if in[raw] == nil {
				delete(next, raw)
			}
		}
	}
	return next
}

// of returns since when a certificate is trusted, or false.
func (t trust) of(leaf *x509.Certificate) (time.Time, bool) {
	for _, a := range t {
		if leaf.CheckSignatureFrom(a.authority) == nil {
			return a.since, true
		}
	}
	return time.Time{}, false
}
