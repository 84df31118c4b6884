package examples

import (
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/internal/helloworld"
	"github.com/tulle-mesh/tulle/naming/kubernetes"
	"github.com/tulle-mesh/tulle/naming/namer"
	"github.com/tulle-mesh/tulle/naming/namer/api"
	"github.com/tulle-mesh/tulle/sidecar"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
}

// lab is a made-up cluster on the loopback with a controller that tells of it.
type lab struct {
	t          *testing.T
	index      *kubernetes.Index
	store      *namer.Memory
	controller sidecar.Config // how a proxy finds the controller
	nodes      map[string]*node
}

// node is a machine with one proxy on it.
type node struct {
	ip    string
	ports map[int]string // of the configuration, to where this node's proxy listens
	admin string
}

// newLab starts a controller that knows nothing yet.
func newLab(t *testing.T) *lab {
	t.Helper()
	index, err := kubernetes.NewIndex(kubernetes.Config{})
	if err != nil {
		t.Fatal(err)
	}
	index.MarkSynced()
	store, err := namer.NewMemory(nil)
	if err != nil {
		t.Fatal(err)
	}
	quiet := slog.New(slog.DiscardHandler)
	routes := http.NewServeMux()
	routes.Handle("POST "+api.WatchPath, namer.NewStream(namer.StreamConfig{Store: store, Source: index, Logger: quiet}))
	server := httptest.NewUnstartedServer(routes)
	serving, cancel := context.WithCancel(context.Background())
	server.Config.BaseContext = func(net.Listener) context.Context { return serving }
	server.EnableHTTP2, server.Config.ErrorLog = true, slog.NewLogLogger(slog.DiscardHandler, 0)
	server.StartTLS()
	t.Cleanup(func() { cancel(); server.Close() })
	l := &lab{t: t, index: index, store: store, nodes: map[string]*node{}}
	l.controller = sidecar.DefaultConfig()
	l.controller.Controller = server.URL
	l.controller.ControllerCA = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	l.controller.TokenFile = filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(l.controller.TokenFile, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	return l
}

// freePort returns a port of ip that nobody listens on.
func freePort(t *testing.T, ip string) int {
	t.Helper()
	ln, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}

// node returns the machine of that name, which it makes up.
func (l *lab) node(name string) *node {
	n := l.nodes[name]
	if n == nil {
		n = &node{ip: fmt.Sprintf("127.0.2.%d", len(l.nodes)+1), ports: map[int]string{}}
		l.nodes[name] = n
	}
	return n
}

// service makes a Service, of which endpoint makes endpoints.
func (l *lab) service(name string, ports ...corev1.ServicePort) {
	l.index.ApplyService(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.ServiceSpec{Ports: ports}})
}

// endpoint adds an endpoint with named ports; each has an EndpointSlice of its own.
func (l *lab) endpoint(service, nodeName, ip string, ports map[string]int) (remove func()) {
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: service + "-" + ip, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{ip}, NodeName: &nodeName, Conditions: discoveryv1.EndpointConditions{Ready: new(true)}}},
	}
	for name, port := range ports {
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: new(name), Port: new(int32(port)), Protocol: new(corev1.ProtocolTCP)})
	}
	l.index.ApplySlice(slice)
	return func() { l.index.DeleteSlice("default", slice.Name) }
}

