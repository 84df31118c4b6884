//go:build e2e

package names

import (
	"context"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/e2e/cluster"
	"github.com/tulle-mesh/tulle/sidecar"
)

// example reads a file of the examples for the Kubernetes namespace of a test, where its own says default.
func example(t *testing.T, file, ns string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../manifests/examples", file))
	if err != nil {
		t.Fatal(err)
	}
	return strings.NewReplacer("namespace: default", "namespace: "+ns, "/#/io.l5d.k8s/default/", "/#/io.l5d.k8s/"+ns+"/").Replace(string(text))
}

// free returns an address of this machine where nobody listens.
func free(t *testing.T, ip string) (address string, port int) {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String(), l.Addr().(*net.TCPAddr).Port
}

// kubectlProxy is what namerd has beside it: it speaks to the API server as the owner of a token, and in clear text to
// whoever asks.
func kubectlProxy(t *testing.T, token string) (host string, port int) {
	t.Helper()
	config := rest.AnonymousClientConfig(api.RESTConfig())
	config.BearerToken = token
	transport, err := rest.TransportFor(config)
	if err != nil {
		t.Fatal(err)
	}
	target, err := url.Parse(config.Host)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport: transport, FlushInterval: -1,
	})
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	at := s.Listener.Addr().(*net.TCPAddr)
	return at.IP.String(), at.Port
}

// startNamer runs tulle-namer with a configuration until the test ends.
func startNamer(t *testing.T, program, file string) *replica {
	t.Helper()
	r := &replica{}
	var c map[string]any
	text, err := os.ReadFile(file)
	if err == nil {
		err = yaml.Unmarshal(text, &c)
	}
	if err != nil {
		t.Fatal(err)
	}
	place := func(o any) {
		o.(map[string]any)["ip"], o.(map[string]any)["port"] = "127.0.0.1", 0
	}
	place(c["admin"])
	for _, i := range c["interfaces"].([]any) {
		if i.(map[string]any)["kind"] == "io.l5d.httpController" {
			place(i)
		}
	}
	if text, err = yaml.Marshal(c); err != nil {
		t.Fatal(err)
	}
	placed := filepath.Join(t.TempDir(), "namerd.yaml")
	write(t, placed, string(text))
	r.run(t, map[string]*string{"api": &r.namer, "admin": &r.admin}, program, "-config", placed)
	return r
}

// service makes a Service and an EndpointSlice with one endpoint, at a node.
func service(t *testing.T, ns, name, port, node, at string) {
	t.Helper()
	host, number, err := net.SplitHostPort(at)
	if err != nil {
		t.Fatal(err)
	}
	if err := api.Apply(t.Context(), strings.NewReplacer("NAMESPACE", ns, "NAME", name, "PORT", port, "NODE", node, "HOST", host, "NUMBER", number).Replace(`
{apiVersion: v1, kind: Service, metadata: {name: NAME, namespace: NAMESPACE}, spec: {ports: [{name: PORT, port: 80}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: NAME-1, namespace: NAMESPACE, labels: {kubernetes.io/service-name: NAME}}
addressType: IPv4
ports: [{name: PORT, port: NUMBER}]
endpoints: [{addresses: [HOST], nodeName: NODE, conditions: {ready: true}}]
`)); err != nil {
		t.Fatal(err)
	}
}

// app runs an application that answers with a text, at an address that Services may have.
func app(t *testing.T, ip, text string) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) })}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	return l.Addr().String()
}

