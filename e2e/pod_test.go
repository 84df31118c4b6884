//go:build e2e

package e2e

import (
	"context"
	"strings"
	"sync"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// warnings collects what the API server says beside its answers.
type warnings struct {
	mu   sync.Mutex
	text []string
}

// HandleWarningHeader implements rest.WarningHandler.
func (w *warnings) HandleWarningHeader(_ int, _, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text = append(w.text, text)
}

// createPod creates a pod as a user would, and returns what became of it and
// what the user was warned of.
func createPod(t *testing.T, p *corev1.Pod) (*corev1.Pod, string, error) {
	t.Helper()
	said := &warnings{}
	config := mesh.RESTConfig()
	config.WarningHandler = said
	c, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	created, err := c.CoreV1().Pods(p.Namespace).Create(t.Context(), p, metav1.CreateOptions{})
	said.mu.Lock()
	defer said.mu.Unlock()
	return created, strings.Join(said.text, "\n"), err
}

// Who has a proxy of their own keeps it, and is told what that means.
func TestOwnProxyIsLeftAlone(t *testing.T) {
	own := corev1.EnvVar{Name: "http_proxy", Value: "http://proxy.example:3128"}
	for _, mode := range []string{"host", "sidecar"} {
		t.Run(mode, func(t *testing.T) {
			p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace(t, "e2e-own-"+mode, mode), Name: "own"}, Spec: helloworld()}
			p.Spec.Containers[0].Env = []corev1.EnvVar{own}
			created, warned, err := createPod(t, p)
			if err != nil {
				t.Fatal(err)
			}
			if env := created.Spec.Containers[0].Env; len(env) != 1 || env[0] != own {
				t.Errorf("the environment was changed: %v", env)
			}
			if !strings.Contains(warned, `container "app" defines http_proxy itself and is left alone`) {
				t.Errorf("the user was warned of %q", warned)
			}
			if got := created.Labels["tulle.dev/mode"]; got != mode {
				t.Errorf("the pod's incoming requests have the mode %q, want %s", got, mode)
			}
		})
	}
}

func TestUnknownModeIsDenied(t *testing.T) {
	ns := namespace(t, "e2e-mode", "host")
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "ambient",
		Annotations: map[string]string{"tulle.dev/mode": "ambient"}}, Spec: helloworld()}
	_, _, err := createPod(t, p)
	if err == nil {
		t.Fatal("a pod with an unknown mode was created")
	}
	for _, want := range []string{"denied", "tulle.dev/mode", `"ambient"`, "sidecar", "host"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the denial does not name %s: %v", want, err)
		}
	}
}

// A Job is done when its own container is, whatever runs beside it.
func TestJobEndsBesideSidecar(t *testing.T) {
	ns := namespace(t, "e2e-job", "sidecar")
	spec := helloworld("-help") // which says so and ends
	spec.RestartPolicy = corev1.RestartPolicyNever
	spec.Containers[0].ReadinessProbe = nil
	jobs := mesh.Client().BatchV1().Jobs(ns)
	_, err := jobs.Create(t.Context(), &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "once"},
		Spec: batchv1.JobSpec{BackoffLimit: new(int32), Template: corev1.PodTemplateSpec{Spec: spec}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	await(t, "the job to be complete", func(ctx context.Context) (bool, string) {
		job, err := jobs.Get(ctx, "once", metav1.GetOptions{})
		if err != nil {
			return false, err.Error()
		}
		return job.Status.Succeeded == 1, job.Status.String()
	})
	pods, err := mesh.Client().CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{})
	if err != nil || len(pods.Items) != 1 {
		t.Fatalf("the job has %d pods, %v", len(pods.Items), err)
	}
	p := pods.Items[0]
	if n := len(p.Spec.InitContainers); n != 1 || p.Spec.InitContainers[0].Name != "tulle-proxy" {
		t.Errorf("the job ran without a sidecar: %v", p.Spec.InitContainers)
	}
}
