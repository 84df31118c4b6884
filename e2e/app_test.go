//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/internal/counter"
)

// patience bounds every wait for the cluster. Kubernetes' own controllers have taken a minute to be at work again
// after the API server was away.
const patience = 5 * time.Minute

// namespace makes a namespace for one test. mode is "host", "sidecar" or, for a
// namespace outside the mesh, "". All enforce Pod Security restricted.
func namespace(t *testing.T, name, mode string) string {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
		"pod-security.kubernetes.io/enforce": "restricted",
	}}}
	if mode != "" {
		ns.Labels["tulle.dev/inject"] = "enabled"
		ns.Labels["tulle.dev/mode"] = mode
	}
	namespaces := mesh.Client().CoreV1().Namespaces()
	// A namespace of an earlier run on a kept cluster may be going still.
	await(t, "namespace "+name+" to be gone", func(ctx context.Context) (bool, string) {
		_ = namespaces.Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: new(int64)})
		_, err := namespaces.Get(ctx, name, metav1.GetOptions{})
		return err != nil, "still there"
	})
	if _, err := namespaces.Create(t.Context(), ns, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	await(t, "the default service account of "+name, func(ctx context.Context) (bool, string) {
		_, err := mesh.Client().CoreV1().ServiceAccounts(name).Get(ctx, "default", metav1.GetOptions{})
		return err == nil, fmt.Sprint(err)
	})
	t.Cleanup(func() {
		if !t.Failed() {
			_ = namespaces.Delete(context.WithoutCancel(t.Context()), name, metav1.DeleteOptions{})
		}
	})
	return name
}

// app is a Deployment of helloworld, or of another image, and the Service in
// front of it.
type app struct {
	namespace, name string
	text, target    string // of helloworld
	image           string // instead of helloworld, with the same port
	args            []string
	ports           map[int32]int32 // of the Service beside 80, and where they lead
	node            string          // where it must run; empty for anywhere
	replicas        int32
}

// start creates the app and waits until all of it is ready and its Service leads
// there.
func (a app) start(t *testing.T) app {
	t.Helper()
	a.create(t)
	a.serving(t)
	return a
}

// serving waits until all of a created app is ready and its Service leads there.
func (a app) serving(t *testing.T) {
	t.Helper()
	a.ready(t)
	slices := mesh.Client().DiscoveryV1().EndpointSlices(a.namespace)
	await(t, "the endpoints of "+a.name, func(ctx context.Context) (bool, string) {
		list, err := slices.List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + a.name})
		if err != nil {
			return false, err.Error()
		}
		ready := int32(0)
		for _, slice := range list.Items {
			for _, e := range slice.Endpoints {
				if e.Conditions.Ready != nil && *e.Conditions.Ready {
					ready++
				}
			}
		}
		return ready >= max(a.replicas, 1), fmt.Sprintf("%d are ready", ready)
	})
}

func (a app) create(t *testing.T) {
	t.Helper()
	args := []string{"-addr", ":7777", "-text", a.text}
	if a.target != "" {
		args = append(args, "-target", a.target)
	}
	if a.image != "" {
		args = a.args
	}
	labels := map[string]string{"app": a.name}
	replicas := max(a.replicas, 1)
	spec := helloworld(args...)
	if a.image != "" {
		spec.Containers[0].Image = a.image
	}
	if a.node != "" {
		spec.NodeSelector = map[string]string{"kubernetes.io/hostname": a.node}
	}
	d := &appsv1.Deployment{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"},
		ObjectMeta: metav1.ObjectMeta{Namespace: a.namespace, Name: a.name},
		Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: spec}},
	}
	s := &corev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: metav1.ObjectMeta{Namespace: a.namespace, Name: a.name},
		Spec: corev1.ServiceSpec{Selector: labels,
			Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromString("http")}}},
	}
	for port, target := range a.ports {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: fmt.Sprint("p", port), Port: port, TargetPort: intstr.FromInt32(target)})
	}
	for _, object := range []any{d, s} {
		text, err := yaml.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		if err := mesh.Apply(t.Context(), string(text)); err != nil {
			t.Fatal(err)
		}
	}
}

// helloworld is a pod of that program with the given arguments, as Pod Security
// restricted wants it.
func helloworld(args ...string) corev1.PodSpec {
	return corev1.PodSpec{
		SecurityContext: &corev1.PodSecurityContext{RunAsNonRoot: new(true), RunAsUser: new(int64(65532)),
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
		Containers: []corev1.Container{{
			Name: "app", Image: "tulle.dev/helloworld:dev", ImagePullPolicy: corev1.PullIfNotPresent, Args: args,
			Env: []corev1.EnvVar{{Name: "POD_IP", ValueFrom: &corev1.EnvVarSource{
				FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"}}}},
			Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 7777}},
			ReadinessProbe: &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{
				TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(7777)}}},
			SecurityContext: &corev1.SecurityContext{AllowPrivilegeEscalation: new(false),
				Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}},
		}},
	}
}