// app runs the example application in a pod on the node, as an endpoint of the service.
func (l *lab) app(service, nodeName, ip string, cfg helloworld.Config) *helloworld.App {
	l.t.Helper()
	outgoing := &url.URL{Scheme: "http", Host: l.node(nodeName).ports[4140]}
	transport := &http.Transport{Proxy: http.ProxyURL(outgoing)}
	cfg.PodIP, cfg.Transport = ip, transport
	app, err := helloworld.New(cfg)
	if err != nil {
		l.t.Fatal(err)
	}
	ln, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
	if err != nil {
		l.t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(app)
	_ = server.Listener.Close()
	server.Listener = ln
	server.Start()
	l.t.Cleanup(func() { server.Close(); transport.CloseIdleConnections() })
	l.endpoint(service, nodeName, ip, map[string]int{"http": ln.Addr().(*net.TCPAddr).Port})
	return app
}

// place gives the ports of a configuration addresses on the node.
func (l *lab) place(nodeName string, ports ...int) *node {
	n := l.node(nodeName)
	for _, port := range ports {
		n.ports[port] = net.JoinHostPort(n.ip, fmt.Sprint(freePort(l.t, n.ip)))
	}
	n.admin = net.JoinHostPort(n.ip, fmt.Sprint(freePort(l.t, n.ip)))
	return n
}

// configuration reads an example, with its ports where place put them.
func (l *lab) configuration(example, nodeName string, edit func(map[string]any)) string {
	l.t.Helper()
	content, err := os.ReadFile(filepath.Join("../../manifests/examples/linkerd", example+".yaml"))
	if err != nil {
		l.t.Fatal(err)
	}
	var c map[string]any
	if err := yaml.Unmarshal(content, &c); err != nil {
		l.t.Fatal(err)
	}
	n := l.node(nodeName)
	split := func(address string) (string, any) {
		host, port, _ := net.SplitHostPort(address)
		var number int
		_, _ = fmt.Sscan(port, &number)
		return host, number
	}
	for _, r := range c["routers"].([]any) {
		for _, s := range r.(map[string]any)["servers"].([]any) {
			s := s.(map[string]any)
			port, _ := s["port"].(int)
			if port == 0 {
				port = 4140
			}
			address, ok := n.ports[port]
			if !ok {
				l.t.Fatalf("the example %s has a server on port %d, which was given no place", example, port)
			}
			s["ip"], s["port"] = split(address)
		}
	}
	admin := map[string]any{}
	admin["ip"], admin["port"] = split(n.admin)
	c["admin"] = admin
	if edit != nil {
		edit(c)
	}
	text, err := yaml.Marshal(c)
	if err != nil {
		l.t.Fatal(err)
	}
	path := filepath.Join(l.t.TempDir(), nodeName+".yaml")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		l.t.Fatal(err)
	}
	return path
}

// proxy runs a configuration on the node until the test ends.
func (l *lab) proxy(file, nodeName string) {
	l.t.Helper()
	n := l.node(nodeName)
	cfg := l.controller
	cfg.Config, cfg.Node, cfg.PodIP, cfg.PodName, cfg.Namespace = file, nodeName, n.ip, "l5d-"+nodeName, "default"
	p, err := sidecar.New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	l.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			l.t.Error(err)
		}
	})
	l.eventually("the proxy on "+nodeName+" serves", func() bool {
		a := l.get(n.admin, "/admin/ping", nil)
		return a.status == 200 && a.body == "pong"
	})
}

// answer is what came of a request.
type answer struct {
	status int
	body   string
	header http.Header
	took   time.Duration
}

// get asks an address; headers may have a Host.
func (l *lab) get(address, path string, header map[string]string) answer {
	return l.do(http.MethodGet, address, path, header)
}

func (l *lab) do(method, address, path string, header map[string]string) answer {
	req, err := http.NewRequest(method, "http://"+address+path, nil)
	if err != nil {
		l.t.Fatal(err)
	}
	for key, value := range header {
		req.Header.Set(key, value)
	}
	req.Host = header["Host"]
	transport := &http.Transport{DisableKeepAlives: true}
	began := time.Now()
	res, err := transport.RoundTrip(req)
	if err != nil {
		return answer{body: err.Error()}
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	return answer{res.StatusCode, string(body), res.Header, time.Since(began)}
}

// eventually waits for what takes a real clock.
func (l *lab) eventually(what string, ok func() bool) {
	l.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for range 500 {
		if ok() {
			return
		}
		<-tick.C
	}
	l.t.Fatalf("in vain: %s", what)
}

// want asks and compares: a status, and a part of the body.
func (l *lab) want(address string, header map[string]string, status int, body string) answer {
	l.t.Helper()
	a := l.get(address, "/", header)
	if a.status != status || !strings.Contains(a.body, body) {
		l.t.Errorf("%v: %d %q, want %d %q", header, a.status, a.body, status, body)
	}
	return a
}
