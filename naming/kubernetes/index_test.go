package kubernetes

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/namer/api"
	"github.com/tulle-mesh/tulle/naming/rewrite"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newIndex(t interface {
	Helper()
	Fatal(...any)
}) *Index {
	t.Helper()
	x, err := NewIndex(Config{})
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// svc is a Service in namespace shop; ports are "name:port:target".
func svc(name string, ports ...string) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
	for _, p := range ports {
		f := strings.Split(p, ":")
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: f[0], Port: intstr.Parse(f[1]).IntVal, TargetPort: intstr.Parse(f[2]), Protocol: corev1.ProtocolTCP})
	}
	return s
}

// ep describes an endpoint: ip, then flags: "unready", "terminating", "serving", "serving=no",
// "pod=<name>", "uid=<uid>", "node=<node>", "unknown".
func ep(ip string, flags ...string) discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{Addresses: []string{ip}, Conditions: discoveryv1.EndpointConditions{Ready: new(true)}}
	ref := func() *corev1.ObjectReference {
		if e.TargetRef == nil {
			e.TargetRef = &corev1.ObjectReference{Kind: "Pod", Namespace: "shop"}
		}
		return e.TargetRef
	}
	for _, f := range flags {
		k, v, _ := strings.Cut(f, "=")
		switch k {
		case "unready":
			e.Conditions.Ready = new(false)
		case "unknown":
			e.Conditions.Ready = nil
		case "terminating":
			e.Conditions.Terminating = new(true)
		case "serving":
			e.Conditions.Serving = new(v != "no")
		case "pod":
			ref().Name = v
		case "uid":
			ref().UID = types.UID(v)
		case "node":
			e.NodeName = &v
		}
	}
	return e
}

// eps is an EndpointSlice of a Service; ports are "name:port".
func eps(name, service, ports string, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "shop", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   endpoints,
	}
	for p := range strings.FieldsSeq(ports) {
		name, port, _ := strings.Cut(p, ":")
		s.Ports = append(s.Ports, discoveryv1.EndpointPort{Name: &name, Port: new(intstr.Parse(port).IntVal), Protocol: new(corev1.ProtocolTCP)})
	}
	return s
}

// po is a running Pod on node n1 with host IP 192.168.0.1; edit may change it.
func po(name, ip, mode string, edit ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Labels: map[string]string{}, Annotations: map[string]string{}},
		Spec:       corev1.PodSpec{NodeName: "n1", ServiceAccountName: "web", Containers: []corev1.Container{{Name: "app"}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning,
			HostIP: "192.168.0.1", HostIPs: []corev1.HostIP{{IP: "192.168.0.1"}, {IP: "fd00::1"}}},
	}
	if ip != "" {
		p.Status.PodIP, p.Status.PodIPs = ip, []corev1.PodIP{{IP: ip}}
	}
	if mode != "" {
		p.Labels[labelMode] = mode
	}
	if mode == api.ModeSidecar {
		p.Spec.InitContainers = []corev1.Container{{Name: proxyContainer}}
	}
	for _, f := range edit {
		f(p)
	}
	return p
}

// show prints replicas as state and addresses, with the hop of each that has one.
func show(r naming.Replicas) string {
	if r.State != naming.StateBound {
		return r.State.String()
	}
	s := []string{"bound"}
	for _, e := range r.Endpoints {
		a := e.Address
		if e.Hop != naming.HopNone {
			a += ">" + e.Hop.String() + ">" + e.Via
		}
		s = append(s, a)
	}
	return strings.Join(s, " ")
}

func follow(t testing.TB, x *Index, port, service string) *watch.Value[naming.Replicas] {
	t.Helper()
	v, release := x.Replicas(rewrite.KubernetesID("shop", port, service))
	t.Cleanup(release)
	return v
}