// TestNamerd runs the namerd of the examples, with the rights that they give it, beside a kubectl proxy: dtabs are objects,
// names are Services, namerctl and kubectl write, and the proxy of the other example follows.
func TestNamerd(t *testing.T) {
	own, err := cluster.OwnAddress()
	if err != nil {
		t.Fatal(err)
	}
	ip, ns := own.String(), namespace(t, api)
	var rights []string
	var settings string
	for doc := range strings.SplitSeq(example(t, "namerd/namerd.yaml", ns), "---\n") {
		var o struct {
			Kind string
			Data map[string]string
		}
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
			t.Fatal(err)
		}
		switch o.Kind {
		case "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding":
			rights = append(rights, doc)
		case "ConfigMap":
			settings = o.Data["namerd.yaml"]
		}
	}
	if err := api.Apply(t.Context(), strings.Join(rights, "---\n")); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"definition", "namerd"} { // of the rest there are no nodes for
		kubectl(t, ns, example(t, "namerd/"+file+".yaml", ns), "apply", "--dry-run=server", "-f", "-")
	}
	kubectl(t, ns, example(t, "namerd/dtabs.yaml", ns), "create", "-f", "-")
	host, port := kubectlProxy(t, strings.TrimSpace(kubectl(t, ns, "", "create", "token", "namerd")))
	var c map[string]any
	if err := yaml.Unmarshal([]byte(settings), &c); err != nil {
		t.Fatal(err)
	}
	for _, asks := range append(c["namers"].([]any), c["storage"]) {
		maps.Copy(asks.(map[string]any), map[string]any{"host": host, "port": port})
	}
	text, err := yaml.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "namerd.yaml")
	write(t, file, string(text))
	program := filepath.Join(t.TempDir(), "tulle-namer")
	if out, err := exec.Command("go", "build", "-o", program, "github.com/tulle-mesh/tulle/cmd/tulle-namer").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	a, b := startNamer(t, program, file), startNamer(t, program, file)

	t.Run("namerctl's exchanges", func(t *testing.T) {
		if status, _, answer := a.ask(t, "GET", "dtabs", ""); status != 200 || answer != "[\"external\",\"internal\"]\n" {
			t.Errorf("list: %d %s", status, answer)
		}
		_, version, answer := a.ask(t, "GET", "dtabs/internal", "", "Accept", "application/json")
		if want := `{"prefix":"/host/world","dst":"/srv/world-v1"}]` + "\n"; version == "" || strings.Count(answer, `"prefix"`) != 5 || !strings.HasSuffix(answer, want) {
			t.Errorf("get: %s %s", version, answer)
		}
		for _, step := range []struct {
			at                    *replica
			method, body, version string
			status                int
		}{
			{a, "POST", "/svc=>/a", "", 204}, {b, "POST", "/svc=>/b", "", 409}, {b, "PUT", "/svc=>", "", 400}, {a, "PUT", "/svc=>/c", "eA==", 412},
			{b, "PUT", "/svc=>/d", "read", 204}, {a, "PUT", "/svc=>/e", "read", 204}, {a, "DELETE", "", "", 204}, {b, "DELETE", "", "", 404}, {a, "PUT", "/svc=>/f", "eA==", 404},
		} {
			var headers []string
			if step.version == "read" {
				_, step.version, _ = step.at.ask(t, "GET", "dtabs/web", "")
			}
			if step.version != "" {
				headers = []string{"If-Match", step.version}
			}
			if status, _, answer := step.at.ask(t, step.method, "dtabs/web", step.body, headers...); status != step.status {
				t.Errorf("%s %q: got %d %s, want %d", step.method, step.body, status, answer, step.status)
			}
		}
		if log := b.said(t); !strings.Contains(log, `msg="dtab written" namespace=web by=local`) {
			t.Error("the write left no line in the log")
		}
	})

	t.Run("kubectl", func(t *testing.T) {
		kubectl(t, ns, "", "patch", "dtabs", "external", "--type=merge", "-p", `{"dentries":[{"prefix":"/svc","dst":"/kubectl"}]}`)
		for _, r := range []*replica{a, b} {
			if _, _, answer := r.ask(t, "GET", "dtabs/external", "", "Accept", "application/dtab"); answer != "/svc=>/kubectl\n" {
				t.Errorf("a replica has %s", answer)
			}
		}
		kubectl(t, ns, example(t, "namerd/dtabs.yaml", ns), "apply", "-f", "-")
	})

	service(t, ns, "hello", "http", "n1", app(t, ip, "hello"))
	service(t, ns, "world-v1", "http", "n1", app(t, ip, "old world"))
	service(t, ns, "world-v2", "http", "n1", app(t, ip, "new world"))

	t.Run("bind", func(t *testing.T) {
		until(t, func() (bool, string) {
			status, _, answer := a.ask(t, "GET", "bind/internal?path=/svc/world", "")
			return status == 200 && strings.Contains(answer, `"ip":"`+ip+`"`) && strings.Contains(answer, `"nodeName":"n1"`) &&
				strings.Contains(answer, `"id":"/#/io.l5d.k8s/`+ns+`/http/world-v1"`), answer
		})
		if _, _, answer := b.ask(t, "GET", "bind/internal?path=/svc/nobody", ""); answer != `{"type":"neg"}`+"\n" {
			t.Errorf("a Service that there is none of: %s", answer)
		}
		if _, _, answer := a.ask(t, "GET", "bound-names", ""); !strings.Contains(answer, `"/#/io.l5d.k8s/`+ns+`/http/hello"`) {
			t.Errorf("bound-names: %s", answer)
		}
	})

	t.Run("a proxy follows", func(t *testing.T) { follows(t, a, ns, ip) })

	t.Run("with tokens", func(t *testing.T) {
		c["interfaces"].([]any)[1].(map[string]any)["access"] = "rbac"
		text, err := yaml.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		asks := filepath.Join(t.TempDir(), "namerd.yaml")
		write(t, asks, string(text))
		// The rights that the example's comment names.
		kubectl(t, ns, "", "create", "clusterrole", ns, "--verb=create", "--resource=tokenreviews.authentication.k8s.io,subjectaccessreviews.authorization.k8s.io")
		kubectl(t, ns, "", "create", "clusterrolebinding", ns, "--clusterrole="+ns, "--serviceaccount="+ns+":namerd")
		kubectl(t, ns, "", "create", "serviceaccount", "ci")
		kubectl(t, ns, "", "create", "role", "ci", "--verb=get", "--resource=dtabs.l5d.io", "--resource-name=internal")
		kubectl(t, ns, "", "create", "rolebinding", "ci", "--role=ci", "--serviceaccount="+ns+":ci")
		r := startNamer(t, program, asks)
		bearer := "Bearer " + strings.TrimSpace(kubectl(t, ns, "", "create", "token", "ci", "--audience=tulle.dev"))
		until(t, func() (bool, string) { // authorizers hear of roles a moment later
			status, _, answer := r.ask(t, "GET", "dtabs/internal", "", "Authorization", bearer)
			return status == 200, answer
		})
		for _, tt := range []struct {
			method, path, token string
			status              int
		}{
			{"PUT", "dtabs/internal", bearer, 403}, {"GET", "dtabs/external", bearer, 403}, {"GET", "dtabs", "Bearer made up", 401}, {"GET", "dtabs", "", 200},
		} {
			body := ""
			if tt.method == "PUT" {
				body = "/svc=>/x"
			}
			if status, _, answer := r.ask(t, tt.method, tt.path, body, "Authorization", tt.token); status != tt.status {
				t.Errorf("%s %s: got %d %s, want %d", tt.method, tt.path, status, answer, tt.status)
			}
		}
	})
}

