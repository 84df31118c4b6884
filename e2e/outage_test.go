//go:build e2e

package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// outage is how long something is away: OUTAGE, a duration such as 3m, or twenty seconds.
func outage(t *testing.T) time.Duration {
	d, err := time.ParseDuration(cmp.Or(os.Getenv("OUTAGE"), "20s"))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// The API server goes, then the namer, then both, under load in both modes. No request fails, and what is changed
// while one of them is away, or right after its return, reaches all proxies.
func TestOutage(t *testing.T) {
	restoreDtab(t)
	plain := app{namespace: namespace(t, "e2e-outage-plain", ""), name: "plain", text: "plain"}.start(t)
	o := &outages{away: outage(t), proxies: map[string]string{"host n1": nodeIP(t, "n1"), "host n2": nodeIP(t, "n2")}}
	for _, mode := range []string{"host", "sidecar"} {
		ns := namespace(t, "e2e-outage-"+mode, mode)
		app{namespace: ns, name: "world", text: "world", node: "n2"}.start(t)
		hello := app{namespace: ns, name: "hello", text: "Hello", target: "world", node: "n1"}.start(t)
		caller := app{namespace: ns, name: "caller", text: "Hello", target: "plain." + plain.namespace, node: "n2"}.start(t)
		if mode == "sidecar" {
			for _, a := range []app{hello, caller} {
				o.proxies["sidecar of "+a.name] = a.pod(t).Status.PodIP
			}
		}
		o.callers = append(o.callers, caller.pod(t))
		proxies := []string{hostProxy(t, "n1"), hostProxy(t, "n2")}
		for _, p := range proxies {
			reach(t, client(t, p), "http://hello."+ns)
			reach(t, client(t, p), "http://caller."+ns)
		}
		o.streams = append(o.streams, startStream(t, "http://hello."+ns, proxies...))
	}
	t.Cleanup(func() { // whatever the test has come to
		ctx := context.WithoutCancel(t.Context())
		if err := mesh.StartAPI(ctx); err != nil {
			t.Error(err)
		}
		scaleController(ctx, t, 2)
	})

	t.Run("the API server", func(t *testing.T) {
		if err := mesh.StopAPI(t.Context()); err != nil {
			t.Fatal(err)
		}
		o.wait(t, false)
		o.startAPI(t)
		o.change(t, plain, "api", 2)
		o.check(t, plain, "api", 2)
	})
	t.Run("the namer", func(t *testing.T) {
		scaleController(t.Context(), t, 0)
		o.change(t, plain, "namer", 3)
		o.wait(t, true)
		scaleController(t.Context(), t, 2)
		o.check(t, plain, "namer", 3)
	})
	t.Run("both", func(t *testing.T) {
		scaleController(t.Context(), t, 0)
		if err := mesh.StopAPI(t.Context()); err != nil {
			t.Fatal(err)
		}
		o.wait(t, true)
		o.startAPI(t)
		o.change(t, plain, "both", 2)
		scaleController(t.Context(), t, 2)
		o.check(t, plain, "both", 2)
	})
}

// outages is the load, and who must hear of changes.
type outages struct {
	away    time.Duration
	streams []*stream
	callers []corev1.Pod      // of plain, one in each mode
	proxies map[string]string // IP by what it is
}

// wait lets the outage last. Meanwhile every proxy is ready, and says whether it hears the namer.
func (o *outages) wait(t *testing.T, silent bool) {
	t.Helper()
	end := time.NewTimer(o.away)
	defer end.Stop()
	c := client(t, "")
	for what, ip := range o.proxies {
		await(t, what+" to say how it stands", func(ctx context.Context) (bool, string) {
			status, ready, err := get(ctx, c, "http://"+net.JoinHostPort(ip, "9990")+"/admin/ready")
			if err != nil || status != 200 {
				t.Errorf("%s is not ready: %d %q %v", what, status, ready, err)
				return true, ""
			}
			_, metrics, err := get(ctx, c, "http://"+net.JoinHostPort(ip, "9990")+"/metrics")
			said := strings.Contains(ready, "the namer has not been heard for")
			counted := strings.Contains(metrics, "\ntulle_namer_connected 0\n")
			return err == nil && said == silent && counted == silent, fmt.Sprintf("%q, counted %v, %v", ready, counted, err)
		})
	}
	<-end.C
}

func (o *outages) startAPI(t *testing.T) {
	t.Helper()
	began := time.Now()
	if err := mesh.StartAPI(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("the API server is back after %.1f s", time.Since(began).Seconds())
}

// change adds a rule and scales an app, with kubectl.
func (o *outages) change(t *testing.T, a app, rule string, replicas int) {
	t.Helper()
	kubectl(t, "patch", "-n", "tulle", "dtab/default", "--type=json",
		"-p", fmt.Sprintf(`[{"op": "add", "path": "/dentries/-", "value": {"prefix": "/host/outage-%s", "dst": "/srv/world"}}]`, rule))
	kubectl(t, "scale", "-n", a.namespace, "deployment/"+a.name, fmt.Sprint("--replicas=", replicas))
}

// check waits until all proxies have what was changed, then looks whether a request failed since the last time.
func (o *outages) check(t *testing.T, a app, rule string, replicas int) {
	t.Helper()
	c, began := client(t, ""), time.Now()
	for what, ip := range o.proxies {
		await(t, what+" to have the rule", func(ctx context.Context) (bool, string) {
			_, rules, err := get(ctx, c, "http://"+net.JoinHostPort(ip, "9990")+"/admin/dtab")
			return strings.Contains(rules, "/host/outage-"+rule), fmt.Sprint(rules, err)
		})
	}
	t.Logf("all proxies have the rule after %.1f s", time.Since(began).Seconds())
	a.ready(t)
	for _, caller := range o.callers {
		want := map[string]bool{}
		for _, p := range a.pods(t) {
			want[fmt.Sprintf("Hello (%s) plain (%s)!!", caller.Status.PodIP, p.Status.PodIP)] = true
		}
		if len(want) != replicas {
			t.Fatalf("there are %d pods, want %d", len(want), replicas)
		}
		for range 10 * replicas { // some may have been called by the first that are ready
			delete(want, answerOf(t, c, direct(caller)))
		}
		await(t, caller.Namespace+" to call all pods", func(context.Context) (bool, string) {
			delete(want, answerOf(t, c, direct(caller)))
			return len(want) == 0, fmt.Sprint("not yet ", want)
		})
	}
	await(t, "all proxies to hear the namer", func(ctx context.Context) (bool, string) {
		for what, ip := range o.proxies {
			if _, ready, err := get(ctx, c, "http://"+net.JoinHostPort(ip, "9990")+"/admin/ready"); ready != "ready\n" {
				return false, fmt.Sprint(what, ready, err)
			}
		}
		return true, ""
	})
	t.Logf("all is as told after %.1f s", time.Since(began).Seconds())
	for _, s := range o.streams {
		s.check(t)
	}
}

func answerOf(t *testing.T, c *http.Client, target string) string {
	t.Helper()
	status, body, err := get(t.Context(), c, target)
	if err != nil || status != 200 {
		t.Errorf("%s: %d %q %v", target, status, body, err)
	}
	return body
}

// scaleController returns when that many controllers are ready and there are no others.
func scaleController(ctx context.Context, t *testing.T, replicas int) {
	t.Helper()
	if _, err := mesh.Kubectl(ctx, nil, "scale", "-n", "tulle", "deployment/tulle-controller", fmt.Sprint("--replicas=", replicas)); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		pods, err := mesh.Client().CoreV1().Pods("tulle").List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=controller"})
		if err == nil && len(pods.Items) == replicas && !slices.ContainsFunc(pods.Items, func(p corev1.Pod) bool {
			return len(p.Status.ContainerStatuses) != 1 || !p.Status.ContainerStatuses[0].Ready
		}) {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Errorf("waited %s for %d controllers: %v", patience, replicas, err)
			return
		}
	}
}

// restoreDtab gives the mesh the rules back that it has now, when the test is done.
func restoreDtab(t *testing.T) {
	t.Helper()
	rules := kubectl(t, "get", "-n", "tulle", "dtab/default", "-o", "jsonpath={.dentries}")
	t.Cleanup(func() {
		if _, err := mesh.Kubectl(context.WithoutCancel(t.Context()), nil, "patch", "-n", "tulle", "dtab/default", "--type=merge", "-p", `{"dentries":`+rules+`}`); err != nil {
			t.Error(err)
		}
	})
}

// Both controllers have the same dtabs under the same versions, whoever wrote them, and refuse the same.
func TestControllersAgree(t *testing.T) {
	restoreDtab(t)
	ns := namespace(t, "e2e-agree", "")
	kubectl(t, "create", "serviceaccount", "-n", ns, "editor")
	kubectl(t, "create", "rolebinding", "-n", "tulle", "e2e-agree", "--clusterrole=tulle-dtab-editor", "--serviceaccount="+ns+":editor")
	t.Cleanup(func() {
		_, _ = mesh.Kubectl(context.WithoutCancel(t.Context()), nil, "delete", "-n", "tulle", "--ignore-not-found", "rolebinding/e2e-agree", "dtab/e2e-agree")
	})
	token := strings.TrimSpace(kubectl(t, "create", "token", "-n", ns, "editor", "--audience=tulle.dev"))
	pods, err := mesh.Client().CoreV1().Pods("tulle").List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=controller"})
	if err != nil || len(pods.Items) != 2 {
		t.Fatalf("there are %d controllers, %v", len(pods.Items), err)
	}
	if a, b := pods.Items[0].Spec.NodeName, pods.Items[1].Spec.NodeName; a == b {
		t.Errorf("both controllers are on %s", a)
	}
	c := client(t, "")
	ask := func(replica int, token, method, path, ifMatch, body string) (status int, etag, text string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+net.JoinHostPort(pods.Items[replica].Status.PodIP, "4180")+"/api/1/dtabs/"+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/dtab")
		req.Header.Set("Accept", "application/dtab")
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		if ifMatch != "" {
			req.Header.Set("If-Match", ifMatch)
		}
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		answer, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, res.Header.Get("ETag"), string(answer)
	}
	// agree waits until both have the rule and returns the version that both give.
	agree := func(what, rule string) string {
		t.Helper()
		var version string
		await(t, "both controllers to have "+what, func(context.Context) (bool, string) {
			s0, e0, t0 := ask(0, token, "GET", "e2e-agree", "", "")
			s1, e1, t1 := ask(1, token, "GET", "e2e-agree", "", "")
			version = e0
			return s0 == 200 && s1 == 200 && e0 != "" && e0 == e1 && t0 == t1 && strings.Contains(t0, rule),
				fmt.Sprintf("%d %s %q; %d %s %q", s0, e0, t0, s1, e1, t1)
		})
		return version
	}
	if status, _, text := ask(0, "", "GET", "e2e-agree", "", ""); status != 401 {
		t.Errorf("without a token: %d %q", status, text)
	}
	if status, _, text := ask(0, token, "POST", "e2e-agree", "", "/svc => /one"); status/100 != 2 {
		t.Fatalf("create: %d %q", status, text)
	}
	one := agree("what the first wrote", "/one")
	if status, _, text := ask(1, token, "PUT", "e2e-agree", one, "/svc => /two"); status/100 != 2 {
		t.Fatalf("update by the other: %d %q", status, text)
	}
	two := agree("what the second wrote", "/two")
	for replica := range 2 {
		if status, _, text := ask(replica, token, "PUT", "e2e-agree", one, "/svc => /stale"); status != 412 {
			t.Errorf("an update of a stale version by controller %d: %d %q", replica, status, text)
		}
	}
	patch := func(dst string) error {
		value, err := json.Marshal([]map[string]any{{"op": "replace", "path": "/dentries/0/dst", "value": dst}})
		if err != nil {
			return err
		}
		_, err = mesh.Kubectl(t.Context(), nil, "patch", "-n", "tulle", "dtab/e2e-agree", "--type=json", "-p", string(value))
		return err
	}
	if err := patch("/three"); err != nil {
		t.Fatal(err)
	}
	three := agree("what kubectl wrote", "/three")
	if one == two || two == three {
		t.Errorf("versions are %s, %s and %s", one, two, three)
	}
	if status, _, text := ask(0, token, "PUT", "e2e-agree", two, "/svc => /stale"); status != 412 {
		t.Errorf("an update of what kubectl has changed: %d %q", status, text)
	}
	err = patch("(/three | /four")
	if err == nil || !strings.Contains(err.Error(), "dentries[0].dst: ')' expected but end of input found at '(/three | /four[]'") {
		t.Errorf("kubectl on a dtab that does not parse: %v", err)
	}
	if v := agree("what was there", "/three"); v != three {
		t.Errorf("what was refused has changed the version from %s to %s", three, v)
	}
}
