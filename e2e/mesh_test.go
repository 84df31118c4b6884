//go:build e2e

package e2e

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const requests = 10

func TestHostMode(t *testing.T) {
	ns := namespace(t, "e2e-host", "host")
	world := app{namespace: ns, name: "world", text: "world", node: "n2"}.start(t).pod(t)
	hello := app{namespace: ns, name: "hello", text: "Hello", target: "world", node: "n1"}.start(t).pod(t)

	env := hello.Spec.Containers[0].Env
	names := make([]string, len(env))
	for i, e := range env {
		names[i] = e.Name
	}
	if got, want := strings.Join(names, " "), "NODE_NAME TULLE_HOST_IP http_proxy HTTP_PROXY no_proxy NO_PROXY POD_IP"; got != want {
		t.Errorf("the environment is %s, want %s", got, want)
	}
	if len(hello.Spec.InitContainers) != 0 || len(hello.Spec.Containers) != 1 {
		t.Errorf("host mode added containers: %v", hello.Spec)
	}
	c := client(t, "")
	crosses(t, nodeIP(t, "n1"), nodeIP(t, "n2"), "/svc/world", requests, func() {
		for range requests {
			expect(t, c, direct(hello), answer(hello, "world", world))
		}
	})
}

func TestSidecarMode(t *testing.T) {
	ns := namespace(t, "e2e-sidecar", "sidecar")
	world := app{namespace: ns, name: "world", text: "world", node: "n2"}.start(t).pod(t)
	hello := app{namespace: ns, name: "hello", text: "Hello", target: "world", node: "n1"}.start(t).pod(t)

	if n := len(hello.Spec.InitContainers); n != 1 || hello.Spec.InitContainers[0].Name != "tulle-proxy" ||
		*hello.Spec.InitContainers[0].RestartPolicy != corev1.ContainerRestartPolicyAlways {
		t.Fatalf("want one native sidecar tulle-proxy, got %v", hello.Spec.InitContainers)
	}
	c := client(t, "")
	crosses(t, hello.Status.PodIP, world.Status.PodIP, "/svc/world", requests, func() {
		for range requests {
			expect(t, c, direct(hello), answer(hello, "world", world))
		}
	})
	// Between the proxies there is mTLS, with the identity of the pod's account.
	conn, err := tls.Dial("tcp", net.JoinHostPort(world.Status.PodIP, "4141"), &tls.Config{InsecureSkipVerify: true})
	if err == nil {
		uri := conn.ConnectionState().PeerCertificates[0].URIs
		if len(uri) != 1 || uri[0].String() != "spiffe://cluster.local/ns/"+ns+"/sa/default" {
			t.Errorf("the sidecar proves %v", uri)
		}
		// TLS 1.3 tells a client without a certificate at its first read.
		_, err = conn.Read(make([]byte, 1))
		_ = conn.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "certificate required") {
		t.Errorf("the incoming port took a client without a certificate: %v", err)
	}
}

func TestAcrossModes(t *testing.T) {
	host, sidecar := namespace(t, "e2e-across-host", "host"), namespace(t, "e2e-across-sidecar", "sidecar")
	worldHost := app{namespace: host, name: "world", text: "mars", node: "n2"}.start(t).pod(t)
	worldSidecar := app{namespace: sidecar, name: "world", text: "venus", node: "n2"}.start(t).pod(t)
	helloHost := app{namespace: host, name: "hello", text: "Hello", target: "world." + sidecar, node: "n1"}.start(t).pod(t)
	helloSidecar := app{namespace: sidecar, name: "hello", text: "Hello", target: "world." + host + ".svc.cluster.local", node: "n1"}.start(t).pod(t)
	c := client(t, "")
	t.Run("host to sidecar", func(t *testing.T) {
		crosses(t, nodeIP(t, "n1"), worldSidecar.Status.PodIP, "/svc/world."+sidecar, requests, func() {
			for range requests {
				expect(t, c, direct(helloHost), answer(helloHost, "venus", worldSidecar))
			}
		})
	})
	t.Run("sidecar to host", func(t *testing.T) {
		crosses(t, helloSidecar.Status.PodIP, nodeIP(t, "n2"), "/svc/world."+host+".svc.cluster.local", requests, func() {
			for range requests {
				expect(t, c, direct(helloSidecar), answer(helloSidecar, "mars", worldHost))
			}
		})
	})
	t.Run("one policy for both", func(t *testing.T) {
		setPolicy(t, "service: {kind: io.l5d.static, configs: [{prefix: /svc/nobody, totalTimeoutMs: 1234}]}")
		t.Cleanup(func() { setPolicy(t, "") })
		for _, ip := range []string{nodeIP(t, "n1"), nodeIP(t, "n2"), helloSidecar.Status.PodIP, worldSidecar.Status.PodIP} {
			await(t, "the policy at "+ip, func(ctx context.Context) (bool, string) {
				_, body, err := get(ctx, c, "http://"+net.JoinHostPort(ip, "9990")+"/admin/policy?service=/svc/nobody")
				return strings.Contains(body, "policy of the mesh") && strings.Contains(body, "1234"), fmt.Sprint(body, err)
			})
		}
	})
}

