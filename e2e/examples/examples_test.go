package examples

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/tulle-mesh/tulle/internal/helloworld"
)

var sentence = regexp.MustCompile(`^Hello \(127\.0\.1\.\d+\) (world|earth) \(127\.0\.1\.\d+\)!!$`)

// helloWorld runs hello and world-v1 on both nodes, and what all proxies are
// endpoints of.
func (l *lab) helloWorld(nodes ...string) {
	l.t.Helper()
	for _, service := range []string{"hello", "world-v1"} {
		l.service(service, corev1.ServicePort{Name: "http", Port: 7777})
	}
	for i := range 3 {
		on := nodes[i%len(nodes)]
		l.app("hello", on, fmt.Sprintf("127.0.1.%d", 10+i), helloworld.Config{Text: "Hello", Target: "world"})
		l.app("world-v1", on, fmt.Sprintf("127.0.1.%d", 20+i), helloworld.Config{Text: "world"})
	}
}

// daemons makes the proxies of the nodes endpoints of the Service l5d.
func (l *lab) daemons(port string, number int, nodes ...string) {
	l.t.Helper()
	l.service("l5d", corev1.ServicePort{Name: port, Port: int32(number)})
	for _, name := range nodes {
		_, at, err := net.SplitHostPort(l.node(name).ports[number])
		if err != nil {
			l.t.Fatal(err)
		}
		var n int
		_, _ = fmt.Sscan(at, &n)
		l.endpoint("l5d", name, l.node(name).ip, map[string]int{port: n})
	}
}

func TestBase(t *testing.T) {
	l := newLab(t)
	for _, n := range []string{"a", "b"} {
		l.place(n, 4140, 4141)
	}
	l.daemons("incoming", 4141, "a", "b")
	l.helloWorld("a", "b")
	for _, n := range []string{"a", "b"} {
		l.proxy(l.configuration("base", n, nil), n)
	}
	out := l.node("a").ports[4140]
	pods := map[string]bool{}
	for range 20 {
		a := l.want(out, map[string]string{"Host": "hello"}, 200, "Hello")
		if !sentence.MatchString(a.body) {
			t.Errorf("the answer is %q", a.body)
		}
		pods[a.body] = true
	}
	if len(pods) < 3 {
		t.Errorf("all requests went the same way: %v", pods)
	}
	// In the form that http_proxy makes clients use.
	proxied := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: out})}}
	if res, err := proxied.Get("http://hello/"); err != nil || res.StatusCode != 200 {
		t.Error(res, err)
	} else {
		_ = res.Body.Close()
	}
	a := l.want(out, map[string]string{"Host": "nope"}, 502, "Unable to route request!")
	if !strings.Contains(a.body, "service name: /svc/nope") || a.header.Get("l5d-err") == "" {
		t.Errorf("%q %v", a.body, a.header)
	}
	metrics := l.get(l.node("a").admin, "/metrics", nil).body
	for _, want := range []string{
		`client="/%/io.l5d.k8s.daemonset/default/incoming/l5d/#/io.l5d.k8s/default/http/hello"`, `router="outgoing"`, `router="incoming"`,
		`client="/%/io.l5d.k8s.localnode/`, "tulle_namer_connected 1",
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no metric has %s", want)
		}
	}
	if ready := l.get(l.node("a").admin, "/admin/ready", nil); ready.status != 200 || ready.body != "ready\n" {
		t.Errorf("%+v", ready)
	}

	// The world goes away.
	for i := range 3 {
		l.index.DeleteSlice("default", fmt.Sprintf("world-v1-127.0.1.%d", 20+i))
		if i < 2 {
			for range 10 {
				l.want(out, map[string]string{"Host": "hello"}, 200, "world")
			}
		}
	}
	l.eventually("hello misses the world", func() bool {
		a := l.get(out, "/", map[string]string{"Host": "hello"})
		return a.status == 503 && strings.Contains(a.body, "invalid response 502")
	})
}

