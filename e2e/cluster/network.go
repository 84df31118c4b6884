package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/tulle-mesh/tulle/e2e/cluster/debian"
)

// bridge is the wire: a bridge in the control plane's machine with a port for each node and the host.
const bridge = "wire"

// layBackbone makes the wire, the control plane's place on it and the host's. It begins by removing
// what an earlier cluster may have left.
func layBackbone(ctx context.Context, cp int) error {
	if err := deleteHostLink(ctx); err != nil {
		return err
	}
	if err := inNetwork(ctx, cp, backbone()); err != nil {
		return err
	}
	if err := ip(ctx, hostLinks(cp)); err != nil {
		return err
	}
	return inNetwork(ctx, cp, []string{"link set host master " + bridge + " up"})
}

// backbone is the control plane's network. The bridge's address is fixed: by default it is a port's,
// and changes when that port leaves, and then the API is unreachable until every neighbour has noticed.
func backbone() []string {
	lines := []string{
		"link set lo up",
		"link add " + bridge + " address 02:00:ac:1e:00:01 type bridge forward_delay 0",
		fmt.Sprintf("addr add %s/%d dev %s", cpAddr, linkNet.Bits(), bridge),
		"link set " + bridge + " up",
	}
	for _, n := range nodes {
		lines = append(lines, fmt.Sprintf("route add %s via %s", n.Pods, n.IP))
	}
	return lines
}

// hostLinks is the host's link and its routes. Services have none but kube-proxy's address on every
// node, so any node will do.
func hostLinks(cp int) []string {
	lines := []string{
		fmt.Sprintf("link add %s type veth peer name host netns %d", hostLink, cp),
		fmt.Sprintf("addr add %s/%d dev %s", hostAddr, linkNet.Bits(), hostLink),
		"link set " + hostLink + " up",
		fmt.Sprintf("route add %s via %s", serviceNet, nodes[0].IP),
	}
	for _, n := range nodes {
		lines = append(lines, fmt.Sprintf("route add %s via %s", n.Pods, n.IP))
	}
	return lines
}

// connect joins a node to the wire.
func connect(ctx context.Context, cp, pid int, n Node) error {
	// The namespace of a node that was killed dies when it likes, and its link with it.
	if out, err := ipIn(ctx, cp, "link", "del", n.wire()); err != nil && !strings.Contains(out, "Cannot find device") {
		return fmt.Errorf("remove the old link of %s: %w\n%s", n.Name, err, out)
	}
	err := inNetwork(ctx, cp, []string{
		fmt.Sprintf("link add %s type veth peer name eth0 netns %d", n.wire(), pid),
		fmt.Sprintf("link set %s master %s up", n.wire(), bridge),
	})
	if err != nil {
		return err
	}
	return inNetwork(ctx, pid, nodeLinks(n))
}

func nodeLinks(n Node) []string {
	lines := []string{
		"link set lo up",
		fmt.Sprintf("addr add %s/%d dev eth0", n.IP, linkNet.Bits()),
		"link set eth0 up",
		// Programs in the node's own network reach Services only if there is some route to them.
		fmt.Sprintf("route add default via %s", cpAddr),
	}
	for _, other := range nodes {
		if other.Name != n.Name {
			lines = append(lines, fmt.Sprintf("route add %s via %s", other.Pods, other.IP))
		}
	}
	return lines
}

// deleteHostLink removes the host's link, and with it the routes.
func deleteHostLink(ctx context.Context) error {
	if _, err := os.Stat("/sys/class/net/" + hostLink); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return ip(ctx, []string{"link del " + hostLink})
}

// ip runs a batch of commands of the ip program on the host.
func ip(ctx context.Context, lines []string) error {
	return batch(exec.CommandContext(ctx, "ip", "-batch", "-"), lines)
}

// inNetwork runs a batch of commands of the ip program in the network of a machine. It uses nsenter:
// `ip netns exec` would mount another /sys.
func inNetwork(ctx context.Context, pid int, lines []string) error {
	return batch(exec.CommandContext(ctx, "nsenter", "-t", fmt.Sprint(pid), "-n", "ip", "-batch", "-"), lines)
}

func ipIn(ctx context.Context, pid int, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"-t", fmt.Sprint(pid), "-n", "ip"}, args...)...)
	cmd.Env = append(os.Environ(), "PATH="+debian.Path)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func batch(cmd *exec.Cmd, lines []string) error {
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	cmd.Env = append(os.Environ(), "PATH="+debian.Path)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("lay the network: %w\n%sof:\n  %s", err, out, strings.Join(lines, "\n  "))
	}
	return nil
}
