//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The namerd of the examples as pods, with their service account and no more rights than it is given: it is asked as
// namerctl asks, shows its pages through a port-forward, and a proxy with a configuration of Linkerd 1.x follows it while
// a pod of it is deleted.
func TestExampleNamerd(t *testing.T) {
	if err := mesh.LoadImage(t.Context(), "tulle.dev/tulle-namer:dev", filepath.Join(binDir, "tulle-namer")); err != nil {
		t.Fatal(err)
	}
	ns := namespace(t, "e2e-namerd", "")
	apply := func(verb, file string) {
		t.Helper()
		text, err := os.ReadFile(filepath.Join("../manifests/examples/namerd", file))
		if err != nil {
			t.Fatal(err)
		}
		here := strings.NewReplacer("namespace: default", "namespace: "+ns, "/#/io.l5d.k8s/default/", "/#/io.l5d.k8s/"+ns+"/").Replace(string(text))
		if _, err := mesh.Kubectl(t.Context(), strings.NewReader(here), verb, "-f", "-"); err != nil {
			t.Fatal(err)
		}
	}
	apply("apply", "namerd.yaml") // the definition of dtabs is the mesh's, which is the same
	apply("create", "dtabs.yaml")
	t.Cleanup(func() {
		_, _ = mesh.Kubectl(context.WithoutCancel(t.Context()), nil, "delete", "clusterrole/namerd", "clusterrolebinding/namerd")
	})
	world := app{namespace: ns, name: "world-v1", text: "world", node: "n2"}.start(t).pod(t)
	earth := app{namespace: ns, name: "world-v2", text: "earth", node: "n1"}.start(t).pod(t)
	namerd := app{namespace: ns, name: "namerd"}
	namerd.ready(t)
	pods := namerd.pods(t)
	if len(pods) != 2 {
		t.Fatalf("there are %d pods of namerd, want 2", len(pods))
	}
	apis := make([]string, len(pods))
	c := client(t, "")
	for i, p := range pods {
		apis[i] = "http://" + net.JoinHostPort(p.Status.PodIP, "4180") + "/api/1/"
		expect(t, c, apis[i]+"dtabs", "[\"external\",\"internal\"]\n")
		await(t, "the addresses of world-v1", func(ctx context.Context) (bool, string) {
			status, body, err := get(ctx, c, apis[i]+"resolve/internal?path=/svc/world")
			return err == nil && status == 200 && strings.Contains(body, world.Status.PodIP), fmt.Sprintf("%d %s %v", status, body, err)
		})
	}

	forward := mesh.KubectlCommand(t.Context(), "port-forward", "-n", ns, "deployment/namerd", ":9991")
	port, _, _ := strings.Cut(program(t, forward, "Forwarding from 127.0.0.1:"), " ")
	if status, body, err := get(t.Context(), c, "http://127.0.0.1:"+port+"/"); err != nil || status != 200 || !strings.Contains(body, `href="dtab/internal"`) {
		t.Errorf("the first page: %d %v\n%s", status, err, body)
	}

	// The proxy follows a replica of which it knows the address, as this machine is outside of the cluster's DNS.
	cmd := exec.CommandContext(t.Context(), filepath.Join(binDir, "tulle-proxy"), "-config", "-")
	cmd.Stdin = strings.NewReader(`
admin: {port: 0}
routers:
- protocol: http
  interpreter: {kind: io.l5d.namerd, namespace: internal, dst: /$/inet/` + pods[0].Status.PodIP + `/4180, retry: {baseSeconds: 1, maxSeconds: 2}}
  servers: [{port: 0}]
`)
	address, _, _ := strings.Cut(program(t, cmd, "msg=serving mode=standalone http="), " ")
	through := client(t, address)
	reach(t, through, "http://world")
	expect(t, through, "http://world", "world ("+world.Status.PodIP+")!")
	expect(t, through, "http://world", "earth ("+earth.Status.PodIP+")!", "l5d-dtab", "/host/world => /tmp/world-v2")

	// Written at the other replica, the change reaches this proxy by way of the object.
	_, rules, err := get(t.Context(), c, apis[1]+"dtabs/internal")
	if err != nil {
		t.Fatal(err)
	}
	write, err := http.NewRequestWithContext(t.Context(), http.MethodPut, apis[1]+"dtabs/internal",
		strings.NewReader(strings.ReplaceAll(rules, "/srv/world-v1", "/srv/world-v2")))
	if err != nil {
		t.Fatal(err)
	}
	write.Header.Set("Content-Type", "application/json")
	if status, text, err := do(c, write); err != nil || status != http.StatusNoContent {
		t.Fatalf("PUT: %d %s %v", status, text, err)
	}
	await(t, "the new version", func(ctx context.Context) (bool, string) {
		status, body, err := get(ctx, through, "http://world")
		return err == nil && status == 200 && strings.HasPrefix(body, "earth ("), fmt.Sprintf("%d %s %v", status, body, err)
	})
	kubectl(t, "delete", "-n", ns, "pod/"+pods[0].Name)
	for range 20 {
		expect(t, through, "http://world", "earth ("+earth.Status.PodIP+")!")
	}
}

// program runs one beside the test until that ends, and returns the rest of the first line that it prints after a mark.
func program(t *testing.T, cmd *exec.Cmd, mark string) string {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	err = cmd.Start()
	_ = w.Close()
	if err != nil {
		t.Fatal(err)
	}
	lines, read := make(chan string, 1), make(chan struct{})
	go func() {
		defer close(read)
		for in := bufio.NewScanner(r); in.Scan(); {
			if _, rest, ok := strings.Cut(in.Text(), mark); ok {
				select {
				case lines <- rest:
				default:
				}
			}
			fmt.Fprintf(t.Output(), "%s: %s\n", filepath.Base(cmd.Path), in.Text())
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-read
		_ = cmd.Wait()
		_ = r.Close()
	})
	select {
	case rest := <-lines:
		return rest
	case <-read:
		t.Fatalf("%s ended", cmd.Path)
	case <-time.After(patience):
		t.Fatalf("%s has not said %q", cmd.Path, mark)
	}
	return ""
}