// setPolicy gives the mesh a policy, as an operator would.
func setPolicy(t *testing.T, text string) {
	t.Helper()
	patch, err := json.Marshal(map[string]any{"data": map[string]string{"policy.yaml": text}})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.WithoutCancel(t.Context())
	for _, args := range [][]string{
		{"patch", "-n", "tulle", "configmap/tulle-policy", "--type=merge", "--patch", string(patch)},
		// The kubelet looks after a pod that changes at once, after others once a minute.
		{"annotate", "-n", "tulle", "pod", "--overwrite", "-l", "app.kubernetes.io/component=controller", "tulle.dev/e2e=" + strconv.FormatInt(time.Now().UnixNano(), 36)},
	} {
		if out, err := mesh.Kubectl(ctx, nil, args...); err != nil {
			t.Errorf("%v %s", err, out)
		}
	}
}

// A host proxy resolves short names in the namespace of the pod that calls. It
// knows the pod by its address, so two pods of one node whose names lead to
// different worlds prove that the address arrives unmasqueraded.
func TestHostProxySeesTheCallingPod(t *testing.T) {
	for node, words := range map[string][2]string{"n1": {"mars", "venus"}, "n2": {"pluto", "saturn"}} {
		t.Run(node, func(t *testing.T) {
			for _, word := range words {
				ns := namespace(t, "e2e-caller-"+word, "host")
				world := app{namespace: ns, name: "world", text: word, node: node}.start(t).pod(t)
				hello := app{namespace: ns, name: "hello", text: "Hello", target: "world", node: node}.start(t).pod(t)
				expect(t, client(t, ""), direct(hello), answer(hello, word, world))
			}
		})
	}
}

func TestUnlabelledNamespaceIsUntouched(t *testing.T) {
	ns := namespace(t, "e2e-outside", "")
	a := app{namespace: ns, name: "plain", text: "plain"}.start(t)
	p := a.pod(t)
	if len(p.Spec.InitContainers) != 0 || len(p.Spec.Containers) != 1 || len(p.Spec.Containers[0].Env) != 1 {
		t.Errorf("the pod was changed: %+v", p.Spec)
	}
	for key := range p.Labels {
		if strings.HasPrefix(key, "tulle.dev/") {
			t.Errorf("the pod has the label %s", key)
		}
	}
	for key := range p.Annotations {
		if strings.HasPrefix(key, "tulle.dev/") {
			t.Errorf("the pod has the annotation %s", key)
		}
	}
	// It can be called from the mesh all the same, without a second proxy.
	c := client(t, hostProxy(t, "n1"))
	reach(t, c, "http://plain."+ns)
	expect(t, c, "http://plain."+ns, "plain ("+p.Status.PodIP+")!")
}

