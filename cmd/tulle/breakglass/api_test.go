//go:build e2e

package breakglass

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/tulle-mesh/tulle/e2e/chart"
	"github.com/tulle-mesh/tulle/e2e/cluster"
	"github.com/tulle-mesh/tulle/e2e/cluster/apitest"
)

// tulle runs a command line as a user of the API server.
func tulle(ctx context.Context, api *cluster.API, args ...string) (stdout, stderr string, err error) {
	cmd := Command()
	var out, talk bytes.Buffer
	cmd.SetArgs(append(args, "--kubeconfig", api.Kubeconfig()))
	cmd.SetOut(&out)
	cmd.SetErr(&talk)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	err = cmd.ExecuteContext(ctx)
	return out.String(), talk.String(), err
}

func TestCommand(t *testing.T) {
	api := apitest.Start(t)
	if _, _, err := tulle(t.Context(), api); err == nil || !strings.Contains(err.Error(), "no MutatingWebhookConfiguration") {
		t.Errorf("without Tulle: %v", err)
	}
	text := chart.Render(t, "tulle", map[string]any{"createNamespace": true}).Only(func(o chart.Object) bool { return !strings.Contains(o.Text, "cert-manager.io") })
	if _, err := api.Kubectl(t.Context(), strings.NewReader(text), "apply", "--server-side", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	client := api.Client()
	shop(t, client)

	out, talk, err := tulle(t.Context(), api)
	if err != nil || talk != "" || strings.TrimSpace(out) != "break-glass  closed" {
		t.Errorf("before: %q %q %v", out, talk, err)
	}
	if out, talk, err = tulle(t.Context(), api, "--close"); err != nil || !strings.Contains(talk, "is not open") {
		t.Errorf("closing what is closed: %q %q %v", out, talk, err)
	}
	out, talk, err = tulle(t.Context(), api, "--for", "15m", "--reason", "INC-7")
	if err != nil || !strings.Contains(out, "open, for 15m0s more") && !strings.Contains(out, "open, for 14m") || !strings.Contains(out, "INC-7") || !strings.Contains(out, "slipped through  0 pods") {
		t.Fatalf("opened: %q %v", out, err)
	}
	if !strings.Contains(talk, "start without the mesh") || !strings.Contains(talk, "warning: no controller is ready") {
		t.Errorf("it says %q", talk)
	}
	yes := true
	made := func() bool {
		_, err := client.CoreV1().Pods("shop").Create(t.Context(), &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "web-5f6d-x", Labels: map[string]string{appsv1.DefaultDeploymentUniqueLabelKey: "5f6d"}, OwnerReferences: []metav1.OwnerReference{
				{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web-5f6d", UID: "1", Controller: &yes}}},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "app"}}},
		}, metav1.CreateOptions{})
		return err == nil
	}
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for !made() {
		select {
		case <-ticker.C:
		case <-t.Context().Done():
			t.Fatal("no pod is made")
		}
	}
	out, _, err = tulle(t.Context(), api, "-o", "json")
	var r report
	if err != nil || json.Unmarshal([]byte(out), &r) != nil || !r.Active || len(r.Slipped) != 1 || r.Open == nil || r.Open.By == "" {
		t.Errorf("while open: %s %v", out, err)
	}
	out, talk, err = tulle(t.Context(), api, "--close")
	if err != nil || !strings.Contains(out, "deployment/web") || !strings.Contains(out, "closed") || !strings.Contains(talk, "Break-glass is closed") {
		t.Errorf("closed: %q %q %v", out, talk, err)
	}
	// The list stays for those who ask later.
	if out, _, err = tulle(t.Context(), api); err != nil || !strings.Contains(out, "slipped through  1 pods") || !strings.Contains(out, "shop") {
		t.Errorf("afterwards: %q %v", out, err)
	}

	// No controller, but somebody who waits.
	out, talk, err = tulle(t.Context(), api, "--for", "3s", "--reason", "INC-8", "--wait")
	if err != nil || !strings.HasPrefix(out, "break-glass      closed\n") || !strings.Contains(talk, "Waiting for that") || strings.Contains(talk, "warning") {
		t.Errorf("waited: %q %q %v", out, talk, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, _, err = tulle(ctx, api, "--for", "1h", "--reason", "INC-9", "--wait"); err == nil || !strings.Contains(err.Error(), "still open") {
		t.Errorf("interrupted: %v", err)
	}
	if _, _, err = tulle(t.Context(), api, "--close"); err != nil {
		t.Error(err)
	}
	// By hand.
	if _, err := api.Kubectl(t.Context(), nil, "patch", "mutatingwebhookconfiguration", "tulle-injector", "--type=json", "-p",
		`[{"op":"replace","path":"/webhooks/0/failurePolicy","value":"Ignore"}]`); err != nil {
		t.Fatal(err)
	}
	if out, _, err = tulle(t.Context(), api); err != nil || !strings.Contains(out, "by hand") {
		t.Errorf("by hand: %q %v", out, err)
	}
	if _, _, err = tulle(t.Context(), api, "--close"); err == nil || !strings.Contains(err.Error(), "by hand") {
		t.Errorf("closing what was opened by hand: %v", err)
	}
}

// shop makes a namespace of the mesh.
func shop(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	for _, name := range []string{"shop"} {
		if _, err := client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"tulle.dev/inject": "enabled"}}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}
