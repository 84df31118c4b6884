//go:build e2e

package cluster

import (
	"os"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// An API server alone: it keeps what it was told through a crash, and leaves nothing behind.
func TestAPI(t *testing.T) {
	began := time.Now()
	api, err := StartAPI(t.Context(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := api.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(string(api.dir)); !os.IsNotExist(err) {
			t.Errorf("its directory is left: %v", err)
		}
	}()
	t.Logf("ready after %s", time.Since(began))
	pods := api.Client().CoreV1().Pods("default")
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "a", Image: "a"}}}}
	if _, err := pods.Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := api.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := pods.Get(t.Context(), "a", metav1.GetOptions{}); err == nil {
		t.Error("it answers though it is stopped")
	}
	if err := api.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := pods.Get(t.Context(), "a", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	if out, err := api.Kubectl(t.Context(), nil, "get", "pods", "-o", "name"); err != nil || out != "pod/a\n" {
		t.Errorf("kubectl says %q, %v", out, err)
	}
}