// What names mean, for each state of the objects.
func TestReplicas(t *testing.T) {
	web := svc("cart", "http:80:web", "admin:81:9000")
	for _, c := range []struct {
		name  string
		apply []any
		port  string
		want  string
	}{
		{"nothing", nil, "http", "neg"},
		{"no slices", []any{web}, "http", "neg"},
		{"no Service", []any{eps("a", "cart", "http:8080", ep("10.0.1.4"))}, "http", "neg"},
		{"by name", []any{web, eps("a", "cart", "http:8080", ep("10.0.1.4"), ep("10.0.2.9"))}, "http", "bound 10.0.1.4:8080 10.0.2.9:8080"},
		{"by number", []any{web, eps("a", "cart", "http:8080", ep("10.0.1.4"))}, "80", "bound 10.0.1.4:8080"},
		{"by number, slice by target name", []any{web, eps("a", "cart", "web:8080", ep("10.0.1.4"))}, "80", "bound 10.0.1.4:8080"},
		{"by the target's number", []any{web, eps("a", "cart", "http:8080", ep("10.0.1.4"))}, "8080", "neg"},
		{"undeclared number", []any{web, eps("a", "cart", "http:8080", ep("10.0.1.4"))}, "82", "neg"},
		{"declared, not in the slice", []any{web, eps("a", "cart", "http:8080", ep("10.0.1.4"))}, "81", "neg"},
		{"no port of that name", []any{web, eps("a", "cart", "http:8080", ep("10.0.1.4"))}, "grpc", "neg"},
		{"unnamed port by number", []any{svc("cart", ":80:8080"), eps("a", "cart", ":8080", ep("10.0.1.4"))}, "80", "bound 10.0.1.4:8080"},
		{"every slice has its own number", []any{web, eps("a", "cart", "http:8080", ep("10.0.1.4")), eps("b", "cart", "http:8081", ep("10.0.2.9"))}, "80", "bound 10.0.1.4:8080 10.0.2.9:8081"},
		{"an address twice", []any{web, eps("a", "cart", "http:8080", ep("10.0.1.4")), eps("b", "cart", "http:8080", ep("10.0.1.4"))}, "80", "bound 10.0.1.4:8080"},
		{"IPv6 too", []any{web, eps("a", "cart", "http:8080", ep("10.0.1.4")), v6(eps("b", "cart", "http:8080", ep("fd00::4")))}, "80", "bound 10.0.1.4:8080 [fd00::4]:8080"},
		{"no host names", []any{web, fqdn(eps("a", "cart", "http:8080", ep("cart.test")))}, "80", "neg"},
		{"UDP", []any{web, udp(eps("a", "cart", "http:8080", ep("10.0.1.4")))}, "80", "neg"},
		{"another Service's slice", []any{web, eps("a", "tart", "http:8080", ep("10.0.1.4"))}, "80", "neg"},
		{"readiness not known", []any{web, eps("a", "cart", "http:8080", ep("10.0.1.4", "unknown"))}, "80", "bound 10.0.1.4:8080"},
		{"one not ready", []any{web, eps("a", "cart", "http:8080", ep("10.0.1.4"), ep("10.0.1.5", "unready"))}, "80", "bound 10.0.1.4:8080"},
		{"none ready", []any{web, eps("a", "cart", "http:8080", ep("10.0.1.4", "unready"))}, "80", "bound"},
		{"none ready, in a slice without the port", []any{web, eps("a", "cart", "admin:9000", ep("10.0.1.4", "unready"))}, "80", "neg"},
		{"scaled to zero", []any{web, eps("a", "cart", "http:8080")}, "80", "neg"},
		{"going down to zero", []any{web, eps("a", "cart", "http:8080", ep("10.0.1.4", "unready", "terminating"))}, "80", "neg"},
		{"the last one terminates, and serves", []any{web, eps("a", "cart", "http:8080", ep("10.0.1.4", "unready", "terminating", "serving"))}, "80", "bound 10.0.1.4:8080"},
		{"the last one terminates, and serves no more", []any{web, eps("a", "cart", "http:8080", ep("10.0.1.4", "unready", "terminating", "serving=no"))}, "80", "neg"},
		{"one terminates, one is ready", []any{web, eps("a", "cart", "http:8080", ep("10.0.1.4", "unready", "terminating", "serving")), eps("b", "cart", "http:8080", ep("10.0.1.5", "serving"))}, "80", "bound 10.0.1.5:8080"},
		{"one terminates, one is not ready", []any{web, eps("a", "cart", "http:8080", ep("10.0.1.4", "unready", "terminating", "serving"), ep("10.0.1.5", "unready", "serving=no"))}, "80", "bound 10.0.1.4:8080"},
		{"one terminates in another family", []any{web, eps("a", "cart", "http:8080", ep("10.0.1.4", "unready", "terminating", "serving")), v6(eps("b", "cart", "http:8080", ep("fd00::4")))}, "80", "bound [fd00::4]:8080"},
		{"serving without terminating is not ready", []any{web, eps("a", "cart", "http:8080", ep("10.0.1.4", "unready", "serving"))}, "80", "bound"},
		{"one pod in two families", []any{web, eps("a", "cart", "http:8080", ep("10.0.1.4", "pod=x")), v6(eps("b", "cart", "http:8080", ep("fd00::4", "pod=x"))), po("x", "10.0.1.4", "host", func(p *corev1.Pod) {
			p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: "fd00::4"})
		})}, "80", "bound 10.0.1.4:8080>host>192.168.0.1:4141 [fd00::4]:8080>host>[fd00::1]:4141"},
		{"a port of UDP beside one of TCP", []any{web, udp(eps("a", "cart", "http:8081", ep("10.0.1.4"))), eps("b", "cart", "http:8080", ep("10.0.1.4"))}, "http", "bound 10.0.1.4:8080"},
		{"one address at two ports", []any{web, eps("a", "cart", "http:8080 admin:9000", ep("10.0.1.4"))}, "admin", "bound 10.0.1.4:9000"},
		{"a target without a number in the slice", []any{web, noPort(eps("a", "cart", "http:8080", ep("10.0.1.4")))}, "80", "neg"},
		{"terminating but ready", []any{web, eps("a", "cart", "http:8080", ep("10.0.1.4", "terminating"))}, "80", "bound 10.0.1.4:8080"},
		// Hops.
		{"a sidecar", []any{web, eps("a", "cart", "http:8080", ep("10.0.1.4", "pod=x")), po("x", "10.0.1.4", "sidecar")}, "80", "bound 10.0.1.4:8080>sidecar>10.0.1.4:4141"},
		{"a sidecar on its own port", []any{web, eps("a", "cart", "http:8080", ep("10.0.1.4", "pod=x")), annotate(po("x", "10.0.1.4", "sidecar"), "5141")}, "80", "bound 10.0.1.4:8080>sidecar>10.0.1.4:5141"},
		{"a port that is none", []any{web, eps("a", "cart", "http:8080", ep("10.0.1.4", "pod=x")), annotate(po("x", "10.0.1.4", "sidecar"), "0x1")}, "80", "bound 10.0.1.4:8080>sidecar>10.0.1.4:4141"},
		{"a label without a sidecar", []any{web, eps("a", "cart", "http:8080", ep("10.0.1.4", "pod=x")), po("x", "10.0.1.4", "sidecar", func(p *corev1.Pod) { p.Spec.InitContainers = nil })}, "80", "bound 10.0.1.4:8080"},
		{"a sidecar among the containers", []any{web, eps("a", "cart", "http:8080", ep("10.0.1.4", "pod=x")), po("x", "10.0.1.4", "sidecar", func(p *corev1.Pod) {
			p.Spec.InitContainers, p.Spec.Containers = nil, []corev1.Container{{Name: "app"}, {Name: proxyContainer}}
		})}, "80", "bound 10.0.1.4:8080>sidecar>10.0.1.4:4141"},
		{"a host proxy", []any{web, eps("a", "cart", "http:8080", ep("10.0.1.4", "pod=x")), po("x", "10.0.1.4", "host")}, "80", "bound 10.0.1.4:8080>host>192.168.0.1:4141"},
		{"a host proxy by IPv6", []any{web, v6(eps("a", "cart", "http:8080", ep("fd00::4", "pod=x"))), po("x", "fd00::4", "host")}, "80", "bound [fd00::4]:8080>host>[fd00::1]:4141"},
		{"a host proxy of one family", []any{web, v6(eps("a", "cart", "http:8080", ep("fd00::4", "pod=x"))), po("x", "fd00::4", "host", func(p *corev1.Pod) { p.Status.HostIPs = nil })}, "80", "bound [fd00::4]:8080>host>192.168.0.1:4141"},
		{"a host that is not known", []any{web, eps("a", "cart", "http:8080", ep("10.0.1.4", "pod=x")), po("x", "10.0.1.4", "host", func(p *corev1.Pod) { p.Status.HostIPs, p.Status.HostIP = nil, "" })}, "80", "bound"},
		{"a pod outside the mesh", []any{web, eps("a", "cart", "http:8080", ep("10.0.1.4", "pod=x")), po("x", "10.0.1.4", "")}, "80", "bound 10.0.1.4:8080"},
		{"on the host's network", []any{web, eps("a", "cart", "http:8080", ep("192.168.0.1", "pod=x")), annotate(po("x", "192.168.0.1", "host", hostNetwork), "5141")}, "80", "bound 192.168.0.1:8080"},
		{"on the host's network, with a proxy of its own", []any{web, eps("a", "cart", "http:8080", ep("192.168.0.1", "pod=x")), po("x", "192.168.0.1", "sidecar", hostNetwork)}, "80", "bound 192.168.0.1:8080"},
		{"a pod that is not known", []any{web, eps("a", "cart", "http:8080", ep("10.0.1.4", "pod=x"), ep("10.0.1.5", "pod=y")), po("y", "10.0.1.5", "")}, "80", "bound 10.0.1.5:8080"},
		{"no pod is known", []any{web, eps("a", "cart", "http:8080", ep("10.0.1.4", "pod=x"))}, "80", "bound"},
		{"no pod is known, and its endpoint terminates", []any{web, eps("a", "cart", "http:8080", ep("10.0.1.4", "pod=x", "unready", "terminating", "serving"))}, "80", "neg"},
		{"a pod without its IP", []any{web, eps("a", "cart", "http:8080", ep("10.0.1.4", "pod=x")), po("x", "", "host")}, "80", "bound"},
		{"another pod of the name", []any{web, eps("a", "cart", "http:8080", ep("10.0.1.4", "pod=x", "uid=1")), po("x", "10.0.1.4", "host", func(p *corev1.Pod) { p.UID = "2" })}, "80", "bound"},
		{"the same pod", []any{web, eps("a", "cart", "http:8080", ep("10.0.1.4", "pod=x", "uid=1")), po("x", "10.0.1.4", "host", func(p *corev1.Pod) { p.UID = "1" })}, "80", "bound 10.0.1.4:8080>host>192.168.0.1:4141"},
		{"a pod that ended", []any{web, eps("a", "cart", "http:8080", ep("10.0.1.4", "pod=x")), po("x", "10.0.1.4", "host", func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed })}, "80", "bound"},
		{"by hand, to a pod's IP", []any{web, eps("a", "cart", "http:8080", ep("10.0.1.4")), po("x", "10.0.1.4", "sidecar")}, "80", "bound 10.0.1.4:8080>sidecar>10.0.1.4:4141"},
		{"by hand, to a node's IP", []any{web, eps("a", "cart", "http:8080", ep("192.168.0.1")), po("x", "192.168.0.1", "host", hostNetwork)}, "80", "bound 192.168.0.1:8080"},
	} {
		t.Run(c.name, func(t *testing.T) {
			// In order, followed from the start; and backwards, followed at the end.
			x, y := newIndex(t), newIndex(t)
			x.MarkSynced()
			live := follow(t, x, c.port, "cart")
			for i := range c.apply {
				apply(x, c.apply[i])
				apply(y, c.apply[len(c.apply)-1-i])
			}
			late := follow(t, y, c.port, "cart")
			if got := show(late.Get()); got != "pending" {
				t.Errorf("before it is synced: %s", got)
			}
			y.MarkSynced()
			if got := show(live.Get()); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			if got := show(late.Get()); got != c.want {
				t.Errorf("applied backwards: got %s, want %s", got, c.want)
			}
		})
	}
}

