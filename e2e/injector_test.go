//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// With the controller gone, pods of opted-in namespaces wait for it, all others
// start, and the mesh goes on routing.
func TestControllerDown(t *testing.T) {
	inside, outside := namespace(t, "e2e-down-inside", "host"), namespace(t, "e2e-down-outside", "")
	world := app{namespace: inside, name: "world", text: "world", node: "n2"}.start(t).pod(t)
	hello := app{namespace: inside, name: "hello", text: "Hello", target: "world", node: "n1"}.start(t).pod(t)
	c := client(t, hostProxy(t, "n1"))
	reach(t, c, "http://hello."+inside)
	expect(t, c, "http://hello."+inside, answer(hello, "world", world))

	l := steady(t, c, "http://hello."+inside, 50*time.Millisecond)
	kubectl(t, "scale", "-n", "tulle", "deployment/tulle-controller", "--replicas=0")
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		_, _ = mesh.Kubectl(ctx, nil, "scale", "-n", "tulle", "deployment/tulle-controller", "--replicas=2")
		_, _ = mesh.Kubectl(ctx, nil, "rollout", "status", "-n", "tulle", "--timeout=120s", "deployment/tulle-controller")
	})
	await(t, "the controller's pods to be gone", func(context.Context) (bool, string) {
		out := kubectl(t, "get", "pods", "-n", "tulle", "-l", "app.kubernetes.io/component=controller", "-o", "name")
		return out == "", out
	})

	var waiting []app // one for each node
	for _, node := range []string{"n1", "n2"} {
		a := app{namespace: inside, name: "waiting-" + node, text: "Late", target: "world", node: node}
		a.create(t)
		waiting = append(waiting, a)
	}
	app{namespace: outside, name: "starts", text: "here"}.start(t)
	await(t, "the API server to say why the pod waits", func(context.Context) (bool, string) {
		events := kubectl(t, "get", "events", "-n", inside, "--field-selector", "reason=FailedCreate", "-o", "jsonpath={.items[*].message}")
		return strings.Contains(events, "failed calling webhook"), events
	})
	for _, a := range waiting {
		if pods := a.pods(t); len(pods) != 0 {
			t.Errorf("%d pods of %s started without the injector", len(pods), a.name)
		}
	}
	if status, body, err := get(t.Context(), c, "http://hello."+inside); err != nil || status != 200 {
		t.Errorf("the mesh does not route while the controller is down: %d %q %v", status, body, err)
	}

	kubectl(t, "scale", "-n", "tulle", "deployment/tulle-controller", "--replicas=2")
	kubectl(t, "rollout", "status", "-n", "tulle", "--timeout=120s", "deployment/tulle-controller")
	for _, a := range waiting {
		a.ready(t) // nobody had to restart it
		p := a.pod(t)
		if p.Labels["tulle.dev/mode"] != "host" {
			t.Errorf("the pod that waited was not injected: %v", p.Labels)
		}
		reach(t, client(t, ""), direct(p)) // the node's proxy has found the controller again, and knows of the pod
	}
	result := l.stop()
	if len(result.failures) > 0 {
		t.Errorf("%d of %d requests failed while the controller was away, the first: %s",
			len(result.failures), len(result.failures)+result.answered, result.failures[0])
	}
}

// The controllers are killed, all at once, and the API server is stopped, while hundreds of pods are made by somebody who
// tries again, as controllers do: none is made without its injection, and all are made in the end. (A ReplicaSet would do,
// but takes minutes at times until it tries again.)
func TestInjectorKilled(t *testing.T) {
	for name, fail := range map[string]func(t *testing.T){
		"controllers": func(t *testing.T) {
			if killed := kill(t, "/tulle-controller"); killed < 2 {
				t.Fatalf("%d controllers were killed, want both", killed)
			}
		},
		"API server": func(t *testing.T) {
			t.Cleanup(func() {
				if err := mesh.StartAPI(context.WithoutCancel(t.Context())); err != nil {
					t.Error(err)
				}
			})
			if err := mesh.StopAPI(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := mesh.StartAPI(t.Context()); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			ns := namespace(t, "e2e-killed", "host")
			const pods, at = 300, 20
			var made, refused atomic.Int64
			some := make(chan struct{}) // closed when enough are made for the failure to come in between
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			var wg sync.WaitGroup
			for worker := range 10 {
				wg.Go(func() {
					for i := worker; i < pods; i += 10 {
						p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("crowd-", i)}, Spec: helloworld()}
						p.Spec.NodeSelector = map[string]string{"kubernetes.io/hostname": "nowhere"} // admitted, and never started
						for {
							_, err := mesh.Client().CoreV1().Pods(ns).Create(ctx, p, metav1.CreateOptions{})
							if err == nil || apierrors.IsAlreadyExists(err) {
								break
							}
							refused.Add(1)
							select {
							case <-time.After(100 * time.Millisecond):
							case <-ctx.Done():
								t.Errorf("pod %d was not made: %v", i, err)
								return
							}
						}
						if made.Add(1) == at {
							close(some)
						}
					}
				})
			}
			select {
			case <-some:
			case <-ctx.Done():
				t.Fatalf("only %d pods were made, with an injector", made.Load())
			}
			began, before := time.Now(), made.Load()
			fail(t)
			wg.Wait()
			t.Logf("%d pods were made before, the others until %.1f s after it, with %d refusals", before, time.Since(began).Seconds(), refused.Load())
			list, err := mesh.Client().CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if len(list.Items) != pods {
				t.Errorf("there are %d pods, want %d", len(list.Items), pods)
			}
			for _, p := range list.Items {
				if p.Labels["tulle.dev/mode"] != "host" {
					t.Errorf("pod %s was made without its injection", p.Name)
				}
			}
			kubectl(t, "rollout", "status", "-n", "tulle", "--timeout=120s", "deployment/tulle-controller")
		})
	}
}

// kill ends all processes of a program of the cluster's pods, as the kernel does when memory is short, and returns how
// many there were.
func kill(t *testing.T, program string) int {
	t.Helper()
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, file := range commands {
		command, _ := os.ReadFile(file) // what ends meanwhile cannot be read
		if name, _, _ := strings.Cut(string(command), "\x00"); name != program {
			continue
		}
		// Only what is in a network of its own: this test's machine may run the same program for itself.
		own, _ := os.Readlink("/proc/self/ns/net")
		if other, err := os.Readlink(filepath.Join(filepath.Dir(file), "ns", "net")); err != nil || other == own {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err == nil {
			n++
		}
	}
	return n
}
