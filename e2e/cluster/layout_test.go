package cluster

import (
	"net/netip"
	"strings"
	"testing"
)

func TestAddresses(t *testing.T) {
	seen := map[netip.Addr]string{cpAddr: "cp", hostAddr: "host"}
	for i, n := range nodes {
		if other, taken := seen[n.IP]; taken || !linkNet.Contains(n.IP) {
			t.Errorf("%s has address %s, which is %q's or not of the wire %s", n.Name, n.IP, other, linkNet)
		}
		seen[n.IP] = n.Name
		if !podNet.Contains(n.Pods.Addr()) || n.Pods.Bits() <= podNet.Bits() {
			t.Errorf("%s has pods %s, want a part of %s", n.Name, n.Pods, podNet)
		}
		for _, other := range nodes[:i] {
			if n.Pods.Overlaps(other.Pods) {
				t.Errorf("%s and %s share pod addresses", n.Name, other.Name)
			}
		}
		// The kernel takes 15 characters.
		if len(n.wire()) > 15 {
			t.Errorf("link name %s is too long", n.wire())
		}
	}
	networks := []netip.Prefix{linkNet, podNet, serviceNet}
	for i, a := range networks {
		for _, b := range networks[:i] {
			if a.Overlaps(b) {
				t.Errorf("networks %s and %s overlap", a, b)
			}
		}
	}
	for _, a := range []netip.Addr{apiService, dnsService} {
		if !serviceNet.Contains(a) {
			t.Errorf("service %s is not of %s", a, serviceNet)
		}
	}
}

func TestNodeLinks(t *testing.T) {
	lines := strings.Join(nodeLinks(nodes[0]), "\n")
	for _, want := range []string{"addr add 172.30.0.11/24 dev eth0", "route add default via 172.30.0.1", "route add 10.244.2.0/24 via 172.30.0.12"} {
		if !strings.Contains(lines, want) {
			t.Errorf("n1's network lacks %q:\n%s", want, lines)
		}
	}
	if strings.Contains(lines, "10.244.1.0") {
		t.Errorf("n1 has a route away to its own pods:\n%s", lines)
	}
}

func TestFindNode(t *testing.T) {
	if n, err := findNode("n2"); err != nil || n.IP != nodes[1].IP {
		t.Errorf("findNode(n2) = %v, %v", n, err)
	}
	if _, err := findNode("n3"); err == nil || !strings.Contains(err.Error(), "n1 and n2") {
		t.Errorf("findNode(n3): got error %v, want one that names the nodes", err)
	}
}

func TestCheckStatePath(t *testing.T) {
	for path, ok := range map[string]bool{
		"/home/x/.cache/tulle/cluster/state": true,
		"/variety/state":                     true,
		"/var/tmp/state":                     false,
		"/run/user/0/state":                  false,
	} {
		if err := checkStatePath(path); (err == nil) != ok {
			t.Errorf("checkStatePath(%s) = %v", path, err)
		}
	}
}

func TestKubeconfigPath(t *testing.T) {
	if got := stateDir("/s").kubeconfig("system:node:n1"); got != "/s/pki/system-node-n1.kubeconfig" {
		t.Errorf("got %s; a colon would split it in $KUBECONFIG", got)
	}
}
