package naming

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Addr is a replica set in the form in which namerd's API and the admin pages of
// Linkerd 1.x show it:
//
//	{"type":"bound","addrs":[{"ip":"10.0.0.4","port":80,"meta":{"nodeName":"n1"}}],"meta":{}}
//	{"type":"neg"}   {"type":"pending"}   {"type":"failed","cause":"…"}
//
// The meta of an address has nodeName, endpoint_addr_weight if that is not 1, and of
// Tulle hop, via and identity if a proxy is in front of it; see Endpoint. It reads
// back what it writes, and what namerd writes.
type Addr Replicas

// Addr returns r in namerd's form.
func (r Replicas) Addr() Addr { return Addr(r) }

// JSON returns the replica set on a line of its own.
func (a Addr) JSON() []byte { return jsonLine(a) }

type addrJSON struct {
	Type  string        `json:"type"`
	Addrs []addressJSON `json:"addrs,omitzero"`
	Meta  *struct{}     `json:"meta,omitempty"`
	Cause *string       `json:"cause,omitempty"`
}

type addressJSON struct {
	IP   string   `json:"ip"`
	Port uint16   `json:"port"`
	Meta metaJSON `json:"meta"`
}

type metaJSON struct {
	Node     string `json:"nodeName,omitempty"`
	Weight   double `json:"endpoint_addr_weight,omitempty"`
	Hop      Hop    `json:"hop,omitempty"`
	Via      string `json:"via,omitempty"`
	Identity string `json:"identity,omitempty"`
}

// MarshalJSON writes the form that Addr describes.
func (a Addr) MarshalJSON() ([]byte, error) {
	form := addrJSON{Type: a.State.String()}
	switch a.State {
	case StateFailed:
		form.Cause = &a.Cause
	case StateBound:
		form.Addrs, form.Meta = make([]addressJSON, 0, len(a.Endpoints)), &struct{}{}
		for _, e := range a.Endpoints {
			ip := e.Address // if it is no address that we could have made: shown as it is
			at, err := netip.ParseAddrPort(e.Address)
			if err == nil {
				ip = at.Addr().String()
			}
			meta := metaJSON{Node: e.Node, Hop: e.Hop, Via: e.Via, Identity: e.Identity}
			if e.Weight != 1 {
				meta.Weight = double(e.Weight)
			}
			form.Addrs = append(form.Addrs, addressJSON{ip, at.Port(), meta})
		}
	}
	return jsonLine(form), nil
}

// UnmarshalJSON reads what MarshalJSON or namerd wrote. Endpoints are in canonical
// order afterwards, see Of, and without a weight they have weight 1.
func (a *Addr) UnmarshalJSON(text []byte) error {
	var form addrJSON
	if err := json.Unmarshal(text, &form); err != nil {
		return err
	}
	var read Replicas
	if err := read.State.UnmarshalText([]byte(form.Type)); err != nil {
		return fmt.Errorf("read a replica set: %w", err)
	}
	switch read.State {
	case StateFailed:
		if form.Cause != nil {
			read.Cause = *form.Cause
		}
	case StateBound:
		endpoints := make([]Endpoint, 0, len(form.Addrs))
		for _, x := range form.Addrs {
			ip, err := netip.ParseAddr(x.IP)
			if err != nil {
				return fmt.Errorf("read a replica set: %q is no IP address", x.IP)
			}
			e := Endpoint{
				Address: netip.AddrPortFrom(ip, x.Port).String(), Node: x.Meta.Node,
				Hop: x.Meta.Hop, Via: x.Meta.Via, Identity: x.Meta.Identity, Weight: float64(x.Meta.Weight),
			}
			if e.Weight <= 0 {
				e.Weight = 1
			}
			endpoints = append(endpoints, e)
		}
		read = Of(endpoints...)
	}
	*a = Addr(read)
	return nil
}

// double is a number that always has a decimal point, as readers in Scala want it.
type double float64

// MarshalJSON writes 1 as 1.0.
func (d double) MarshalJSON() ([]byte, error) {
	s := strconv.FormatFloat(float64(d), 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return []byte(s), nil
}

// jsonLine writes v, which always can be, with a newline; & < > stay as they are,
// for they are many in trees and weigh six bytes otherwise.
func jsonLine(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(v)
	return b.Bytes()
}
