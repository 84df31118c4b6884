//go:build e2e

package e2e

import (
	"context"
	"strings"
	"testing"
	"time"
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