// follows runs the proxy of examples/linkerd/namerd.yaml on a node, with a namerd, while its rules change and it ends.
func follows(t *testing.T, namerd *replica, ns, ip string) {
	var c map[string]any
	if err := yaml.Unmarshal([]byte(example(t, "linkerd/namerd.yaml", ns)), &c); err != nil {
		t.Fatal(err)
	}
	at := map[string]string{} // the routers' addresses, by label
	for _, r := range c["routers"].([]any) {
		r := r.(map[string]any)
		r["interpreter"].(map[string]any)["dst"] = "/$/inet/" + strings.Replace(namerd.namer, ":", "/", 1)
		address, port := free(t, ip)
		at[r["label"].(string)] = address
		r["servers"] = []any{map[string]any{"ip": ip, "port": port}}
	}
	admin, port := free(t, ip)
	c["admin"] = map[string]any{"ip": ip, "port": port}
	service(t, ns, "l5d", "incoming", "n1", at["incoming"])
	text, err := yaml.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	cfg := sidecar.DefaultConfig()
	cfg.Config, cfg.Node, cfg.PodIP, cfg.PodName, cfg.Namespace = filepath.Join(t.TempDir(), "linkerd.yaml"), "n1", ip, "l5d", ns
	write(t, cfg.Config, string(text))
	p, err := sidecar.New(cfg, logger(t))
	if err != nil {
		t.Fatal(err)
	}
	run(t, p.Run)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, Proxy: nil}}
	get := func(router, host, override string) (status int, body string) {
		req, err := http.NewRequestWithContext(context.WithoutCancel(t.Context()), http.MethodGet, "http://"+at[router]+"/", nil)
		if err != nil {
			t.Error(err)
			return 0, ""
		}
		if req.Host = host; override != "" {
			req.Header.Set("l5d-dtab", override)
		}
		res, err := client.Do(req)
		if err != nil {
			return 0, err.Error()
		}
		defer func() { _ = res.Body.Close() }()
		text, _ := io.ReadAll(res.Body)
		return res.StatusCode, string(text)
	}
	answers := func(router, host, override, want string) {
		t.Helper()
		until(t, func() (bool, string) {
			status, body := get(router, host, override)
			return status == 200 && body == want, strconv.Itoa(status) + " " + body
		})
	}
	answers("external", "any.host", "", "hello")
	answers("outgoing", "world", "", "old world")
	answers("outgoing", "world", "/host/world => /tmp/world-v2", "new world")

	// The rules change under load, as a pipeline and as kubectl write them.
	var stopped atomic.Bool
	var load sync.WaitGroup
	for range 2 {
		load.Go(func() {
			for !stopped.Load() {
				if status, body := get("outgoing", "world", ""); status != 200 {
					t.Errorf("under load: %d %s", status, body)
				}
			}
		})
	}
	_, version, dtab := namerd.ask(t, "GET", "dtabs/internal", "", "Accept", "application/dtab")
	if status, _, answer := namerd.ask(t, "PUT", "dtabs/internal", strings.Replace(dtab, "/srv/world-v1", "/tmp/world-v2 | /tmp/world-v1", 1), "If-Match", version); status != 204 {
		t.Errorf("PUT: %d %s", status, answer)
	}
	answers("outgoing", "world", "", "new world")
	kubectl(t, ns, "", "patch", "dtabs", "internal", "--type=json", "-p", `[{"op":"replace","path":"/dentries/4/dst","value":"/srv/world-v1"}]`)
	answers("outgoing", "world", "", "old world")
	namerd.stop()
	for range 20 {
		if status, body := get("outgoing", "world", ""); status != 200 || body != "old world" {
			t.Errorf("without namerd: %d %s", status, body)
		}
	}
	stopped.Store(true)
	load.Wait()
	if _, err := client.Get("http://" + admin + "/admin/ping"); err != nil {
		t.Error(err)
	}
}
