package cluster

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
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
	// podLogsBind is the directory of a node's disk that is its /var/log/pods.
	podLogsBind = "pods"
	// hostLink is the host's end of the wire to the cluster.
	hostLink = "tulle0"
	// apiPort is where the API server listens on cpAddr.
	apiPort = 6443
	// pauseImage is the sandbox image of every pod, and the image of pods whose program is a hostPath.
	pauseImage = "tulle.dev/pause:dev"
)

// Node is one of the cluster's worker machines.
type Node struct {
	Name string
	IP   netip.Addr   // its InternalIP, on the wire
	Pods netip.Prefix // the addresses of its pods
}

// wire is the name of the control plane's end of the node's link.
func (n Node) wire() string { return "to-" + n.Name }

// nodes are the workers: two, the least that has a "same node" and an "other node".
var nodes = []Node{newNode(1), newNode(2)}

// newNode gives the i-th node, counted from 1, its name and addresses.
func newNode(i int) Node {
	ip, pods := firstNodeIP.As4(), podNet.Addr().As4()
	ip[3] += byte(i - 1)
	pods[2] = byte(i)
	return Node{Name: fmt.Sprintf("n%d", i), IP: netip.AddrFrom4(ip), Pods: netip.PrefixFrom(netip.AddrFrom4(pods), 24)}
}

// findNode returns the node of that name.
func findNode(name string) (Node, error) {
	for _, n := range nodes {
		if n.Name == name {
			return n, nil
		}
	}
	return Node{}, fmt.Errorf("find node %q: the nodes are %s and %s", name, nodes[0].Name, nodes[1].Name)
}

// machineNames are all machines, the control plane first.
func machineNames() []string {
	names := []string{cpName}
	for _, n := range nodes {
		names = append(names, n.Name)
	}
	return names
}

// stateDir is the directory of a running cluster; its methods name what is in it.
type stateDir string

func (d stateDir) pki(file string) string { return filepath.Join(string(d), "pki", file) }

// kubeconfig is a user's. The colons of system users separate files in $KUBECONFIG, so not in the name.
func (d stateDir) kubeconfig(user string) string {
	return d.pki(strings.ReplaceAll(user, ":", "-") + ".kubeconfig")
}

func (d stateDir) logs() string { return filepath.Join(string(d), "logs") }
func (d stateDir) log(machine, daemon string) string {
	return filepath.Join(d.logs(), machine, daemon+".log")
}

// machine is the directory of one machine; its disk and its configuration are in it.
func (d stateDir) machine(name string) string { return filepath.Join(string(d), "machines", name) }

// disk is what outlives a power cut of a machine; podLogs is one of the directories on it.
func (d stateDir) disk(machine string) string    { return filepath.Join(d.machine(machine), "disk") }
func (d stateDir) podLogs(machine string) string { return filepath.Join(d.disk(machine), podLogsBind) }

// gates is where the gates of a machine are: files that hold its daemons back until they exist.
func (d stateDir) gates(machine string) string { return filepath.Join(d.machine(machine), "gates") }
func (d stateDir) gate(machine, name string) string {
	return filepath.Join(d.gates(machine), name)
}

// loaded is where it is noted which image a machine has under a name.
func (d stateDir) loaded(machine string) string { return filepath.Join(d.machine(machine), "images") }

// init is the program that is process 1 of each machine. [findMachines] knows a machine by it.
func (d stateDir) init() string { return filepath.Join(string(d), "machine") }

// key holds the key of the binaries that the cluster runs; it is written when Up is done.
func (d stateDir) key() string { return filepath.Join(string(d), "key") }