func apply(x *Index, o any) {
	switch o := o.(type) {
	case *corev1.Service:
		x.ApplyService(o)
	case *discoveryv1.EndpointSlice:
		x.ApplySlice(o)
	case *corev1.Pod:
		x.ApplyPod(o)
	}
}

func v6(s *discoveryv1.EndpointSlice) *discoveryv1.EndpointSlice {
	s.AddressType = discoveryv1.AddressTypeIPv6
	return s
}

func fqdn(s *discoveryv1.EndpointSlice) *discoveryv1.EndpointSlice {
	s.AddressType = discoveryv1.AddressTypeFQDN
	return s
}

func noPort(s *discoveryv1.EndpointSlice) *discoveryv1.EndpointSlice {
	s.Ports[0].Port = nil
	return s
}

func udp(s *discoveryv1.EndpointSlice) *discoveryv1.EndpointSlice {
	s.Ports[0].Protocol = new(corev1.ProtocolUDP)
	return s
}

func hostNetwork(p *corev1.Pod) { p.Spec.HostNetwork = true }

func annotate(p *corev1.Pod, incoming string) *corev1.Pod {
	p.Annotations[annotationIncomingPort] = incoming
	return p
}

func TestEndpoint(t *testing.T) {
	x, err := NewIndex(Config{TrustDomain: "mesh.test", HostProxyIdentity: "spiffe://mesh.test/ns/sys/sa/host", HostIncomingPort: 5141})
	if err != nil {
		t.Fatal(err)
	}
	x.MarkSynced()
	x.ApplyService(svc("cart", "http:80:8080"))
	x.ApplySlice(eps("a", "cart", "http:8080", ep("10.0.0.1", "pod=a", "node=n9"), ep("10.0.0.2", "pod=b"), ep("10.0.0.3")))
	x.ApplyPod(po("a", "10.0.0.1", "sidecar"))
	x.ApplyPod(po("b", "10.0.0.2", "host"))
	got := follow(t, x, "80", "cart").Get()
	want := naming.Of(
		naming.Endpoint{Address: "10.0.0.1:8080", Node: "n9", Hop: naming.HopSidecar, Via: "10.0.0.1:4141", Identity: "spiffe://mesh.test/ns/shop/sa/web", Weight: 1},
		naming.Endpoint{Address: "10.0.0.2:8080", Node: "n1", Hop: naming.HopHost, Via: "192.168.0.1:5141", Identity: "spiffe://mesh.test/ns/sys/sa/host", Weight: 1},
		naming.Endpoint{Address: "10.0.0.3:8080", Weight: 1},
	)
	if !got.Equal(want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestNames(t *testing.T) {
	x := newIndex(t)
	for name, want := range map[string]string{
		"/#/io.l5d.k8s/shop/http/cart":                   "pending",
		"/#/io.l5d.k8s/Shop/HTTP/Cart":                   "pending",
		"/#/io.l5d.k8s/shop/http":                        "neg",
		"/#/io.l5d.k8s/shop/http/cart/":                  "",
		"/#/io.l5d.k8s/shop/80/cart/x":                   "neg",
		"/#/io.l5d.k8s/shop/80/cart/version/v1":          "pending",
		"/#/io.l5d.k8s/shop/80/cart/version/v1/x":        "neg",
		"/#/io.l5d.k8s.external/shop/80/cart":            "pending",
		"/#/io.l5d.k8s.external/shop/80/cart/version/v1": "pending",
		"/#/io.l5d.k8s.ns/shop/80/cart":                  "neg",
		"/#/io.l5d.fs/a/b/c":                             "neg",
		"/$/inet/db/80":                                  "neg",
		"/":                                              "neg",
	} {
		p, err := naming.ParsePath(name)
		if (err != nil) != (want == "") {
			t.Fatal(name, err)
		} else if err != nil {
			continue
		}
		v, release := x.Replicas(p)
		if got := show(v.Get()); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
		release()
		release()
	}
	if len(x.services) != 0 {
		t.Errorf("%d services are left", len(x.services))
	}
}

// The life of a Service: what is published at each step, and that nothing else is.
func TestLife(t *testing.T) {
	x := newIndex(t)
	x.MarkSynced()
	cart, other := follow(t, x, "80", "cart"), follow(t, x, "80", "other")
	x.ApplyService(svc("other", "http:80:8080"))
	x.ApplySlice(eps("other-1", "other", "http:8080", ep("10.0.9.9", "pod=z")))
	x.ApplyPod(po("z", "10.0.9.9", "host"))
	sets, others := 0, 0
	cart.Notify(func() { sets++ })
	other.Notify(func() { others++ })
	step := func(what, want string, published bool, f func()) {
		t.Helper()
		before := sets
		f()
		if got := show(cart.Get()); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
		if n := sets - before; n != map[bool]int{true: 1}[published] {
			t.Errorf("%s: published %d times", what, n)
		}
	}
	ready := eps("cart-1", "cart", "http:8080", ep("10.0.0.1", "pod=a"))
	step("created", "neg", false, func() { x.ApplyService(svc("cart", "http:80:8080")) })
	step("the slice comes first", "bound", true, func() { x.ApplySlice(ready) })
	step("then the pod", "bound 10.0.0.1:8080>sidecar>10.0.0.1:4141", true, func() { x.ApplyPod(po("a", "10.0.0.1", "sidecar")) })
	step("nothing new", "bound 10.0.0.1:8080>sidecar>10.0.0.1:4141", false, func() {
		x.ApplyPod(po("a", "10.0.0.1", "sidecar", func(p *corev1.Pod) { p.ResourceVersion, p.Labels["x"] = "2", "y" }))
		x.ApplySlice(ready.DeepCopy())
		x.ApplyService(svc("cart", "http:80:8080"))
		x.ApplyPod(po("b", "10.0.0.2", "sidecar"))
	})
	step("a second slice", "bound 10.0.0.1:8080>sidecar>10.0.0.1:4141 10.0.0.2:8081>sidecar>10.0.0.2:4141", true, func() {
		x.ApplySlice(eps("cart-2", "cart", "http:8081", ep("10.0.0.2", "pod=b")))
	})
	step("the mode changes", "bound 10.0.0.1:8080>sidecar>10.0.0.1:4141 10.0.0.2:8081>host>192.168.0.1:4141", true, func() {
		x.ApplyPod(po("b", "10.0.0.2", "host"))
	})
	step("a pod goes before its slice", "bound 10.0.0.2:8081>host>192.168.0.1:4141", true, func() { x.DeletePod("shop", "a") })
	step("then the slice", "bound 10.0.0.2:8081>host>192.168.0.1:4141", false, func() { x.DeleteSlice("shop", "cart-1") })
	step("not ready", "bound", true, func() {
		x.ApplySlice(eps("cart-2", "cart", "http:8081", ep("10.0.0.2", "pod=b", "unready")))
	})
	step("scaled to zero", "neg", true, func() { x.ApplySlice(eps("cart-2", "cart", "")) })
	step("scaled up", "bound 10.0.0.2:8081>host>192.168.0.1:4141", true, func() {
		x.ApplySlice(eps("cart-2", "cart", "http:8081", ep("10.0.0.2", "pod=b")))
	})
	step("the port is renumbered", "neg", true, func() { x.ApplyService(svc("cart", "http:8000:8080")) })
	step("and back", "bound 10.0.0.2:8081>host>192.168.0.1:4141", true, func() { x.ApplyService(svc("cart", "http:80:8080")) })
	step("deleted, its slice still there", "neg", true, func() { x.DeleteService("shop", "cart") })
	step("created again", "bound 10.0.0.2:8081>host>192.168.0.1:4141", true, func() { x.ApplyService(svc("cart", "http:80:8080")) })
	if others != 0 {
		t.Errorf("the other Service was published %d times", others)
	}
	step("the slice is given away", "neg", true, func() {
		x.ApplySlice(eps("cart-2", "other", "http:8081", ep("10.0.0.2", "pod=b")))
	})
	if got, want := show(other.Get()), "bound 10.0.0.2:8081>host>192.168.0.1:4141 10.0.9.9:8080>host>192.168.0.1:4141"; got != want {
		t.Errorf("the other Service is %s, want %s", got, want)
	}
}

func TestPods(t *testing.T) {
	x := newIndex(t)
	n1, release := x.Pods("n1")
	n2, release2 := x.Pods("n2")
	list := func(v *watch.Value[[]api.Pod]) string {
		if v.Get() == nil {
			return "unknown"
		}
		var s []string
		for _, p := range v.Get() {
			s = append(s, p.IP+"="+p.Namespace+"/"+p.Name)
		}
		return strings.Join(s, " ")
	}
	expect := func(want1, want2 string) {
		t.Helper()
		if got1, got2 := list(n1), list(n2); got1 != want1 || got2 != want2 {
			t.Errorf("got %q, %q; want %q, %q", got1, got2, want1, want2)
		}
	}
	at := func(node string) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.NodeName = node } }
	x.ApplyPod(po("b", "10.0.0.2", ""))
	expect("unknown", "unknown")
	x.MarkSynced()
	expect("10.0.0.2=shop/b", "")
	x.ApplyPod(po("a", "10.0.0.1", "host"))
	x.ApplyPod(po("proxy", "192.168.0.1", "", hostNetwork))
	x.ApplyPod(po("starting", "", ""))
	x.ApplyPod(po("far", "10.0.1.1", "", at("n2")))
	x.ApplyPod(po("unscheduled", "", "", at("")))
	expect("10.0.0.1=shop/a 10.0.0.2=shop/b", "10.0.1.1=shop/far")
	x.ApplyPod(po("starting", "10.0.0.3", "", func(p *corev1.Pod) {
		p.Status.Phase = corev1.PodPending // its init containers run
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: "fd00::3"})
	}))
	expect("10.0.0.1=shop/a 10.0.0.2=shop/b 10.0.0.3=shop/starting fd00::3=shop/starting", "10.0.1.1=shop/far")
	x.ApplyPod(po("starting", "10.0.0.3", "", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }))
	sets := 0
	n1.Notify(func() { sets++ })
	x.ApplyPod(po("a", "10.0.0.1", "sidecar"))
	if sets != 0 {
		t.Error("equal lists are published")
	}
	young := po("young", "10.0.0.2", "", func(p *corev1.Pod) { p.CreationTimestamp.Time = metav1.Now().Time })
	x.ApplyPod(young)
	expect("10.0.0.1=shop/a 10.0.0.2=shop/young", "10.0.1.1=shop/far")
	x.DeletePod("shop", "b")
	x.DeletePod("shop", "b")
	x.DeletePod("shop", "far")
	expect("10.0.0.1=shop/a 10.0.0.2=shop/young", "")
	release()
	release()
	release2()
	if len(x.nodes) != 0 {
		t.Errorf("%d nodes are left", len(x.nodes))
	}
}

