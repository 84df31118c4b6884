// Package demo runs a whole mesh on one machine's loopback addresses and walks
// through what it does: no root, no cluster, no containers.
//
// What is real: the injector answers AdmissionReviews for the pods of
// manifests/examples/hello-world.yaml, the namer keeps the dtab and the
// endpoints, identity signs the proxies' certificates, and tulle-proxy and
// helloworld run as processes with the environment that the patched pods ask
// for. What is played: a host is a loopback address, a pod is its processes, and
// this package stands in for the scheduler, the kubelets and the endpoint
// controller. On loopback the kernel shows every caller as 127.0.0.1, so the
// host proxies take all callers for pods of the manifest's host-mode namespace.
//
//	err := demo.Run(ctx, demo.Config{Bin: dir, Out: os.Stdout, Once: true})
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/tulle-mesh/tulle/internal/run"
)

// Config says how to run the demo.
type Config struct {
	Bin  string    // directory with tulle-proxy and helloworld
	Out  io.Writer // what the user reads
	Once bool      // end after the walk instead of staying until ctx ends
	// SingleAddress tells hosts and pods apart by ports even where the machine
	// has more loopback addresses than 127.0.0.1.
	SingleAddress bool
}

// An Error is one sentence for the user and, if there is something to do about
// it, a hint.
type Error struct{ Message, Hint string }

func (e *Error) Error() string { return e.Message }

// Run starts the mesh, walks through it and, unless Once is set, stays until
// ctx ends. Whatever it started is gone when it returns. It fails if anything
// did not start or any answer was not the right one.
func Run(ctx context.Context, cfg Config) error {
	for _, name := range []string{"tulle-proxy", "helloworld"} {
		if _, err := os.Stat(filepath.Join(cfg.Bin, name)); err != nil {
			return &Error{fmt.Sprintf("the program %s is not in %s", name, cfg.Bin), "make build puts it there; make demo does all of it"}
		}
	}
	objects, err := exampleObjects()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "tulle-demo-")
	if err != nil {
		return fmt.Errorf("make a directory for the demo's files: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()

	m := newMesh(cfg, dir, objects)
	if err := m.plan.free(); err != nil {
		return err
	}
	control, err := newControl(m.plan, objects.namespaces, m.callers())
	if err != nil {
		return err
	}
	m.control = control

	// The control plane outlives the processes, which talk to it to the end.
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	stopped := make(chan error, 1)
	go func() {
		stopped <- run.Group(background, run.Config{Logger: slog.New(slog.DiscardHandler)}, control.servers...)
	}()
	defer func() { stop(); <-stopped }()
	defer m.stop()

	began := time.Now()
	if err := m.start(ctx); err != nil {
		return m.explain(ctx, err)
	}
	m.say("The mesh is up after %.1f s: %d proxies, %d applications.\n", time.Since(began).Seconds(), len(m.proxies), m.applications)
	if err := m.walk(ctx); err != nil {
		return m.explain(ctx, err)
	}
	if cfg.Once {
		return nil
	}
	m.farewell()
	select {
	case <-ctx.Done():
		m.say("\nStopping.")
		return nil
	case err := <-m.died():
		return m.explain(ctx, err)
	}
}

// explain adds the last words of a process that died to an error of the walk.
func (m *mesh) explain(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return &Error{"interrupted", ""}
	}
	var dead *deadError
	if errors.As(err, &dead) {
		return &Error{dead.Error(), ""}
	}
	select {
	case dead := <-m.died():
		return &Error{dead.Error(), ""}
	default:
		return err
	}
}

func (m *mesh) say(format string, args ...any) { _, _ = fmt.Fprintf(m.cfg.Out, format+"\n", args...) }
