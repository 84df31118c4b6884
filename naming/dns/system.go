package dns

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// System is a [Lookup] by this machine's resolv.conf and hosts file, as Go's resolver reads them. The
// resolver does not tell how long its answer holds, so the answers are read a second time on their way
// to it. What is in the hosts file has no such time.
func System(ctx context.Context, host string) ([]netip.Addr, time.Duration, error) {
	return lookup(ctx, host, (&net.Dialer{}).DialContext)
}

// dial connects to a name server.
type dial func(ctx context.Context, network, address string) (net.Conn, error)

func lookup(ctx context.Context, host string, to dial) ([]netip.Addr, time.Duration, error) {
	heard := &answers{}
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := to(ctx, network, address)
		if err != nil {
			return nil, err
		}
		if packets, ok := conn.(*net.UDPConn); ok {
			return overheard{packets, heard}, nil
		}
		return &overheardStream{Conn: conn, answers: heard}, nil
	}}
	addresses, err := resolver.LookupNetIP(ctx, "ip", host)
	return addresses, heard.ttl(), err
}

// answers are what name servers said, in several questions at once.
type answers struct {
	mu    sync.Mutex
	least time.Duration // of the records that were heard; guarded by mu
	any   bool          // there were some; guarded by mu
}

func (a *answers) ttl() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.any {
		return 0
	}
	return max(a.least, shortest)
}

// read takes note of the records of a message (RFC 1035, 4.1.3), aliases included. What is no message is
// left to the resolver.
func (a *answers) read(message []byte) {
	var p dnsmessage.Parser
	if _, err := p.Start(message); err != nil || p.SkipAllQuestions() != nil {
		return
	}
	for {
		record, err := p.AnswerHeader()
		if err != nil {
			return
		}
		ttl := time.Duration(record.TTL) * time.Second
		a.mu.Lock()
		if !a.any || ttl < a.least {
			a.any, a.least = true, ttl
		}
		a.mu.Unlock()
		if p.SkipAnswer() != nil {
			return
		}
	}
}

// overheard is a connection whose messages are packets, which the resolver must see.
type overheard struct {
	*net.UDPConn
	answers *answers
}

func (c overheard) Read(b []byte) (int, error) {
	n, err := c.UDPConn.Read(b)
	c.answers.read(b[:n])
	return n, err
}

// overheardStream is one whose messages have their length in front (RFC 1035, 4.2.2).
type overheardStream struct {
	net.Conn
	answers *answers
	got     []byte // of the message that comes
}

func (c *overheardStream) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.got = append(c.got, b[:n]...)
	for len(c.got) >= 2 {
		end := 2 + int(binary.BigEndian.Uint16(c.got))
		if len(c.got) < end {
			break
		}
		c.answers.read(c.got[2:end])
		c.got = c.got[end:]
	}
	return n, err
}
