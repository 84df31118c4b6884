package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tulle-mesh/tulle/e2e/cluster/debian"
)

// startLimit bounds the start with warm binaries; it takes about ten seconds, and several times that while
// the machine compiles something.
const startLimit = 4 * time.Minute

// Up returns a running cluster: nodes ready, DNS answering, cert-manager issuing. It reuses the
// cluster that runs already if that is healthy and of the same build (see Options.Fresh), and replaces
// it otherwise. When it fails it takes down what it started, and the error says where the logs are.
//
// Up and Down exclude each other across processes. The error wraps [ErrUnsupported] if this machine
// could never run a cluster.
func Up(ctx context.Context, options Options) (*Cluster, error) {
	if err := checkPlatform(); err != nil {
		return nil, err
	}
	o, err := options.defaults()
	if err != nil {
		return nil, err
	}
	if err := checkStatePath(string(o.state())); err != nil {
		return nil, err
	}
	unlock, err := lock(ctx, o.CacheDir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	p := progress{w: o.Log, begun: time.Now()}
	if err := debian.Ensure(ctx, debian.Cluster(), o.Install, p); err != nil {
		return nil, err
	}
	builder, err := newBuilder(ctx, o.CacheDir, p)
	if err != nil {
		return nil, err
	}
	bin, err := builder.binaries(ctx)
	if err != nil {
		return nil, err
	}
	if !o.Fresh {
		if c := reuse(ctx, o.state(), bin, p); c != nil {
			return c, nil
		}
	}
	if err := down(ctx, o.state()); err != nil {
		return nil, fmt.Errorf("take down the cluster that was here: %w", err)
	}
	if err := prune(o.CacheDir, bin); err != nil {
		return nil, fmt.Errorf("remove old builds: %w", err)
	}
	c, err := start(ctx, o.state(), bin, builder, p)
	if err != nil {
		return nil, errors.Join(err, giveUp(o))
	}
	// What went wrong last time is of no use any more.
	if err := os.RemoveAll(o.failedLogs()); err != nil {
		return nil, fmt.Errorf("remove the logs of the last start that failed: %w", err)
	}
	p.printf("the cluster is up; KUBECONFIG=%s", c.Kubeconfig())
	return c, nil
}

// Build builds what Up would build, which takes many minutes the first time, and starts nothing. Tests
// call it first, so that a limit of their time needs no room for that.
func Build(ctx context.Context, options Options) error {
	if err := checkPlatform(); err != nil {
		return err
	}
	o, err := options.defaults()
	if err != nil {
		return err
	}
	_, err = buildLocked(ctx, o)
	return err
}

// buildLocked returns the binaries, built if need be, and keeps others from building the same meanwhile.
func buildLocked(ctx context.Context, o Options) (binaries, error) {
	unlock, err := lock(ctx, o.CacheDir)
	if err != nil {
		return binaries{}, err
	}
	defer unlock()
	builder, err := newBuilder(ctx, o.CacheDir, progress{w: o.Log, begun: time.Now()})
	if err != nil {
		return binaries{}, err
	}
	return builder.binaries(ctx)
}

// reuse returns the cluster that is running, or nil if there is none to rely on.
func reuse(ctx context.Context, dir stateDir, bin binaries, p progress) *Cluster {
	machines, err := findMachines(dir)
	if err != nil || len(machines) == 0 {
		return nil
	}
	if key, _ := os.ReadFile(dir.key()); string(key) != bin.key {
		p.printf("replacing the cluster that runs: it is of another build, or was never up")
		return nil
	}
	c, err := open(dir, bin)
	if err == nil {
		err = c.Healthy(ctx)
	}
	if err != nil {
		p.printf("replacing the cluster that runs: %v", err)
		return nil
	}
	p.printf("reusing the cluster that runs; KUBECONFIG=%s", c.Kubeconfig())
	return c
}

// giveUp keeps the logs of a start that failed, those of pods too, and takes down the rest.
func giveUp(o Options) error {
	// A context of its own: the start's has often just ended, which is why it failed.
	ctx, cancel := context.WithTimeout(context.Background(), downLimit)
	defer cancel()
	return errors.Join(keepLogs(o.state(), o.failedLogs()), down(ctx, o.state()))
}

// keepLogs moves the logs out of a cluster's directory. It returns an error in any case: where they
// are, or why they are lost.
func keepLogs(dir stateDir, kept string) error {
	if err := os.RemoveAll(kept); err != nil {
		return fmt.Errorf("keep the logs: %w", err)
	}
	for _, n := range nodes {
		// Not by the API, which may be what is wrong.
		err := os.Rename(dir.podLogs(n.Name), filepath.Join(dir.logs(), n.Name, "pods"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("keep the logs of the pods: %w", err)
		}
	}
	if err := os.Rename(dir.logs(), kept); err != nil {
		return fmt.Errorf("keep the logs: %w", err)
	}
	return fmt.Errorf("the logs of its components and pods are kept in %s", kept)
}

// start starts a new cluster in a directory that does not exist.
func start(ctx context.Context, dir stateDir, bin binaries, b *builder, p progress) (*Cluster, error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	if err := writePKI(dir, netip.AddrPortFrom(cpAddr, apiPort)); err != nil {
		return nil, err
	}
	// Built anew for each cluster: it is small, and it is part of this module, not of the nested one.
	if _, err := goOutput(ctx, filepath.Dir(b.module), "build", "-o", dir.init(), "./cmd/machine"); err != nil {
		return nil, fmt.Errorf("build the machines' first process: %w", err)
	}
	c, err := open(dir, bin)
	if err != nil {
		return nil, err
	}
	p.printf("starting the machines %s", strings.Join(machineNames(), ", "))
	if err := c.startMachines(ctx); err != nil {
		return nil, err
	}
	if err := c.bootstrap(ctx, p); err != nil {
		return nil, err
	}
	// Last: a cluster without a key is one whose start never ended.
	if err := os.WriteFile(dir.key(), []byte(bin.key), 0o644); err != nil {
		return nil, fmt.Errorf("note that the cluster is up: %w", err)
	}
	return c, nil
}

// startMachines starts all machines and lays the network between them.
func (c *Cluster) startMachines(ctx context.Context) error {
	if err := startMachine(c.dir, controlPlane(c.dir, c.bin)); err != nil {
		return err
	}
	cp, err := findMachine(c.dir, cpName)
	if err != nil {
		return err
	}
	if err := layBackbone(ctx, cp); err != nil {
		return err
	}
	for _, gate := range []string{gateNetwork, gateServer} {
		if err := openGate(c.dir, cpName, gate); err != nil {
			return err
		}
	}
	for _, n := range nodes {
		if err := c.startWorker(ctx, cp, n); err != nil {
			return err
		}
	}
	return nil
}

// startWorker starts a node's machine and joins it to the wire.
func (c *Cluster) startWorker(ctx context.Context, cp int, n Node) error {
	if err := makeCgroups(cgroupRoot, n.Name); err != nil {
		return err
	}
	spec, err := worker(c.dir, c.bin, n)
	if err != nil {
		return err
	}
	if err := startMachine(c.dir, spec); err != nil {
		return err
	}
	pid, err := findMachine(c.dir, n.Name)
	if err != nil {
		return err
	}
	return connect(ctx, cp, pid, n)
}

// bootstrap brings the started machines to a cluster: the API, the nodes, DNS and cert-manager.
func (c *Cluster) bootstrap(ctx context.Context, p progress) error {
	images, imagesCtx := errgroup.WithContext(ctx)
	images.Go(func() error {
		return c.LoadImage(imagesCtx, pauseImage, c.bin.path("pause"))
	})
	if err := c.awaitAPI(ctx); err != nil {
		return err
	}
	p.printf("the API server answers")
	for _, name := range machineNames() {
		if err := openGate(c.dir, name, gateAPI); err != nil {
			return err
		}
	}
	if err := images.Wait(); err != nil {
		return err
	}
	for _, n := range nodes {
		if err := openGate(c.dir, n.Name, gateImages); err != nil {
			return err
		}
	}
	addons, addonsCtx := errgroup.WithContext(ctx)
	addons.Go(func() error { return c.applyAddons(addonsCtx) })
	addons.Go(func() error {
		if err := c.awaitNodes(addonsCtx); err != nil {
			return err
		}
		p.printf("the nodes are ready")
		return nil
	})
	if err := addons.Wait(); err != nil {
		return err
	}
	if err := c.awaitDNS(ctx); err != nil {
		return err
	}
	p.printf("cluster DNS answers")
	if err := c.awaitCertManager(ctx); err != nil {
		return err
	}
	p.printf("cert-manager is ready")
	return nil
}

// applyAddons applies CoreDNS and cert-manager.
func (c *Cluster) applyAddons(ctx context.Context) error {
	data := newConfigData(c.dir, c.bin, Node{})
	for _, file := range []string{"coredns.yaml", "cert-manager.yaml"} {
		manifests, err := data.render(file)
		if err != nil {
			return err
		}
		if err := c.Apply(ctx, manifests); err != nil {
			return fmt.Errorf("apply %s: %w", file, err)
		}
		if file == "coredns.yaml" {
			// On the server's side: as an annotation, which apply keeps otherwise, these are too long.
			if _, err := c.Kubectl(ctx, nil, "apply", "--server-side", "-f", c.bin.crds()); err != nil {
				return fmt.Errorf("apply cert-manager's CRDs: %w", err)
			}
		}
	}
	return nil
}

// checkStatePath refuses directories that a machine lays something else over: its programs would not
// find their own files.
func checkStatePath(dir string) error {
	for _, hidden := range []string{"/etc", "/var", "/run", "/sys", "/proc"} {
		if strings.HasPrefix(dir+"/", hidden+"/") {
			return fmt.Errorf("keep the cluster's state in %s: the cluster's machines have a %s of their own; set Options.CacheDir or XDG_CACHE_HOME to a directory elsewhere", dir, hidden)
		}
	}
	return nil
}

// running tells whether all machines are there.
func (c *Cluster) running() error {
	found, err := findMachines(c.dir)
	if err != nil {
		return err
	}
	for _, name := range machineNames() {
		if _, ok := found[name]; !ok {
			log, _ := os.ReadFile(c.dir.log(name, "machine"))
			lines := strings.Split(strings.TrimSpace(string(log)), "\n")
			return fmt.Errorf("machine %s is not running; the end of its log: %s", name,
				strings.Join(lines[max(0, len(lines)-3):], " | "))
		}
	}
	return nil
}

// KillNode ends a node like a power cut: its daemons and pods are gone at once, its disk stays.
func (c *Cluster) KillNode(ctx context.Context, name string) error {
	if _, err := findNode(name); err != nil {
		return err
	}
	pid, err := findMachine(c.dir, name)
	if err != nil {
		return err
	}
	return killMachine(ctx, pid)
}

// StartNode starts a node again after KillNode; the kubelet then restarts its pods. It does not wait
// for the node to be ready; see AwaitNodes. It fails if the cluster has been taken down meanwhile, and
// waits for who is at it.
func (c *Cluster) StartNode(ctx context.Context, name string) error {
	n, err := findNode(name)
	if err != nil {
		return err
	}
	unlock, err := lock(ctx, filepath.Dir(string(c.dir)))
	if err != nil {
		return err
	}
	defer unlock()
	cp, err := findMachine(c.dir, cpName)
	if err != nil {
		return err
	}
	// The kubelet would take the cgroups of before the power cut for those of running pods.
	if err := removeCgroups(ctx, cgroupRoot, filepath.Join(clusterName, name)); err != nil {
		return err
	}
	if err := c.startWorker(ctx, cp, n); err != nil {
		return err
	}
	for _, gate := range []string{gateAPI, gateImages} {
		if err := openGate(c.dir, name, gate); err != nil {
			return err
		}
	}
	return nil
}

// Connect returns the cluster that is up. It fails if there is none; it does not ask whether the
// cluster is healthy.
func Connect(options Options) (*Cluster, error) {
	if err := checkPlatform(); err != nil {
		return nil, err
	}
	o, err := options.defaults()
	if err != nil {
		return nil, err
	}
	key, err := os.ReadFile(o.state().key())
	if errors.Is(err, os.ErrNotExist) {
		return nil, errors.New("no cluster is up; `make cluster-up` starts one")
	}
	if err != nil {
		return nil, fmt.Errorf("find the cluster: %w", err)
	}
	bin := builtBinaries(o.CacheDir, string(key))
	return open(o.state(), bin)
}

// Status describes each machine in a line: whether it runs, and its process.
func Status(options Options) ([]string, error) {
	o, err := options.defaults()
	if err != nil {
		return nil, err
	}
	found, err := findMachines(o.state())
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, name := range machineNames() {
		line := name + " is not running"
		if pid, ok := found[name]; ok {
			line = fmt.Sprintf("%s runs, process %d", name, pid)
		}
		lines = append(lines, line)
	}
	return lines, nil
}
