package cluster

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Cluster is a running cluster. Its methods may be called concurrently. It holds no process and no
// connection: the cluster goes on when the program that has it ends.
type Cluster struct {
	Access
}

// Access is the way to an API server, with all rights. Its methods may be called concurrently.
type Access struct {
	dir    stateDir
	bin    binaries
	config *rest.Config
	client kubernetes.Interface
}

// open makes the handle of the cluster in dir; it does not ask whether the cluster runs.
func open(dir stateDir, bin binaries) (*Cluster, error) {
	access, err := newAccess(dir, bin)
	if err != nil {
		return nil, err
	}
	return &Cluster{access}, nil
}

// newAccess reads the kubeconfig in dir; it does not ask whether the API server runs.
func newAccess(dir stateDir, bin binaries) (Access, error) {
	config, err := clientcmd.BuildConfigFromFlags("", dir.kubeconfig("admin"))
	if err != nil {
		return Access{}, fmt.Errorf("read the cluster's kubeconfig: %w", err)
	}
	// Tests ask often, and the API server has its own fairness.
	config.QPS, config.Burst = 200, 400
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return Access{}, fmt.Errorf("make a client of the cluster: %w", err)
	}
	return Access{dir: dir, bin: bin, config: config, client: client}, nil
}

// Kubeconfig is the path of a kubeconfig for the host, with all rights.
func (a Access) Kubeconfig() string { return a.dir.kubeconfig("admin") }

// RESTConfig returns a new client configuration with all rights.
func (a Access) RESTConfig() *rest.Config { return rest.CopyConfig(a.config) }

// Client returns a client with all rights, shared by all who ask.
func (a Access) Client() kubernetes.Interface { return a.client }

// Nodes returns the worker nodes in order.
func (c *Cluster) Nodes() []Node { return slices.Clone(nodes) }

// NodeIPs returns the workers' InternalIPs by the node's name. The host reaches them, and through
// them every pod and every Service's address.
func (c *Cluster) NodeIPs() map[string]netip.Addr {
	ips := make(map[string]netip.Addr, len(nodes))
	for _, n := range nodes {
		ips[n.Name] = n.IP
	}
	return ips
}

// Kubectl runs kubectl with all rights and returns what it printed. Standard input may be nil. What
// kubectl said on standard error is in the error.
func (a Access) Kubectl(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := a.KubectlCommand(ctx, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("kubectl %s: %w\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return stdout.String(), nil
}

// KubectlCommand prepares kubectl with all rights; the caller sets its streams and runs it.
func (a Access) KubectlCommand(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, a.bin.path("kubectl"), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+a.Kubeconfig())
	return cmd
}

// Apply applies manifests, YAML documents or JSON, on the server's side, and takes over fields that others set.
func (a Access) Apply(ctx context.Context, manifests string) error {
	_, err := a.Kubectl(ctx, strings.NewReader(manifests), "apply", "--server-side", "--force-conflicts", "-f", "-")
	return err
}
