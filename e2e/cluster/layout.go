package cluster

import (
	"fmt"
	"net/netip"
	"path/filepath"
)

// The cluster's addresses. They are fixed, so there is one cluster at a time on a machine; all are
// private, and only the host and the cluster's own namespaces have routes to them.
var (
	linkNet     = netip.MustParsePrefix("172.30.0.0/24") // the wire between the machines and the host
	podNet      = netip.MustParsePrefix("10.244.0.0/16") // the third byte is the node's number
	serviceNet  = netip.MustParsePrefix("10.96.0.0/16")
	apiService  = netip.MustParseAddr("10.96.0.1")
	dnsService  = netip.MustParseAddr("10.96.0.10")
	cpAddr      = netip.MustParseAddr("172.30.0.1")
	hostAddr    = netip.MustParseAddr("172.30.0.254")
	firstNodeIP = netip.MustParseAddr("172.30.0.11")
)

const (
	// clusterName names the cgroups, and begins the name of every link outside the machines.
	clusterName = "tulle-e2e"
	// clusterDomain is the DNS suffix of Services.
	clusterDomain = "cluster.local"
	// hostLink is the host's end of the wire to the cluster.
	hostLink = "tulle0"
	// apiPort is where the API server listens on cpAddr.
	apiPort = 6443
	// pauseImage is the sandbox image of every pod, and the image of pods whose program is a hostPath.
	pauseImage = "tulle.dev/pause:dev"
)

// node is one of the cluster's worker machines.
type node struct {
	Name string
	IP   netip.Addr   // on the wire
	Pods netip.Prefix // the addresses of its pods
}

// Gateway is the node's own address towards its pods.
func (n node) Gateway() netip.Addr { return n.Pods.Addr().Next() }

// port is the name of the control plane's end of the node's wire.
func (n node) port() string { return "to-" + n.Name }

// nodes are the workers: two, the least that has a "same node" and an "other node".
var nodes = []node{newNode(1), newNode(2)}

// newNode gives the i-th node, counted from 1, its name and addresses.
func newNode(i int) node {
	ip := firstNodeIP
	for range i - 1 {
		ip = ip.Next()
	}
	pods := podNet.Addr().As4()
	pods[2] = byte(i)
	return node{Name: fmt.Sprintf("n%d", i), IP: ip, Pods: netip.PrefixFrom(netip.AddrFrom4(pods), 24)}
}

// stateDir is the directory of a running cluster; its methods name what is in it.
type stateDir string

func (d stateDir) pki(file string) string { return filepath.Join(string(d), "pki", file) }
func (d stateDir) kubeconfig(user string) string {
	return filepath.Join(string(d), "pki", user+".kubeconfig")
}
func (d stateDir) logs() string { return filepath.Join(string(d), "logs") }
func (d stateDir) log(machine, daemon string) string {
	return filepath.Join(d.logs(), machine, daemon+".log")
}

// machine is the directory of one machine; its disk and its configuration are in it.
func (d stateDir) machine(name string) string { return filepath.Join(string(d), "machines", name) }
func (d stateDir) config(machine, file string) string {
	return filepath.Join(d.machine(machine), "config", file)
}

// gate is a file that holds a machine's daemons back until it exists; see machine.Daemon.
func (d stateDir) gate(machine, name string) string {
	return filepath.Join(d.machine(machine), "gates", name)
}

// init is the program that is process 1 of each machine. [findMachines] knows a machine by it.
func (d stateDir) init() string { return filepath.Join(string(d), "machine") }

// key holds the key of the binaries that the cluster runs; it is written when Up is done.
func (d stateDir) key() string { return filepath.Join(string(d), "key") }