func TestConfig(t *testing.T) {
	for _, c := range []Config{
		{HostIncomingPort: 70000},
		{HostIncomingPort: -1},
		{HostProxyIdentity: "tulle-host"},
		{TrustDomain: "mesh.test", HostProxyIdentity: "spiffe://cluster.local/ns/tulle/sa/tulle-host"},
	} {
		if _, err := NewIndex(c); err == nil {
			t.Errorf("%+v is accepted", c)
		} else {
			t.Log(err)
		}
	}
}

// What the Index tells callers of a pod and what it tells the host proxy of its node agree: the
// proxy answers for every pod that it is said to be the hop of.
func TestHostProxyAnswersForItsPods(t *testing.T) {
	x := newIndex(t)
	x.MarkSynced()
	x.ApplyService(svc("cart", "http:80:8080"))
	x.ApplySlice(eps("a", "cart", "http:8080", ep("10.0.0.1", "pod=a"), ep("192.168.0.1", "pod=b")))
	x.ApplyPod(po("a", "10.0.0.1", "host"))
	x.ApplyPod(po("b", "192.168.0.1", "host", hostNetwork))
	pods, release := x.Pods("n1")
	defer release()
	known := map[string]bool{}
	for _, p := range pods.Get() {
		known[p.IP+":8080"] = true
	}
	endpoints := follow(t, x, "80", "cart").Get().Endpoints
	if len(endpoints) != 2 {
		t.Fatalf("endpoints are %+v", endpoints)
	}
	for _, e := range endpoints {
		if (e.Hop == naming.HopHost) != known[e.Address] {
			t.Errorf("%s has hop %s, and its node's proxy knows %v", e.Address, e.Hop, known)
		}
	}
}

