//go:build e2e

package lifecycle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/e2e/cluster"
	"github.com/tulle-mesh/tulle/manifests"
)

// patience is how long tests wait for what takes milliseconds on a machine that is idle.
const patience = time.Minute

// certManager tells the API server of cert-manager's kinds.
func certManager(t *testing.T, api *cluster.API) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/cert-manager/cert-manager").Output()
	if err != nil {
		t.Fatal(err)
	}
	kubectl(t, api, "", "apply", "--server-side", "-f", filepath.Join(strings.TrimSpace(string(out)), "deploy", "crds"))
	kubectl(t, api, "", "wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
}

func kubectl(t *testing.T, api *cluster.API, stdin string, args ...string) string {
	t.Helper()
	out, err := api.Kubectl(t.Context(), strings.NewReader(stdin), args...)
	if err != nil {
		t.Fatalf("kubectl %s: %v", strings.Join(args, " "), err)
	}
	return out
}

// install does what "tulle install | kubectl apply -f -" does.
func install(t *testing.T, api *cluster.API, values map[string]any, args ...string) {
	t.Helper()
	text, err := manifests.Render("tulle", values)
	if err != nil {
		t.Fatal(err)
	}
	kubectl(t, api, string(text), append([]string{"apply", "-f", "-"}, args...)...)
	kubectl(t, api, "", "wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
}

// tulle runs a command against an API server.
func tulle(t *testing.T, api *cluster.API, command *cobra.Command, stdin string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var out, talk bytes.Buffer
	root := &cobra.Command{Use: "tulle", SilenceErrors: true, SilenceUsage: true}
	root.AddCommand(command)
	root.SetArgs(append([]string{command.Name(), "--kubeconfig", api.Kubeconfig()}, args...))
	root.SetIn(strings.NewReader(stdin))
	root.SetOut(&out)
	root.SetErr(&talk)
	err = root.ExecuteContext(ctx)
	if os.Getenv("SHOW") != "" { // to read it as a user would
		t.Logf("tulle %s %s\n%s%s%v", command.Name(), strings.Join(args, " "), &out, &talk, err)
	}
	return out.String(), talk.String(), err
}

// rollOut plays the controllers of Deployments and DaemonSets: all pods there are to be run, on this many nodes.
func rollOut(t *testing.T, api *cluster.API, nodes int32) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan struct{})
	apps := api.Client().AppsV1()
	go func() {
		defer close(done)
		ticker := time.NewTicker(50 * time.Millisecond)
		defer ticker.Stop()
		for {
			if d, err := apps.Deployments("tulle").Get(ctx, "tulle-controller", metav1.GetOptions{}); err == nil {
				n := *d.Spec.Replicas
				d.Status = appsv1.DeploymentStatus{ObservedGeneration: d.Generation, Replicas: n, UpdatedReplicas: n, ReadyReplicas: n, AvailableReplicas: n}
				_, _ = apps.Deployments("tulle").UpdateStatus(ctx, d, metav1.UpdateOptions{}) // again in a moment
			}
			if d, err := apps.DaemonSets("tulle").Get(ctx, "tulle-host", metav1.GetOptions{}); err == nil {
				d.Status = appsv1.DaemonSetStatus{ObservedGeneration: d.Generation, DesiredNumberScheduled: nodes, CurrentNumberScheduled: nodes,
					UpdatedNumberScheduled: nodes, NumberReady: nodes, NumberAvailable: nodes}
				_, _ = apps.DaemonSets("tulle").UpdateStatus(ctx, d, metav1.UpdateOptions{})
			}
			select {
			case <-ticker.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
}

// fails expects an error with this text and a hint with that one.
func fails(t *testing.T, err error, text, hint string) {
	t.Helper()
	var f interface{ Hint() string }
	if err == nil || !strings.Contains(err.Error(), text) || !errors.As(err, &f) || !strings.Contains(f.Hint(), hint) {
		t.Errorf("the error is %s, want %q with the hint %q", worded(err), text, hint)
	}
}

func worded(err error) string {
	var f interface{ Hint() string }
	if errors.As(err, &f) {
		return fmt.Sprintf("%q, hint %q", err, f.Hint())
	}
	return fmt.Sprint(err)
}
