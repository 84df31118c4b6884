//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/e2e/cluster"
	"github.com/tulle-mesh/tulle/e2e/cluster/suite"
	"github.com/tulle-mesh/tulle/manifests"
)

// mesh is the cluster with Tulle installed; TestMain sets it.
var mesh *cluster.Cluster

// binDir is where `make build` put the programs.
var binDir = filepath.Join("..", "build")

func TestMain(m *testing.M) {
	os.Exit(suite.Run(m, suite.Config{Up: up, Failed: collectLogs, Down: down}))
}

func up(ctx context.Context) error {
	began := time.Now()
	c, err := cluster.Up(ctx, cluster.Options{Install: true})
	if errors.Is(err, cluster.ErrUnsupported) {
		return fmt.Errorf("%w; make unit runs all tests that need no cluster", err)
	}
	if err != nil {
		return err
	}
	mesh = c
	fmt.Printf("cluster up after %.1f s\n", time.Since(began).Seconds())
	if err := install(ctx); err != nil {
		return fmt.Errorf("install the mesh: %w", err)
	}
	fmt.Printf("mesh up after %.1f s\n", time.Since(began).Seconds())
	return nil
}

func collectLogs(ctx context.Context) {
	if mesh == nil {
		return // the error of Up says where the logs are
	}
	logs := filepath.Join(binDir, "e2e-logs")
	_ = os.RemoveAll(logs)
	if err := mesh.CollectLogs(ctx, logs); err != nil {
		fmt.Fprintln(os.Stderr, "collect logs:", err)
	}
	fmt.Fprintln(os.Stderr, "the logs of all components and pods are in build/e2e-logs")
}

func down(ctx context.Context) error {
	if mesh == nil {
		return nil // Up has taken down what it started
	}
	if suite.Keep() {
		fmt.Fprintln(os.Stderr, "the cluster stays up (KEEP); make cluster-down takes it down")
		return nil
	}
	return cluster.Down(ctx, cluster.Options{})
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