// What a name means is explained, router by router.
func TestExplained(t *testing.T) {
	l := newLab(t)
	l.place("a", 4140, 4141)
	l.daemons("incoming", 4141, "a")
	l.helloWorld("a")
	l.proxy(l.configuration("base", "a", nil), "a")
	admin := l.node("a").admin
	for _, query := range []string{"namespace=outgoing&path=/svc/world", "namespace=incoming&path=/svc/world"} {
		a := l.get(admin, "/delegator.json?"+query, nil)
		var tree any
		if err := json.Unmarshal([]byte(a.body), &tree); err != nil || a.status != 200 || !strings.Contains(a.body, "/#/io.l5d.k8s/default/http/world-v1") ||
			!strings.Contains(a.body, `"transformation"`) || !strings.Contains(a.body, `"bound"`) {
			t.Errorf("%s: %d %v %s", query, a.status, err, a.body)
		}
	}
	l.want(l.node("a").ports[4140], map[string]string{"Host": "hello"}, 200, "Hello")
	for path, want := range map[string]string{
		"/bound-names.json":            `"/%/io.l5d.k8s.daemonset/default/incoming/l5d/#/io.l5d.k8s/default/http/hello"`,
		"/namer_state":                 `"connected": true`,
		"/namer_state/io.l5d.k8s.json": `"outgoing"`,
		"/config.json":                 `"transformers"`,
	} {
		if a := l.get(admin, path, nil); a.status != 200 || !strings.Contains(a.body, want) {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
}

func TestIngressByDomain(t *testing.T) {
	l := newLab(t)
	l.place("a", 4140, 4141, 4142)
	l.daemons("incoming", 4141, "a")
	l.helloWorld("a")
	l.service("world-v2", corev1.ServicePort{Name: "http", Port: 7778})
	l.app("world-v2", "a", "127.0.1.30", helloworld.Config{Text: "earth"})
	l.service("api", corev1.ServicePort{Name: "http", Port: 7779})
	l.app("api", "a", "127.0.1.40", helloworld.Config{Text: "api", Target: "hello", JSON: true})
	l.proxy(l.configuration("ingress-by-domain", "a", nil), "a")
	in := l.node("a").ports[4142]
	const staging = "/host/world => /srv/world-v2;"
	l.want(in, map[string]string{"Host": "www.hello.world"}, 200, "world (127.0.1.2")
	l.want(in, map[string]string{"Host": "api.hello.world"}, 200, `{"api_result":"api (127.0.1.40) Hello (`)
	// Staging reaches any depth, and nobody else.
	for range 5 {
		l.want(in, map[string]string{"Host": "www.hello.world", "l5d-dtab": staging}, 200, "earth (127.0.1.30)!!")
		l.want(in, map[string]string{"Host": "api.hello.world", "l5d-dtab": staging}, 200, "earth (127.0.1.30)!!")
		l.want(in, map[string]string{"Host": "www.hello.world"}, 200, "world (127.0.1.2")
	}
	l.want(in, map[string]string{"Host": "other.test"}, 502, "")
	l.want(in, map[string]string{"Host": "www.hello.world:80"}, 502, "")
	l.want(in, map[string]string{"Host": "www.hello.world", "l5d-dtab": "/host/world => "}, 400, "")
}

func TestEgress(t *testing.T) {
	l := newLab(t)
	l.place("a", 4140, 4141)
	l.daemons("incoming", 4141, "a")
	l.helloWorld("a")
	outside := func(requests *atomic.Int64) (port string) {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			requests.Add(1)
			fmt.Fprint(w, "outside ", r.Host)
		}))
		t.Cleanup(s.Close)
		_, port, _ = net.SplitHostPort(s.Listener.Addr().String())
		return port
	}
	var plain, encrypted atomic.Int64
	port, secure := outside(&plain), outside(&encrypted)
	file := l.configuration("egress", "a", nil)
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(content), "/443/", "/"+secure+"/") // the real port is not ours to take
	if text == string(content) {
		t.Fatal("the example has no clients with TLS on port 443")
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	l.proxy(file, "a")
	out := l.node("a").ports[4140]
	l.want(out, map[string]string{"Host": "hello"}, 200, "Hello")
	l.want(out, map[string]string{"Host": "localhost:" + port}, 200, "outside localhost:"+port)
	// What is to be spoken to in TLS is not spoken to in clear text.
	a := l.want(out, map[string]string{"Host": "localhost:" + secure}, 502, "")
	if a.header.Get("l5d-err") == "" || encrypted.Load() != 0 {
		t.Errorf("%d requests in clear text, %v", encrypted.Load(), a.header)
	}
}

func TestLatency(t *testing.T) {
	l := newLab(t)
	l.place("a", 4140, 4141)
	l.daemons("incoming", 4141, "a")
	l.service("hello", corev1.ServicePort{Name: "http", Port: 7777})
	l.service("world", corev1.ServicePort{Name: "http", Port: 7778})
	l.service("world-v1", corev1.ServicePort{Name: "http", Port: 7778})
	hello := l.app("hello", "a", "127.0.1.10", helloworld.Config{Text: "Hello", Target: "world", Latency: 500 * time.Millisecond})
	world := l.app("world-v1", "a", "127.0.1.20", helloworld.Config{Text: "world"})
	l.proxy(l.configuration("latency", "a", nil), "a")
	out := l.node("a").ports[4140]
	set := func(app *helloworld.App, latency string) {
		t.Helper()
		w := httptest.NewRecorder()
		app.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/setLatency?latency="+latency, nil))
		if w.Code != 200 {
			t.Fatal(w.Code, w.Body)
		}
	}
	if a := l.want(out, map[string]string{"Host": "hello"}, 200, "Hello (127.0.1.10) world (127.0.1.20)!!"); a.took < 500*time.Millisecond {
		t.Errorf("it took %s", a.took)
	}
	set(world, "200ms")
	set(hello, "1ms")
	l.want(out, map[string]string{"Host": "hello"}, 503, "invalid response 503")
	set(hello, "700ms")
	a := l.want(out, map[string]string{"Host": "hello"}, 503, "")
	if err, _ := url.QueryUnescape(a.header.Get("l5d-err")); !strings.Contains(err, "exceeded 600.milliseconds") {
		t.Errorf("l5d-err is %q", err)
	}
}
