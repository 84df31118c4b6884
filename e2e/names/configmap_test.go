//go:build e2e

package names

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	k8s "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/manifests"
	"github.com/tulle-mesh/tulle/naming/kubernetes"
	namer "github.com/tulle-mesh/tulle/naming/namer/api"
)

// configMapRights are the objects by which the chart lets the controller of a namespace read a ConfigMap.
func configMapRights(t *testing.T, mesh, configMap string) string {
	t.Helper()
	chart, err := manifests.Render(mesh, map[string]any{"namer": map[string]any{"configMaps": []any{configMap}}})
	if err != nil {
		t.Fatal(err)
	}
	var rights []string
	for doc := range strings.SplitSeq(string(chart), "---\n") {
		if strings.Contains(doc, "\n  name: tulle-configmaps\n") {
			rights = append(rights, doc)
		}
	}
	if len(rights) != 2 {
		t.Fatalf("the chart has %d objects for ConfigMaps", len(rights))
	}
	return strings.Join(rights, "---\n")
}

func showRules(r *namer.Rules) string {
	switch {
	case r == nil:
		return "unknown"
	case r.Text == nil:
		return "none: " + r.Cause
	}
	return strings.TrimSuffix(*r.Text+": "+r.Cause, ": ")
}

// The life of a ConfigMap, as kubectl edits it, with the rights that the chart gives.
func TestConfigMaps(t *testing.T) {
	mesh, shop := namespace(t, api), namespace(t, api)
	kubectl(t, mesh, "", "create", "serviceaccount", "tulle-controller")
	config := rest.AnonymousClientConfig(api.RESTConfig())
	config.BearerToken = strings.TrimSpace(kubectl(t, mesh, "", "create", "token", "tulle-controller"))
	client, err := k8s.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	c := kubernetes.NewConfigMaps([]types.NamespacedName{{Namespace: shop, Name: "rules"}}, logger(t))
	run(t, func(ctx context.Context) error { return c.Run(ctx, client) })
	follow := func(name, key string) *watch.Value[*namer.Rules] {
		v, release := c.Rules(namer.ConfigMap{Namespace: shop, Name: name, Key: key})
		t.Cleanup(release)
		return v
	}
	rules, later, other := follow("rules", "dtab"), follow("rules", "later"), follow("other", "dtab")
	told := 0
	rules.Notify(func() { told++ })
	expect := func(what, want string, v *watch.Value[*namer.Rules]) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if got, err := v.Wait(ctx, func(r *namer.Rules) bool { return strings.HasPrefix(showRules(r), want) }); err != nil {
			t.Fatalf("%s: %s, want %s", what, showRules(got), want)
		}
	}
	exactly := func(what, want string, v *watch.Value[*namer.Rules]) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if got, err := v.Wait(ctx, func(r *namer.Rules) bool { return showRules(r) == want }); err != nil {
			t.Fatalf("%s: %s, want %s", what, showRules(got), want)
		}
	}
	patch := func(data string) {
		kubectl(t, shop, "", "patch", "configmap", "rules", "--type=merge", "-p", `{"data":`+data+`}`)
	}
	expect("one that is not listed", "none: the controller may not read ConfigMap "+shop+"/other; to let it, add "+shop+"/other to the chart's value namer.configMaps", other)
	expect("without the right", "none: the controller may not read ConfigMap "+shop+"/rules: ", rules)
	if got := showRules(rules.Get()); !strings.Contains(got, "is forbidden") {
		t.Errorf("it does not say what the API server said: %s", got)
	}
	if err := api.Apply(t.Context(), configMapRights(t, mesh, shop+"/rules")); err != nil {
		t.Fatal(err)
	}
	exactly("with it, and no ConfigMap", "", rules)
	kubectl(t, shop, "", "create", "configmap", "another", "--from-literal=dtab=/a=>/b")
	kubectl(t, shop, "", "create", "configmap", "rules", "--from-literal=dtab=/svc=>/a")
	exactly("created", "/svc=>/a", rules)
	before := told
	patch(`{"later":"/x=>/y"}`)
	exactly("another key", "/x=>/y", later)
	if told != before {
		t.Error("another key was news")
	}
	patch(`{"dtab":"/svc=>/b ; /svc/x => 3 * /y & /z"}`)
	exactly("changed", "/svc=>/b;/svc/x=>3*/y & /z", rules)
	patch(`{"dtab":"/svc=>/b ;\n/svc = /c"}`)
	expect("broken", "/svc=>/b;/svc/x=>3*/y & /z: key dtab of ConfigMap "+shop+"/rules does not parse: line 2, column 7: ", rules)
	patch(`{"dtab":"/svc=>/c"}`)
	exactly("repaired", "/svc=>/c", rules)
	patch(`{"dtab":null}`)
	exactly("without the key", "", rules)
	patch(`{"dtab":"/svc=>/d"}`)
	exactly("with it", "/svc=>/d", rules)
	kubectl(t, shop, "", "delete", "configmap", "rules")
	exactly("deleted", "", rules)
	exactly("deleted", "", later)
	kubectl(t, shop, "", "create", "configmap", "rules", "--from-literal=dtab=/svc=>/e")
	exactly("made anew", "/svc=>/e", rules)
}

