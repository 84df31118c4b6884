//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/e2e/cluster"
	"github.com/tulle-mesh/tulle/manifests"
)

// mesh is the cluster with Tulle installed; TestMain sets it.
var mesh *cluster.Cluster

// binDir is where `make build` put the programs.
var binDir = filepath.Join("..", "build")

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

// run brings the mesh up, runs the tests, and takes everything down again,
// after a failure too, unless KEEP is set.
func run(m *testing.M) (code int) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	keep, unsupported := os.Getenv("KEEP") != "", false
	defer func() {
		if code != 0 && mesh != nil {
			logs := filepath.Join(binDir, "e2e-logs")
			_ = os.RemoveAll(logs)
			if err := mesh.CollectLogs(context.WithoutCancel(ctx), logs); err != nil {
				fmt.Fprintln(os.Stderr, "collect logs:", err)
			}
			fmt.Fprintln(os.Stderr, "the logs of all components and pods are in build/e2e-logs")
		}
		if unsupported {
			return // there is nothing to take down
		}
		if keep {
			fmt.Fprintln(os.Stderr, "the cluster stays up (KEEP); make cluster-down takes it down")
			return
		}
		if err := cluster.Down(context.WithoutCancel(ctx), cluster.Options{}); err != nil {
			fmt.Fprintln(os.Stderr, "take the cluster down:", err)
			code = 1
		}
	}()
	began := time.Now()
	c, err := cluster.Up(ctx, cluster.Options{Install: true})
	if err != nil {
		fmt.Fprintln(os.Stderr, "bring the cluster up:", err)
		if unsupported = errors.Is(err, cluster.ErrUnsupported); unsupported {
			fmt.Fprintln(os.Stderr, "make unit runs all tests that need no cluster")
		}
		return 1
	}
	mesh = c
	fmt.Printf("cluster up after %.1f s\n", time.Since(began).Seconds())
	if err := install(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "install the mesh:", err)
		return 1
	}
	fmt.Printf("mesh up after %.1f s\n", time.Since(began).Seconds())
	return m.Run()
}

// install gives the nodes this tree's images and applies the chart. On a
// cluster that was kept, programs that changed are restarted.
func install(ctx context.Context) error {
	for _, name := range []string{"tulle-controller", "tulle-proxy", "helloworld"} {
		if err := mesh.LoadImage(ctx, "tulle.dev/"+name+":dev", filepath.Join(binDir, name)); err != nil {
			return err
		}
	}
	// On a kept cluster the pods may run older programs under the same name.
	running, err := mesh.Kubectl(ctx, nil, "get", "--ignore-not-found", "-n", "tulle", "deployment/tulle-controller", "-o", "name")
	if err != nil {
		return err
	}
	chart, err := manifests.Render("tulle", nil)
	if err != nil {
		return err
	}
	if _, err := mesh.Kubectl(ctx, strings.NewReader(string(chart)), "apply", "-f", "-"); err != nil {
		return err
	}
	if running != "" {
		if _, err := mesh.Kubectl(ctx, nil, "rollout", "restart", "-n", "tulle", "deployment/tulle-controller", "daemonset/tulle-host"); err != nil {
			return err
		}
	}
	for _, object := range []string{"deployment/tulle-controller", "daemonset/tulle-host"} {
		if _, err := mesh.Kubectl(ctx, nil, "rollout", "status", "-n", "tulle", "--timeout=120s", object); err != nil {
			return err
		}
	}
	return nil
}
