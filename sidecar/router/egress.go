package router

import (
	"context"
	"net/netip"
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/rewrite"
	"github.com/tulle-mesh/tulle/sidecar/client"
	"github.com/tulle-mesh/tulle/sidecar/policy"
)

// What leaves the mesh, where the policy says whereto that may be: the host that DNS is
// asked for counts, not the name that the request came with, which rules may have
// turned into any other. Where only addresses are allowed those that were found count.

// enclose refuses a bound name outside that cannot be allowed, and notes whether its
// addresses decide.
func (r *routing) enclose(e *policy.Egress, id naming.Path) *Problem {
	host, port, ok := hostOf(id)
	if !ok || e.Host(host, port) {
		return nil
	}
	if !e.Addresses() {
		return notAllowed(hostPort(host, port))
	}
	r.fence = e
	return nil
}

// fenced refuses a name some of whose addresses are not allowed; all of them must be, or
// it would be a matter of luck.
func (r *routing) fenced(p *client.Picker) *Problem {
	if r.fence == nil {
		return nil
	}
	for _, e := range p.All() {
		address := e.Value.Endpoint.Address
		if a, err := netip.ParseAddrPort(address); err != nil || !r.fence.Address(a) {
			host, port, _ := hostOf(r.id)
			what := hostPort(host, port)
			if what != address {
				what += " at " + address
			}
			return notAllowed(what)
		}
	}
	return nil
}

// found is fenced for what sends nothing yet: it waits for the addresses if they decide.
func (o *Outgoing) found(ctx context.Context, x *exchange, r *routing) *Problem {
	if r.fence == nil {
		return nil
	}
	picker, problem := o.picker(ctx, x, r)
	if problem != nil {
		return problem
	}
	return r.fenced(picker)
}

// hostOf returns the host that a bound name leads to, whatever transformers have made
// of its addresses; it is false for one of the mesh.
func hostOf(id naming.Path) (host string, port uint16, ok bool) {
	if len(id) > 4 && id[0] == "%" {
		id = id[len(id)-4:]
	}
	return rewrite.Inet(id)
}

// onwardAllowed reports whether a request may go on to another proxy, which will look
// its host up.
func (x *exchange) onwardAllowed(e *policy.Egress, id naming.Path) bool {
	host, port, ok := hostOf(id)
	if !ok {
		host, port = x.destination()
	}
	if e.Host(host, port) {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && e.Address(netip.AddrPortFrom(a, port))
}

// destination returns the host and the port that the request names; the port is 0 if it
// is no number.
func (x *exchange) destination() (string, uint16) {
	host, number, _ := splitAuthority(x.authority())
	if number == nil {
		return string(host), 80
	}
	port, err := strconv.ParseUint(string(number), 10, 16)
	if err != nil {
		port = 0
	}
	return string(host), uint16(port)
}

// notAllowed is the answer for what egress.allow does not have.
func notAllowed(what string) *Problem {
	return &Problem{Status: 403, Code: codeEgress, Retryable: true,
		Message: "this proxy does not go to " + what + ": it is outside, and nothing in egress.allow matches it",
		Hint:    "add the host or its network to egress.allow of the proxy's policy, or of the router in a configuration of Linkerd 1.x, if requests may go there"}
}

func hostPort(host string, port uint16) string {
	if strings.Contains(host, ":") && !strings.HasPrefix(host, "[") {
		host = "[" + host + "]"
	}
	return host + ":" + strconv.Itoa(int(port))
}
