//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

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

// The controllers are killed, all at once, and the API server is stopped, while hundreds of pods are made: none of them
// is without its injection in the end, and nobody had to help.
func TestInjectorKilled(t *testing.T) {
	ns := namespace(t, "e2e-killed", "host")
	const pods = 300
	crowd := app{namespace: ns, name: "crowd", text: "here", node: "nowhere", replicas: pods} // admitted, and never started
	injected := func(selector string) int {
		list, err := mesh.Client().CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{LabelSelector: "app=crowd" + selector})
		if err != nil {
			t.Log(err)
			return -1
		}
		return len(list.Items)
	}
	whole := func(what string) {
		t.Helper()
		began := time.Now()
		await(t, what, func(context.Context) (bool, string) {
			n := injected(",tulle.dev/mode=host")
			return n == pods, fmt.Sprintf("%d of %d pods are injected", n, pods)
		})
		t.Logf("%s after %.1f s", what, time.Since(began).Seconds())
		if n := injected(",tulle.dev/mode!=host"); n != 0 {
			t.Errorf("%d pods were made without their injection", n)
		}
	}

	t.Run("controllers", func(t *testing.T) {
		crowd.create(t)
		await(t, "the first of the crowd", func(context.Context) (bool, string) { return injected("") > pods/10, "too few" })
		killed := kill(t, "/tulle-controller")
		if killed < 2 {
			t.Fatalf("%d controllers were killed, want both", killed)
		}
		whole("all pods injected by controllers that came back")
		kubectl(t, "rollout", "status", "-n", "tulle", "--timeout=120s", "deployment/tulle-controller")
	})
	t.Run("API server", func(t *testing.T) {
		kubectl(t, "scale", "-n", ns, "deployment/crowd", "--replicas=0")
		await(t, "the crowd to be gone", func(context.Context) (bool, string) { n := injected(""); return n == 0, fmt.Sprint(n) })
		kubectl(t, "scale", "-n", ns, "deployment/crowd", fmt.Sprint("--replicas=", pods))
		await(t, "the first of the crowd", func(context.Context) (bool, string) { return injected("") > pods/10, "too few" })
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
		whole("all pods injected after the API server's return")
	})
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
