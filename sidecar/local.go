package sidecar

import (
	"context"
	"net/netip"
)

// local returns whose word counts for how their own requests are routed: those
// on the same machine or in the same pod, and in host mode the pods of the node.
// Rules that others bring in l5d-dtab or l5d-ctx-dtab are dropped, for who may
// send such a rule may go wherever this proxy may go.
func (c *Config) local(pods *node) func(source string) bool {
	ours := own(c.PodIP)
	return func(source string) bool {
		a, err := netip.ParseAddr(source)
		if err != nil {
			return false
		}
		a = a.Unmap().WithZone("")
		ip := a.String()
		return a.IsLoopback() || ours(context.Background(), ip) || pods != nil && pods.knows(ip)
	}
}
