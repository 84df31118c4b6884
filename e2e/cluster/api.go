package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// apiStartLimit bounds the start of an API server with built binaries; it takes about four seconds, and more while
// the machine is busy.
const apiStartLimit = 2 * time.Minute

// API is an API server with its etcd, and nothing else of Kubernetes: no controllers, no scheduler, no nodes.
// What is not created does not exist, and nothing happens by itself; it holds tens of thousands of objects.
//
// Unlike a [Cluster] it needs no root and no packages of the system, there may be several at a time, beside a
// cluster too, and it ends with the program that started it. Its methods, but for those of Access, are not to
// be called concurrently.
type API struct {
	Access
	etcd, server *exec.Cmd // server is nil while it is stopped
	flags        []string
}

// StartAPI starts an API server at a port of 127.0.0.1 that is free, and returns when it is ready. Of the options,
// CacheDir and Log count. It builds Kubernetes if need be; see [Build]. The error wraps [ErrUnsupported] if
// this is not Linux.
func StartAPI(ctx context.Context, options Options) (*API, error) {
	if runtime.GOOS != "linux" {
		return nil, fmt.Errorf("%w: it needs Linux and this is %s", ErrUnsupported, runtime.GOOS)
	}
	o, err := options.defaults()
	if err != nil {
		return nil, err
	}
	bin, err := buildLocked(ctx, o)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "tulle-api-")
	if err != nil {
		return nil, fmt.Errorf("make room for the API server: %w", err)
	}
	a := &API{}
	if err := a.begin(ctx, stateDir(dir), bin); err != nil {
		return nil, errors.Join(err, a.Close(), os.RemoveAll(dir))
	}
	return a, nil
}

func (a *API) begin(ctx context.Context, dir stateDir, bin binaries) error {
	ports, err := freePorts(3)
	if err != nil {
		return err
	}
	client, peer, secure := ports[0], ports[1], ports[2]
	if err := writePKI(dir, secure); err != nil {
		return err
	}
	if a.Access, err = newAccess(dir, bin); err != nil {
		return err
	}
	a.flags = append(apiServerFlags(dir, "http://"+client.String()),
		"--bind-address="+secure.Addr().String(), // flags that are given twice count as given last
		fmt.Sprintf("--secure-port=%d", secure.Port()),
		"--endpoint-reconciler-type=none", // the address it advertises is not there
		// Pods have no service accounts where no controller makes these.
		"--disable-admission-plugins=ServiceAccount")
	if a.etcd, err = a.run("etcd",
		"--data-dir="+filepath.Join(string(dir), "etcd"),
		"--listen-client-urls=http://"+client.String(), "--advertise-client-urls=http://"+client.String(),
		"--listen-peer-urls=http://"+peer.String(),
		"--unsafe-no-fsync"); err != nil {
		return err
	}
	return a.Start(ctx)
}

// Start starts the API server again after Stop, at the same port and with the same objects, and returns when it
// is ready.
func (a *API) Start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, apiStartLimit)
	defer cancel()
	server, err := a.run("kube-apiserver", a.flags...)
	if err != nil {
		return err
	}
	a.server = server
	for {
		_, err := a.client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		if err == nil {
			return nil
		}
		if !alive(server.Process.Pid) {
			err = errors.New("it has ended")
		} else if sleep(ctx, pollInterval) == nil {
			continue
		}
		log, _ := os.ReadFile(a.dir.log("api", "kube-apiserver"))
		lines := strings.Split(strings.TrimSpace(string(log)), "\n")
		return fmt.Errorf("wait for the API server: %w; the end of its log: %s", err, strings.Join(lines[max(0, len(lines)-5):], " | "))
	}
}

// Stop ends the API server at once, as a crash would: connections break, and nobody answers until Start.
func (a *API) Stop() error {
	server := a.server
	a.server = nil
	return end(server)
}

// Close ends everything and removes what is on the disk.
func (a *API) Close() error {
	return errors.Join(a.Stop(), end(a.etcd), os.RemoveAll(string(a.dir)))
}

// run starts a program that ends with this one.
func (a *API) run(name string, args ...string) (*exec.Cmd, error) {
	file := a.dir.log("api", name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	log, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer log.Close()
	cmd := exec.Command(a.bin.path(name), args...)
	cmd.Env, cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = a.bin.env(), log, log, endWithParent()
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return cmd, nil
}

// end kills a program of run and waits until it is gone; nil is none.
func end(cmd *exec.Cmd) error {
	if cmd == nil {
		return nil
	}
	if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end %s: %w", cmd.Path, err)
	}
	_ = cmd.Wait() // which says that it was killed, or that it has been reaped already
	return nil
}

// freePorts returns addresses of 127.0.0.1 that nobody listens at.
func freePorts(n int) ([]netip.AddrPort, error) {
	var ports []netip.AddrPort
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer l.Close() // not before all are found, which would be one port several times
		port, err := netip.ParseAddrPort(l.Addr().String())
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		ports = append(ports, port)
	}
	return ports, nil
}
