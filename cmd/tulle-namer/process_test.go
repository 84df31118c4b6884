package main

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/tulle-mesh/tulle/internal/logtest"
)

// running is a namer that runs until the test ends.
type running struct {
	t      *testing.T
	at     map[string]string // the last address of each kind of server
	client *http.Client
	log    *logtest.Buffer
	stop   func()
}

// launch runs a configuration, with a Kubernetes that is nil if it needs none.
func launch(t *testing.T, content string, reached *clients) *running {
	t.Helper()
	f, err := read(write(t, "namerd.yaml", content))
	if err != nil {
		t.Fatal(err)
	}
	r := &running{t: t, at: map[string]string{}, log: &logtest.Buffer{}, client: &http.Client{Transport: &http.Transport{}}}
	p, err := newProcess(f, reached, os.Getenv, new(slog.LevelVar), slog.New(slog.NewTextHandler(r.log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	p.drain = 200 * time.Millisecond
	listening := make(chan struct{})
	left := len(p.servers)
	p.listening = func(name, address string) {
		r.at[name] = address
		if left--; left == 0 {
			close(listening)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		r.until("draining", func() bool { return p.draining.Load() })
		if status, body := r.get("admin", "/admin/ready"); status != 503 || !strings.Contains(body, "the namer is stopping") {
			t.Errorf("while stopping, ready is %d %q", status, body)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
		r.client.CloseIdleConnections()
	})
	t.Cleanup(r.stop)
	select {
	case <-listening:
	case err := <-ended:
		ended <- err
		t.Fatal(err)
	}
	r.until("ready", func() bool { status, _ := r.get("admin", "/admin/ready"); return status == 200 })
	return r
}

// until waits for what takes a real clock.
func (r *running) until(what string, ok func() bool) {
	r.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for range 2000 {
		if ok() {
			return
		}
		<-tick.C
	}
	r.t.Fatalf("in vain: %s\n%s", what, r.log)
}

func (r *running) do(method, server, path, body string, header ...string) (int, string) {
	r.t.Helper()
	at := r.at[server]
	if !strings.Contains(at, "://") {
		at = "http://" + at
	}
	req, err := http.NewRequestWithContext(r.t.Context(), method, at+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	if r.t.Context().Err() != nil { // at the end of a test
		req = req.WithContext(context.Background())
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/dtab")
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
		req.Header.Set(header[i], header[i+1])
	}
	res, err := r.client.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return res.StatusCode, res.Header.Get("ETag") + string(text)
}

func (r *running) get(server, path string) (int, string) {
	r.t.Helper()
	return r.do("GET", server, path, "")
}

const api = "HTTP API"

// Nothing of Kubernetes is needed, or asked.
func TestInMemory(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "web"), []byte("127.0.0.1 8080\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := launch(t, `
admin: {port: 0}
storage: {kind: io.l5d.inMemory, namespaces: {internal: "/svc => /#/io.l5d.fs", 1: /a=>/b, null: /a=>/b, 2020-01-01: /a=>/b}}
namers: [{kind: io.l5d.fs, rootDir: `+dir+`}]
interfaces: [{kind: io.l5d.httpController, port: 0}]
`, nil)
	for _, tt := range []struct {
		method, path, body string
		status             int
		answer             string
	}{
		{"GET", "/api/1/dtabs", "", 200, "[\"1\",\"2020-01-01\",\"internal\",\"null\"]\n"},
		{"GET", "/api/1/dtabs/internal", "", 200, "AAAAAAAAAAE=[{\"prefix\":\"/svc\",\"dst\":\"/#/io.l5d.fs\"}]\n"},
		{"PUT", "/api/1/dtabs/internal", "/svc=>/#/io.l5d.fs;/a=>/b", 204, ""},
		{"GET", "/api/1/bind/internal?path=/svc/web", "", 200, `{"type":"leaf","bound":{"addr":{"type":"bound","addrs":[{"ip":"127.0.0.1","port":8080,"meta":{}}],"meta":{}},"id":"/#/io.l5d.fs/web","path":"/"}}` + "\n"},
		{"GET", "/api/1/bind/internal?path=/svc/none", "", 200, `{"type":"neg"}` + "\n"},
		{"DELETE", "/api/1/dtabs/internal", "", 204, ""},
		{"GET", "/api/1/dtabs/internal", "", 404, ""},
	} {
		if status, answer := r.do(tt.method, api, tt.path, tt.body); status != tt.status || answer != tt.answer {
			t.Errorf("%s %s: %d %s", tt.method, tt.path, status, answer)
		}
	}
	if log := r.log.String(); !strings.Contains(log, `msg="dtab written" namespace=internal by=local before="AAAAAAAAAAE=" after="AAAAAAAAAAI="`) {
		t.Errorf("who wrote is not in the log:\n%s", log)
	}
	// Pages of a browser are kept away, whatever name they gave this machine.
	if status, _ := r.do("GET", api, "/api/1/dtabs", "", "Host", "evil.test"); status != 403 {
		t.Errorf("a name that a page had resolve to us: %d", status)
	}
	_, metrics := r.get("admin", "/metrics")
	for _, want := range []string{"go_goroutines", "process_resident_memory_bytes", "tulle_namer_dtabs 3", `tulle_namer_store_errors_total{operation="put"} 0`,
		`tulle_namer_access_total{result="local"} 7`, `tulle_namer_access_total{result="unknown"} 1`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no metric %s", want)
		}
	}
	if status, body := r.get("admin", "/config.json"); status != 200 || !strings.Contains(body, dir) || !strings.Contains(body, `"2020-01-01": "/a=>/b"`) || !strings.Contains(body, `"port": 0`) {
		t.Errorf("%d %s", status, body)
	}
	if status, body := r.get("admin", "/admin/ping"); status != 200 || body != "pong" {
		t.Errorf("ping: %d %q", status, body)
	}
}

// What is followed ends with the process, and dtabs in files are there again.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	content := "admin: {port: 0}\nstorage: {kind: io.l5d.fs, rootDir: " + dir + "}\ninterfaces: [{kind: io.l5d.httpController, port: 0, access: open}]\n"
	r := launch(t, content, nil)
	if status, _ := r.do("POST", api, "/api/1/dtabs/web", "/svc=>/a"); status != 204 {
		t.Error(status)
	}
	res, err := r.client.Get("http://" + r.at[api] + "/api/1/dtabs/web?watch=true")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	r.stop()
	if text, err := io.ReadAll(res.Body); err != nil || string(text) != "[{\"prefix\":\"/svc\",\"dst\":\"/a\"}]\n" {
		t.Errorf("%q %v", text, err)
	}
	again := launch(t, content, nil)
	if status, body := again.get(api, "/api/1/dtabs/web"); status != 200 || !strings.Contains(body, `"dst":"/a"`) {
		t.Errorf("%d %s", status, body)
	}
	// A page that has this machine's own address is one all the same.
	if status, _ := again.do("PUT", api, "/api/1/dtabs/web", "/svc=>/b", "Origin", "https://evil.test"); status != 403 {
		t.Error(status)
	}
}

// ticket has everyone be ci who shows this token; ci may read.
const ticket = "secret"

func fakeKubernetes(objects ...runtime.Object) *clients {
	core := fake.NewClientset(objects...)
	core.PrependReactor("create", "tokenreviews", func(action clienttesting.Action) (bool, runtime.Object, error) {
		review := action.(clienttesting.CreateAction).GetObject().(*authenticationv1.TokenReview).DeepCopy()
		review.Status = authenticationv1.TokenReviewStatus{Authenticated: review.Spec.Token == ticket, Audiences: review.Spec.Audiences,
			User: authenticationv1.UserInfo{Username: "ci"}}
		return true, review, nil
	})
	core.PrependReactor("create", "subjectaccessreviews", func(action clienttesting.Action) (bool, runtime.Object, error) {
		review := action.(clienttesting.CreateAction).GetObject().(*authorizationv1.SubjectAccessReview).DeepCopy()
		what := review.Spec.ResourceAttributes
		review.Status.Allowed = review.Spec.User == "ci" && what.Verb == "get" && what.Namespace == "default"
		return true, review, nil
	})
	return &clients{core: core, access: core}
}

// Services are Kubernetes', dtabs are not; and who shows a token may do what roles say.
func TestServices(t *testing.T) {
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "shop", Name: "cart-1", Labels: map[string]string{discoveryv1.LabelServiceName: "cart"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.4"}, Conditions: discoveryv1.EndpointConditions{Ready: new(true)}}},
		Ports:       []discoveryv1.EndpointPort{{Name: new("http"), Port: new(int32(7777)), Protocol: new(corev1.ProtocolTCP)}},
	}
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}}
	r := launch(t, `
admin: {port: 0}
storage: {kind: io.l5d.inMemory, namespaces: {internal: "/svc => /#/k/shop/http"}}
namers: [{kind: io.l5d.k8s, prefix: /k}]
interfaces: [{kind: io.l5d.httpController, port: 0, access: rbac}]
`, fakeKubernetes(service, slice))
	const bearer = "Bearer " + ticket
	if status, body := r.do("GET", api, "/api/1/bind/internal?path=/svc/cart", "", "Authorization", bearer); status != 200 ||
		!strings.Contains(body, `"ip":"10.0.0.4","port":7777`) || !strings.Contains(body, `"id":"/#/k/shop/http/cart"`) {
		t.Errorf("%d %s", status, body)
	}
	if status, body := r.do("PUT", api, "/api/1/dtabs/internal", "/svc=>/x", "Authorization", bearer); status != 403 || !strings.Contains(body, "ci may not update dtabs.l5d.io/internal") {
		t.Errorf("%d %s", status, body)
	}
	if status, _ := r.do("GET", api, "/api/1/dtabs", "", "Authorization", "Bearer other"); status != 401 {
		t.Errorf("%d", status)
	}
	if log := r.log.String(); !strings.Contains(log, `msg="refuse a caller of the namer API" user=ci`) || strings.Contains(log, ticket) {
		t.Errorf("the log is\n%s", log)
	}
	if status, body := r.get(api, "/api/1/bound-names"); status != 200 || body != `["/#/k/shop/80/cart","/#/k/shop/http/cart"]`+"\n" {
		t.Errorf("%d %s", status, body)
	}
}

// A port that is taken is said, with all that are.
func TestPorts(t *testing.T) {
	r := launch(t, "admin: {port: 0}\nstorage: {kind: io.l5d.inMemory}\ninterfaces: [{kind: io.l5d.httpController, port: 0}]\n", nil)
	content := "admin: {port: " + r.at["admin"][strings.LastIndex(r.at["admin"], ":")+1:] + "}\nstorage: {kind: io.l5d.inMemory}\ninterfaces: [{kind: io.l5d.httpController, port: " +
		r.at[api][strings.LastIndex(r.at[api], ":")+1:] + "}]\n"
	_, err := start(t, write(t, "namerd.yaml", content))
	if err == nil || !strings.Contains(err.Error(), "listen for the HTTP API: ") || !strings.Contains(err.Error(), "listen for the admin: ") {
		t.Error(err)
	}
}