// A pod that changes costs as much in a large cluster as in a small one.
func BenchmarkApplyPod(b *testing.B) {
	x := newIndex(b)
	x.MarkSynced()
	for i := range 2000 {
		name := fmt.Sprint("s", i)
		ip := fmt.Sprintf("10.1.%d.%d", i/200, i%200)
		x.ApplyService(svc(name, "http:80:8080"))
		x.ApplySlice(eps(name, name, "http:8080", ep(ip, "pod="+name)))
		x.ApplyPod(po(name, ip, "sidecar"))
		_, release := x.Replicas(rewrite.KubernetesID("shop", "80", name))
		defer release()
	}
	modes := []*corev1.Pod{po("s7", "10.1.0.7", "host"), po("s7", "10.1.0.7", "sidecar")}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		x.ApplyPod(modes[i%2])
	}
}

func TestNamesOfAll(t *testing.T) {
	x := newIndex(t)
	if got := x.Names(); len(got) != 0 {
		t.Errorf("an empty cluster has the names %v", got)
	}
	x.ApplyService(svc("cart", "http:80:8080", ":81:8081"))
	x.ApplyService(svc("gone", "http:80:8080"))
	x.DeleteService("shop", "gone")
	x.ApplySlice(eps("a", "headless", "http:80", ep("10.0.0.1"))) // whose Service is not there
	got, want := x.Names(), []string{"/#/io.l5d.k8s/shop/80/cart", "/#/io.l5d.k8s/shop/81/cart", "/#/io.l5d.k8s/shop/http/cart"}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
