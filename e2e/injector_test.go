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
	expect(t, c, "http://hello."+inside, answer(hello, "world", world))

	l := steady(t, c, "http://hello."+inside, 50*time.Millisecond)
	kubectl(t, "scale", "-n", "tulle", "deployment/tulle-controller", "--replicas=0")
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		_, _ = mesh.Kubectl(ctx, nil, "scale", "-n", "tulle", "deployment/tulle-controller", "--replicas=1")
		_, _ = mesh.Kubectl(ctx, nil, "rollout", "status", "-n", "tulle", "--timeout=120s", "deployment/tulle-controller")
	})
	await(t, "the controller's pods to be gone", func(context.Context) (bool, string) {
		out := kubectl(t, "get", "pods", "-n", "tulle", "-l", "app.kubernetes.io/component=controller", "-o", "name")
		return out == "", out
	})

	waiting := app{namespace: inside, name: "waiting", text: "late"}
	waiting.create(t)
	app{namespace: outside, name: "starts", text: "here"}.start(t)
	await(t, "the API server to say why the pod waits", func(context.Context) (bool, string) {
		events := kubectl(t, "get", "events", "-n", inside, "--field-selector", "reason=FailedCreate", "-o", "jsonpath={.items[*].message}")
		return strings.Contains(events, "failed calling webhook"), events
	})
	if pods := waiting.pods(t); len(pods) != 0 {
		t.Errorf("%d pods started without the injector", len(pods))
	}
	if status, body, err := get(t.Context(), c, "http://hello."+inside); err != nil || status != 200 {
		t.Errorf("the mesh does not route while the controller is down: %d %q %v", status, body, err)
	}

	kubectl(t, "scale", "-n", "tulle", "deployment/tulle-controller", "--replicas=1")
	kubectl(t, "rollout", "status", "-n", "tulle", "--timeout=120s", "deployment/tulle-controller")
	waiting.ready(t) // nobody had to restart it
	if p := waiting.pod(t); p.Labels["tulle.dev/mode"] != "host" {
		t.Errorf("the pod that waited was not injected: %v", p.Labels)
	}
	result := l.stop()
	if len(result.failures) > 0 {
		t.Errorf("%d of %d requests failed while the controller was away, the first: %s",
			len(result.failures), len(result.failures)+result.answered, result.failures[0])
	}
}