// The first test of every introduction: curl with http_proxy, from outside.
func TestCurlFromOutside(t *testing.T) {
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Fatal("curl is not installed: apt-get install curl")
	}
	// Callers that are no pods resolve names in the namespace default.
	for key, value := range map[string]string{"inject": "enabled", "mode": "host"} {
		kubectl(t, "label", "--overwrite", "namespace", "default", "tulle.dev/"+key+"="+value)
	}
	world := app{namespace: "default", name: "world", text: "world", node: "n2"}
	hello := app{namespace: "default", name: "hello", text: "Hello", target: "world", node: "n1"}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		_, _ = mesh.Kubectl(ctx, nil, "delete", "-n", "default", "--wait=false", "deployment/world", "deployment/hello", "service/world", "service/hello")
		_, _ = mesh.Kubectl(ctx, nil, "label", "namespace", "default", "tulle.dev/inject-", "tulle.dev/mode-")
	})
	want := answer(hello.start(t).pod(t), "world", world.start(t).pod(t))
	for _, node := range []string{"n1", "n2"} {
		reach(t, client(t, hostProxy(t, node)), "http://hello")
		cmd := exec.CommandContext(t.Context(), curl, "-sS", "--max-time", "20", "http://hello")
		cmd.Env = []string{"http_proxy=" + hostProxy(t, node)}
		out, err := cmd.CombinedOutput()
		if err != nil || string(out) != want {
			t.Errorf("http_proxy=%s curl -s http://hello: %q, %v, want %q", hostProxy(t, node), out, err, want)
		}
	}
	out, err := exec.CommandContext(t.Context(), curl, "-sS", "--max-time", "20", "-x", hostProxy(t, "n1"), "http://nope").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "Unable to route request!") || !strings.Contains(string(out), "service name: /svc/nope") {
		t.Errorf("an unknown name: %q, %v", out, err)
	}
}

func TestOverrideOnTheCluster(t *testing.T) {
	for _, mode := range []string{"host", "sidecar"} {
		t.Run(mode, func(t *testing.T) {
			ns := namespace(t, "e2e-override-"+mode, mode)
			world := app{namespace: ns, name: "world", text: "world", node: "n2"}.start(t).pod(t)
			earth := app{namespace: ns, name: "world-v2", text: "earth", node: "n1"}.start(t).pod(t)
			hello := app{namespace: ns, name: "hello", text: "Hello", target: "world", node: "n1"}.start(t).pod(t)
			c := client(t, hostProxy(t, "n2"))
			reach(t, c, "http://hello."+ns)
			expect(t, c, "http://hello."+ns, answer(hello, "world", world))
			// Rules count from those who are in the mesh: hello hands them on to its proxy. The proxy of a node takes
			// none from elsewhere.
			expect(t, client(t, ""), direct(hello), answer(hello, "earth", earth), "l5d-ctx-dtab", "/host/world => /srv/world-v2")
			expect(t, c, "http://hello."+ns, answer(hello, "world", world), "l5d-dtab", "/host/world => /srv/world-v2")
		})
	}
}

// The example of the README, as it stands.
func TestExampleManifest(t *testing.T) {
	kubectl(t, "apply", "-f", "../manifests/examples/hello-world.yaml")
	for _, ns := range []string{"hello-host", "hello-sidecar"} {
		for _, name := range []string{"hello", "world-v1", "world-v2"} {
			app{namespace: ns, name: name}.ready(t)
		}
		c := client(t, hostProxy(t, "n1"))
		reach(t, c, "http://hello."+ns)
		hello, override := direct(app{namespace: ns, name: "hello"}.pods(t)[0]), []string{"l5d-ctx-dtab", "/host/world => /srv/world-v2"}
		reach(t, client(t, ""), hello, override...)
		status, body, err := get(t.Context(), c, "http://hello."+ns)
		if err != nil || status != 200 || !strings.HasPrefix(body, "Hello (") || !strings.Contains(body, ") world (") {
			t.Errorf("%s: %d %q %v", ns, status, body, err)
		}
		if _, body, _ := get(t.Context(), client(t, ""), hello, override...); !strings.Contains(body, ") earth (") {
			t.Errorf("%s with an override: %q", ns, body)
		}
	}
	t.Cleanup(func() {
		for _, ns := range []string{"hello-host", "hello-sidecar"} {
			_ = mesh.Client().CoreV1().Namespaces().Delete(context.WithoutCancel(t.Context()), ns, metav1.DeleteOptions{})
		}
	})
}