// proxy is one process of tulle-proxy that runs a configuration of Linkerd 1.x.
type proxy struct{ out, admin string }

func (m *mesh) proxy(t *testing.T, r *replica, shop string) *proxy {
	t.Helper()
	program := filepath.Join(t.TempDir(), "tulle-proxy")
	if out, err := exec.Command("go", "build", "-o", program, "github.com/tulle-mesh/tulle/cmd/tulle-proxy").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	p := &proxy{}
	var ports []string
	for _, address := range []*string{&p.out, &p.admin} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		*address = l.Addr().String()
		_, port, _ := net.SplitHostPort(*address)
		ports = append(ports, port)
		_ = l.Close()
	}
	file, token := filepath.Join(t.TempDir(), "linkerd.yaml"), filepath.Join(t.TempDir(), "token")
	write(t, file, fmt.Sprintf(`
admin: {port: %s}
routers:
- protocol: http
  bindingTimeoutMs: 300
  interpreter: {kind: io.l5d.k8s.configMap, experimental: true, namespace: %s, name: rules, filename: dtab}
  servers: [{port: %s}]
`, ports[1], shop, ports[0]))
	kubectl(t, shop, "", "create", "serviceaccount", "linkerd")
	kubectl(t, shop, "{apiVersion: v1, kind: Pod, metadata: {name: linkerd}, spec: {serviceAccountName: linkerd, containers: [{name: l, image: l}]}}", "apply", "-f", "-")
	write(t, token, strings.TrimSpace(kubectl(t, shop, "", "create", "token", "linkerd", "--audience", "tulle.dev",
		"--bound-object-kind", "Pod", "--bound-object-name", "linkerd")))
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(program, "-config", file, "--controller", "https://"+r.mesh, "--controller-ca-file", filepath.Join(m.tls, "ca.crt"), "--token-file", token)
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = log, log, &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err != nil {
			t.Errorf("the proxy ended with %v", err)
		}
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("%s", text)
		}
	})
	return p
}

// until asks until the answer has a text.
func (p *proxy) until(t *testing.T, address, path, want string) {
	t.Helper()
	until(t, func() (bool, string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if address == p.out {
			req.Host = "web"
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return false, err.Error()
		}
		defer func() { _ = res.Body.Close() }()
		body, _ := io.ReadAll(res.Body)
		got := fmt.Sprint(res.StatusCode, " ", string(body))
		return strings.Contains(got, want), got + ", want " + want
	})
}

// A proxy with a configuration of Linkerd 1.x, a controller with the chart's rights, and kubectl.
func TestConfigMapOfLinkerd(t *testing.T) {
	m, shop := newMesh(t), namespace(t, api)
	backend := func(name string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, name) }))
		t.Cleanup(s.Close)
		_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
		return "/svc=>/$/inet/127.1/" + port
	}
	red, blue := backend("red"), backend("blue")
	bare := m.start(t)
	p := m.proxy(t, bare, shop)
	p.until(t, p.admin, "/admin/ready", "ready; the rules of router http are not known: the controller may not read ConfigMap "+shop+"/rules; to let it, add "+shop+"/rules to the chart's value namer.configMaps")
	p.until(t, p.out, "/", "T202: check that the controller answers, and may read the ConfigMap with the rules")
	bare.stop()

	// The value is set: new settings, new pods, at the same address.
	settings, err := os.ReadFile(m.settings)
	if err != nil {
		t.Fatal(err)
	}
	with := strings.Replace(string(settings), `config-maps: ""`, "config-maps: "+shop+"/rules", 1)
	if with == string(settings) {
		t.Fatal("the chart has no config-maps")
	}
	write(t, m.settings, with)
	if err := api.Apply(t.Context(), configMapRights(t, m.namespace, shop+"/rules")); err != nil {
		t.Fatal(err)
	}
	kubectl(t, shop, "", "create", "configmap", "rules", "--from-literal=dtab="+red)
	first := m.startAt(t, bare.mesh)
	p.until(t, p.out, "/", "200 red")
	p.until(t, p.admin, "/admin/ready", "200 ready")
	patch := func(rules string) {
		kubectl(t, shop, "", "patch", "configmap", "rules", "--type=merge", "-p", fmt.Sprintf(`{"data":{"dtab":%q}}`, rules))
	}
	begin := time.Now()
	patch(blue)
	p.until(t, p.out, "/", "200 blue")
	t.Logf("a change was there after %s, kubectl included", time.Since(begin).Round(time.Millisecond))
	patch("/svc => ;")
	p.until(t, p.admin, "/admin/ready", "the rules of router http are the last that were good: key dtab of ConfigMap "+shop+"/rules does not parse: line 1, column 9: ")
	p.until(t, p.out, "/", "200 blue")
	first.stop()
	p.until(t, p.admin, "/admin/ready", "the namer has not been heard for")
	p.until(t, p.out, "/", "200 blue")
	m.startAt(t, bare.mesh) // which has never seen what parses
	p.until(t, p.admin, "/admin/ready", "200 ready; the rules of router http are the last that were good: key dtab")
	p.until(t, p.out, "/", "200 blue")
	patch(red)
	p.until(t, p.out, "/", "200 red")
	kubectl(t, shop, "", "delete", "configmap", "rules")
	p.until(t, p.out, "/", "502 ")
}