// ready waits until the app's rollout is complete and no old pod is left.
func (a app) ready(t *testing.T) {
	t.Helper()
	kubectl(t, "rollout", "status", "-n", a.namespace, "--timeout=120s", "deployment/"+a.name)
}

// pods returns the app's pods that are not going.
func (a app) pods(t *testing.T) []corev1.Pod {
	t.Helper()
	list, err := mesh.Client().CoreV1().Pods(a.namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app=" + a.name})
	if err != nil {
		t.Fatal(err)
	}
	var alive []corev1.Pod
	for _, p := range list.Items {
		if p.DeletionTimestamp == nil {
			alive = append(alive, p)
		}
	}
	return alive
}

func (a app) pod(t *testing.T) corev1.Pod {
	t.Helper()
	pods := a.pods(t)
	if len(pods) != 1 {
		t.Fatalf("app %s/%s has %d pods, want one", a.namespace, a.name, len(pods))
	}
	return pods[0]
}

func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := mesh.Kubectl(t.Context(), nil, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// await polls what can only be looked at. ok also says what is missing.
func await(t *testing.T, what string, ok func(context.Context) (bool, string)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		done, missing := ok(ctx)
		if done {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited %s for %s: %s", patience, what, missing)
		}
	}
}

// client returns an HTTP client whose requests go through the proxy at an
// address, or directly if it is empty, each on a connection of its own.
func client(t *testing.T, proxy string) *http.Client {
	transport := &http.Transport{DisableKeepAlives: true, Proxy: nil}
	if proxy != "" {
		transport.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: proxy})
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

// get returns the answer to a GET, with the header fields given in pairs.
func get(ctx context.Context, c *http.Client, target string, header ...string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return 0, "", err
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return do(c, req)
}

// post returns the answer to a POST.
func post(ctx context.Context, c *http.Client, target, body string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	return do(c, req)
}

func do(c *http.Client, req *http.Request) (int, string, error) {
	res, err := c.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	return res.StatusCode, string(body), err
}

// expect fails the test unless a GET is answered 200 with the text.
func expect(t *testing.T, c *http.Client, target, want string, header ...string) {
	t.Helper()
	status, body, err := get(t.Context(), c, target, header...)
	if err != nil || status != 200 || body != want {
		t.Fatalf("GET %s: %d %q, %v, want %q", target, status, strings.TrimSpace(body), err, want)
	}
}

// reach waits until a GET is answered 200 for the first time: the proxies learn
// of an endpoint a moment after its pod is ready. From then on every request is
// to be answered.
func reach(t *testing.T, c *http.Client, target string, header ...string) {
	t.Helper()
	await(t, "a first answer of "+target, func(ctx context.Context) (bool, string) {
		status, body, err := get(ctx, c, target, header...)
		return err == nil && status == 200, fmt.Sprintf("%d %q %v", status, body, err)
	})
}

// hostProxy returns the outgoing address of a node's proxy.
func hostProxy(t *testing.T, node string) string {
	t.Helper()
	return net.JoinHostPort(nodeIP(t, node), "4140")
}

func nodeIP(t *testing.T, node string) string {
	t.Helper()
	ip, ok := mesh.NodeIPs()[node]
	if !ok {
		t.Fatalf("there is no node %s", node)
	}
	return ip.String()
}

// direct returns the URL of an app's pod, past every proxy.
func direct(p corev1.Pod) string { return "http://" + net.JoinHostPort(p.Status.PodIP, "7777") }

// answer is what hello says when it has called a world at another pod.
func answer(hello corev1.Pod, word string, world corev1.Pod) string {
	return fmt.Sprintf("Hello (%s) %s (%s)!!", hello.Status.PodIP, word, world.Status.PodIP)
}

// counted reads a proxy's own counter of the requests that it answered with
// success, for a router and a service.
func counted(t *testing.T, proxyIP, router, service string) int {
	t.Helper()
	status, text, err := get(t.Context(), client(t, ""), "http://"+net.JoinHostPort(proxyIP, "9990")+"/metrics")
	if err != nil || status != 200 {
		t.Fatalf("read the metrics of %s: %d %v", proxyIP, status, err)
	}
	n, err := counter.Sum(strings.NewReader(text), "tulle_requests_total",
		map[string]string{"router": router, "service": service, "result": "success"})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// crosses runs f, in which n requests for the service are made, and checks by
// the counters that each went out of one proxy and into the other.
func crosses(t *testing.T, out, in, service string, n int, f func()) {
	t.Helper()
	outBefore, inBefore := counted(t, out, "outgoing", service), counted(t, in, "incoming", service)
	f()
	await(t, "the proxies to count "+service, func(context.Context) (bool, string) {
		o, i := counted(t, out, "outgoing", service)-outBefore, counted(t, in, "incoming", service)-inBefore
		return o == n && i == n, fmt.Sprintf("%d went out of %s and %d into %s, want %d", o, out, i, in, n)
	})
}
