package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// zone is what a name server knows: an alias, or addresses.
type zone map[string][]record

type record struct {
	ttl   uint32
	alias string
	ip    string
}

// reply returns the answer to a question; without room it is cut off, so that the question comes by TCP.
func (z zone) reply(t *testing.T, question []byte, room bool) []byte {
	var p dnsmessage.Parser
	h, err := p.Start(question)
	if err != nil {
		t.Error(err)
		return nil
	}
	q, err := p.Question()
	if err != nil {
		t.Error(err)
		return nil
	}
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: h.ID, Response: true, RecursionAvailable: true, Truncated: !room},
		Questions: []dnsmessage.Question{q},
	}
	name := q.Name.String()
	for room && name != "" {
		next := ""
		for _, r := range z[name] {
			header := dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(name), Class: dnsmessage.ClassINET, TTL: r.ttl}
			ip, _ := netip.ParseAddr(r.ip)
			switch {
			case r.alias != "":
				next = r.alias
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.CNAMEResource{CNAME: dnsmessage.MustNewName(next)}})
			case ip.Is4() && q.Type == dnsmessage.TypeA:
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AResource{A: ip.As4()}})
			case ip.Is6() && q.Type == dnsmessage.TypeAAAA:
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AAAAResource{AAAA: ip.As16()}})
			}
		}
		name = next
	}
	if len(z[q.Name.String()]) == 0 {
		m.RCode = dnsmessage.RCodeNameError
	}
	packed, err := m.Pack()
	if err != nil {
		t.Error(err)
	}
	return packed
}

// serve answers at an address of UDP and of TCP until the test ends. With streams alone all that is asked by
// UDP is too long for it.
func (z zone) serve(t *testing.T, streams bool) dial {
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { packets.Close(); listener.Close() })
	go func() {
		b := make([]byte, 4096)
		for {
			n, from, err := packets.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = packets.WriteTo(z.reply(t, b[:n], !streams), from)
		}
	}()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			var size [2]byte
			if _, err := io.ReadFull(conn, size[:]); err == nil {
				question := make([]byte, binary.BigEndian.Uint16(size[:]))
				if _, err := io.ReadFull(conn, question); err == nil {
					answer := z.reply(t, question, true)
					// In pieces, as TCP may bring it.
					_, _ = conn.Write(binary.BigEndian.AppendUint16(nil, uint16(len(answer))))
					_, _ = conn.Write(answer[:7])
					_, _ = conn.Write(answer[7:])
				}
			}
			conn.Close()
		}
	}()
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		if network == "udp" {
			return d.DialContext(ctx, network, packets.LocalAddr().String())
		}
		return d.DialContext(ctx, network, listener.Addr().String())
	}
}

func TestLookup(t *testing.T) {
	known := zone{
		"four.test.":  {{ttl: 20, ip: "192.0.2.1"}, {ttl: 12, ip: "192.0.2.2"}},
		"both.test.":  {{ttl: 20, ip: "192.0.2.1"}, {ttl: 4, ip: "2001:db8::1"}},
		"alias.test.": {{ttl: 3, alias: "four.test."}},
		"never.test.": {{ttl: 0, ip: "192.0.2.1"}},
	}
	for _, c := range []struct {
		host string
		want []string
		ttl  time.Duration
	}{
		{"four.test.", []string{"192.0.2.1", "192.0.2.2"}, 12 * time.Second},
		{"both.test.", []string{"192.0.2.1", "2001:db8::1"}, 4 * time.Second},
		{"alias.test.", []string{"192.0.2.1", "192.0.2.2"}, 3 * time.Second},
		{"never.test.", []string{"192.0.2.1"}, time.Second},
		{"absent.test.", nil, 0},
	} {
		for _, by := range []string{"udp", "tcp"} {
			t.Run(c.host+by, func(t *testing.T) {
				addresses, ttl, err := lookup(t.Context(), c.host, known.serve(t, by == "tcp"))
				var got []string
				for _, a := range addresses {
					got = append(got, a.Unmap().String())
				}
				slices.Sort(got)
				if !slices.Equal(got, c.want) || ttl != c.ttl {
					t.Errorf("got %v for %v, want %v for %v; error: %v", got, ttl, c.want, c.ttl, err)
				}
				if missing := new(net.DNSError); c.want == nil && (!errors.As(err, &missing) || !missing.IsNotFound) {
					t.Errorf("a host that does not exist: %v", err)
				}
			})
		}
	}
}

func TestSystemKnowsTheHostsFile(t *testing.T) {
	addresses, ttl, err := System(t.Context(), "localhost")
	if err != nil || len(addresses) == 0 || ttl != 0 {
		t.Errorf("localhost is %v for %v, %v", addresses, ttl, err)
	}
}

// What a name server sends cannot harm whoever reads it.
func FuzzAnswers(f *testing.F) {
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{Response: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("a.test."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
		Answers: []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName("a.test."), Class: dnsmessage.ClassINET, TTL: 7}, Body: &dnsmessage.AResource{},
		}},
	}
	good, err := m.Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, message []byte) {
		a := &answers{}
		a.read(message)
		if ttl := a.ttl(); a.any && ttl < shortest {
			t.Errorf("%v", ttl)
		}
	})
}
