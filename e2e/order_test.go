//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/manifests"
)

// configure installs the chart anew with other values, until the test is over.
func configure(t *testing.T, values map[string]any) {
	t.Helper()
	apply := func(ctx context.Context, values map[string]any) error {
		chart, err := manifests.Render("tulle", values)
		if err != nil {
			return err
		}
		if _, err := mesh.Kubectl(ctx, strings.NewReader(string(chart)), "apply", "-f", "-"); err != nil {
			return err
		}
		_, err = mesh.Kubectl(ctx, nil, "rollout", "status", "-n", "tulle", "--timeout=120s", "deployment/tulle-controller")
		return err
	}
	t.Cleanup(func() {
		if err := apply(context.WithoutCancel(t.Context()), nil); err != nil {
			t.Error(err)
		}
	})
	if err := apply(t.Context(), values); err != nil {
		t.Fatal(err)
	}
}

// forms are those of the sidecar, and the values of the chart that have the injector use them.
var forms = map[string]map[string]any{
	"native":  {"injector": map[string]any{"nativeSidecar": "true"}},
	"classic": {"injector": map[string]any{"nativeSidecar": "false"}},
}

// held is a pod of the application that makes one request at its beginning and one at its end.
func held(url string) corev1.PodSpec {
	spec := helloworld("hold", url)
	spec.Containers[0].Image = clientsImage
	return spec
}

// TestOrder holds pods to the order of start and stop that their form of the sidecar promises: the application's very
// first request goes through the proxy, and so does its last, two seconds after all were told to stop. Init containers
// reach the mesh through a native sidecar, and whatever they want without one beside a classic. Jobs end.
func TestOrder(t *testing.T) {
	loadClients(t)
	// The proxy of the called node counts what came through the mesh, by name.
	to := namespace(t, "e2e-order-to", "host")
	for form, values := range forms {
		t.Run(form, func(t *testing.T) {
			configure(t, values)
			for _, capture := range []string{"env", "redirect"} {
				t.Run(capture, func(t *testing.T) {
					ns := namespace(t, "e2e-order-"+form+"-"+capture, "sidecar")
					if capture == "redirect" { // whose init container needs NET_ADMIN
						kubectl(t, "label", "--overwrite", "namespace", ns, "pod-security.kubernetes.io/enforce=privileged")
					}
					recorder := app{namespace: to, name: form + "-" + capture, text: "here", node: "n2"}.start(t)
					reach(t, client(t, hostProxy(t, "n1")), "http://"+recorder.name+"."+to)
					url := "http://" + recorder.name + "." + to
					annotations := map[string]string{"tulle.dev/capture": capture}
					service := "/svc/" + recorder.name + "." + to
					through := func() int { return counted(t, nodeIP(t, "n2"), "incoming", service) }

					t.Run("app", func(t *testing.T) {
						before := through()
						p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "held", Annotations: annotations}, Spec: held(url)}
						p.Spec.NodeName = ""
						init := p.Spec.Containers[0]
						init.Name, init.Args, init.ReadinessProbe, init.Ports = "first", []string{"once", url}, nil, nil
						p.Spec.InitContainers = []corev1.Container{init}
						created, warned, err := createPod(t, p)
						if err != nil {
							t.Fatalf("%v; warned of %q", err, warned)
						}
						if native := hasContainer(created.Spec.InitContainers, "tulle-proxy"); native != (form == "native") {
							t.Fatalf("the sidecar is native: %v", native)
						}
						pods := mesh.Client().CoreV1().Pods(ns)
						await(t, "the pod to be ready", func(ctx context.Context) (bool, string) {
							p, err := pods.Get(ctx, "held", metav1.GetOptions{})
							if err != nil {
								return false, err.Error()
							}
							for _, s := range p.Status.ContainerStatuses {
								if !s.Ready || s.RestartCount > 0 {
									return false, s.String()
								}
							}
							return len(p.Status.ContainerStatuses) > 0, p.Status.String()
						})
						want := 1 // the app's first
						if form == "native" {
							want++ // the init container's
						}
						await(t, "the first requests to be counted", func(context.Context) (bool, string) {
							n := through() - before
							return n == want, fmt.Sprintf("%d came through the mesh, want %d", n, want)
						})
						began := time.Now()
						kubectl(t, "delete", "pod", "-n", ns, "held", "--timeout=60s")
						t.Logf("the pod was gone after %.1f s", time.Since(began).Seconds())
						await(t, "the last request to be counted", func(context.Context) (bool, string) {
							n := through() - before
							return n == want+1, fmt.Sprintf("%d came through the mesh, want %d", n, want+1)
						})
						if took := time.Since(began); took > 25*time.Second {
							t.Errorf("the pod took %s to go, which is its whole grace", took)
						}
					})

					t.Run("job", func(t *testing.T) {
						before := through()
						spec := held(url)
						spec.RestartPolicy = corev1.RestartPolicyNever
						spec.Containers[0].Args, spec.Containers[0].ReadinessProbe = []string{"once", url}, nil
						jobs := mesh.Client().BatchV1().Jobs(ns)
						if _, err := jobs.Create(t.Context(), &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "once"},
							Spec: batchv1.JobSpec{BackoffLimit: new(int32), Template: corev1.PodTemplateSpec{
								ObjectMeta: metav1.ObjectMeta{Annotations: annotations}, Spec: spec}}}, metav1.CreateOptions{}); err != nil {
							t.Fatal(err)
						}
						await(t, "the job to be complete", func(ctx context.Context) (bool, string) {
							job, err := jobs.Get(ctx, "once", metav1.GetOptions{})
							if err != nil {
								return false, err.Error()
							}
							if job.Status.Failed > 0 {
								t.Fatalf("the job failed: %s", job.Status.String())
							}
							return job.Status.Succeeded == 1, job.Status.String()
						})
						await(t, "the job's request to be counted", func(context.Context) (bool, string) {
							n := through() - before
							return n == 1, fmt.Sprintf("%d came through the mesh, want 1", n)
						})
					})
				})
			}
		})
	}
}

func hasContainer(list []corev1.Container, name string) bool {
	for _, c := range list {
		if c.Name == name {
			return true
		}
	}
	return false
}

// TestRollingRestarts restarts caller and called of a chain under load, in each mode and form, and no request fails.
func TestRollingRestarts(t *testing.T) {
	for _, form := range []string{"host", "native", "classic"} {
		t.Run(form, func(t *testing.T) {
			mode := "sidecar"
			if form == "host" {
				mode = "host"
			} else {
				configure(t, forms[form])
			}
			ns := namespace(t, "e2e-rolling-"+form, mode)
			world := app{namespace: ns, name: "world", text: "world", replicas: 2}.start(t)
			hello := app{namespace: ns, name: "hello", text: "Hello", target: "world", replicas: 2}.start(t)
			c, target := client(t, hostProxy(t, "n1")), "http://hello."+ns
			reach(t, c, target)
			l := steady(t, c, target, 20*time.Millisecond)
			for range 2 {
				for _, a := range []app{world, hello} {
					kubectl(t, "rollout", "restart", "-n", ns, "deployment/"+a.name)
				}
				for _, a := range []app{world, hello} {
					a.ready(t)
				}
			}
			result := l.stop()
			t.Logf("%d requests were answered", result.answered)
			if len(result.failures) > 0 {
				t.Errorf("%d requests failed, the first: %s", len(result.failures), result.failures[0])
			}
			if result.answered < 100 {
				t.Errorf("only %d requests were sent; that is no steady load", result.answered)
			}
		})
	}
}
