//go:build e2e

package names

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/tulle-mesh/tulle/e2e/cluster"
	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/kubernetes"
	"github.com/tulle-mesh/tulle/naming/kubernetes/store"
	"github.com/tulle-mesh/tulle/naming/registry"
)

// source asks an index for the leaf ids of a registry.
type source struct{ index *kubernetes.Index }

func (s source) Replicas(id string) (*watch.Value[naming.Replicas], func()) {
	p, err := naming.ParsePath(id)
	if err != nil {
		return watch.New(naming.Replicas{State: naming.StateFailed, Cause: err.Error()}), func() {}
	}
	return s.index.Replicas(p)
}

// newIndex returns an index that reads an API server until the test ends.
func newIndex(t *testing.T, a *cluster.API) *kubernetes.Index {
	t.Helper()
	index, err := kubernetes.NewIndex(kubernetes.Config{Logger: logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	run(t, func(ctx context.Context) error { return index.Run(ctx, a.Client()) })
	return index
}

// names are bound by the namers of a registry, live.
type names struct {
	t        *testing.T
	registry *registry.Registry
	followed map[string]*watch.Value[naming.Replicas]
}

func newNames(t *testing.T, index *kubernetes.Index, env string, namers ...registry.Namer) *names {
	t.Helper()
	r, err := registry.New(registry.Config{
		Namers: namers, Source: source{index},
		Getenv: func(name string) string { return map[string]string{"POD_NAMESPACE": env}[name] },
	})
	if err != nil {
		t.Fatal(err)
	}
	run(t, r.Run)
	return &names{t, r, map[string]*watch.Value[naming.Replicas]{}}
}

func (n *names) state(id naming.Path) naming.Replicas {
	v := n.followed[id.String()]
	if v == nil {
		var release func()
		v, release = n.registry.Replicas(id.String())
		n.t.Cleanup(release)
		n.followed[id.String()] = v
	}
	return v.Get()
}

// bind says what a name is, with an alternative: "else" if that is taken, otherwise id, residual and addresses.
func (n *names) bind(name string) string {
	rules, err := naming.ParseDtab("/name => " + name + " | /$/inet/192.0.2.255/1")
	if err != nil {
		n.t.Fatal(err)
	}
	tree, err := naming.Bind(rules, naming.Path{"name"}, n.registry.Resolver(n.state))
	if err != nil {
		return err.Error()
	}
	switch tree.Kind {
	case naming.BoundPending:
		return "pending"
	case naming.BoundLeaf:
	default:
		return fmt.Sprintf("%+v", tree)
	}
	if tree.Leaf.ID[0] == "$" {
		return "else"
	}
	said := tree.Leaf.ID.String()
	if len(tree.Leaf.Residual) > 0 {
		said += " " + tree.Leaf.Residual.String()
	}
	for _, e := range n.state(tree.Leaf.ID).Endpoints {
		said += " " + e.Address
		if e.Hop != naming.HopNone {
			said += ">" + e.Hop.String() + ">" + e.Via
		}
	}
	return said
}

// expect waits until all names are as wanted.
func (n *names) expect(what string, want map[string]string) {
	n.t.Helper()
	var wrong []string
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; <-tick.C {
		wrong = nil
		for name, w := range want {
			if got := n.bind(name); got != w {
				wrong = append(wrong, fmt.Sprintf("%s is %s, want %s", name, got, w))
			}
		}
		if wrong == nil {
			return
		}
		if time.Now().After(end) {
			n.t.Fatalf("%s:\n%s", what, strings.Join(wrong, "\n"))
		}
	}
}

// shop edits the objects of a namespace.
type shop struct {
	t  *testing.T
	a  *cluster.API
	ns string
}

// service makes a Service as it is to be; ports are 80 named http, to a target port named web, and 81 named admin.
func (s shop) service(name string, edit func(*corev1.Service)) {
	s.t.Helper()
	services := s.a.Client().CoreV1().Services(s.ns)
	o, err := services.Get(s.t.Context(), name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		o, err = services.Create(s.t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, AllocateLoadBalancerNodePorts: new(false), Ports: []corev1.ServicePort{
			{Name: "http", Port: 80, TargetPort: intstr.FromString("web")}, {Name: "admin", Port: 81, TargetPort: intstr.FromInt32(9000)},
			{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP},
		}}}, metav1.CreateOptions{})
	}
	if err != nil {
		s.t.Fatal(err)
	}
	if edit == nil {
		return
	}
	edit(o)
	status := o.Status
	if o, err = services.Update(s.t.Context(), o, metav1.UpdateOptions{}); err != nil {
		s.t.Fatal(err)
	}
	o.Status = status
	if _, err = services.UpdateStatus(s.t.Context(), o, metav1.UpdateOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

func (s shop) deleteService(name string) {
	s.t.Helper()
	if err := s.a.Client().CoreV1().Services(s.ns).Delete(s.t.Context(), name, metav1.DeleteOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

// slice makes a slice as it is to be; ports are "name:number".
func (s shop) slice(name, service, label string, ports string, endpoints ...discoveryv1.Endpoint) {
	s.t.Helper()
	l := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4, Endpoints: endpoints,
	}
	if label != "" {
		l.Labels["version"] = label
	}
	if len(endpoints) > 0 && strings.Contains(endpoints[0].Addresses[0], ":") {
		l.AddressType = discoveryv1.AddressTypeIPv6
	}
	for p := range strings.FieldsSeq(ports) {
		port, number, _ := strings.Cut(p, ":")
		l.Ports = append(l.Ports, discoveryv1.EndpointPort{Name: &port, Port: new(intstr.Parse(number).IntVal), Protocol: new(corev1.ProtocolTCP)})
	}
	slices := s.a.Client().DiscoveryV1().EndpointSlices(s.ns)
	_, err := slices.Create(s.t.Context(), l, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		_, err = slices.Update(s.t.Context(), l, metav1.UpdateOptions{})
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s shop) deleteSlice(name string) {
	s.t.Helper()
	if err := s.a.Client().DiscoveryV1().EndpointSlices(s.ns).Delete(s.t.Context(), name, metav1.DeleteOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

// pod makes a running pod of a mode.
func (s shop) pod(name, ip, mode string) {
	s.t.Helper()
	pods := s.a.Client().CoreV1().Pods(s.ns)
	p, err := pods.Create(s.t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"tulle.dev/mode": mode}},
		Spec:       corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "tulle-proxy", Image: "x"}}},
	}, metav1.CreateOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	s.podStatus(p, corev1.PodRunning, ip)
}

func (s shop) podStatus(p *corev1.Pod, phase corev1.PodPhase, ip string) {
	s.t.Helper()
	p.Status = corev1.PodStatus{Phase: phase, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}}, HostIP: "192.168.0.1", HostIPs: []corev1.HostIP{{IP: "192.168.0.1"}}}
	if _, err := s.a.Client().CoreV1().Pods(s.ns).UpdateStatus(s.t.Context(), p, metav1.UpdateOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

// endpoint is an address and its conditions: ready, serving, terminating.
func endpoint(ip string, conditions ...bool) discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{Addresses: []string{ip}}
	if len(conditions) == 3 {
		e.Conditions = discoveryv1.EndpointConditions{Ready: &conditions[0], Serving: &conditions[1], Terminating: &conditions[2]}
	}
	return e
}

// The life of a Service under every kind of namer, with an alternative behind it.
func TestNamers(t *testing.T) {
	ns := namespace(t, api)
	s := shop{t, api, ns}
	n := newNames(t, newIndex(t, api), ns,
		registry.Namer{Kind: registry.Kubernetes, Prefix: naming.Path{"io.l5d.k8s"}},
		registry.Namer{Kind: registry.KubernetesHere, Prefix: naming.Path{"io.l5d.k8s.ns"}, EnvVar: "POD_NAMESPACE"},
		registry.Namer{Kind: registry.KubernetesExternal, Prefix: naming.Path{"io.l5d.k8s.external"}},
		registry.Namer{Kind: registry.Kubernetes, Prefix: naming.Path{"by", "version"}, LabelSelector: "version"},
		registry.Namer{Kind: registry.KubernetesExternal, Prefix: naming.Path{"outside", "version"}, LabelSelector: "version"},
	)
	var (
		byName   = "/#/io.l5d.k8s/" + strings.ToUpper(ns) + "/HTTP/Cart/Rest"
		byNumber = "/#/io.l5d.k8s/" + ns + "/80/cart"
		here     = "/#/io.l5d.k8s.ns/http/cart"
		version  = "/#/by/version/" + ns + "/http/cart/v2/rest"
		outside  = "/#/io.l5d.k8s.external/" + ns + "/80/cart"
		outsideV = "/#/outside/version/" + ns + "/http/cart/v2"
	)
	// now waits until the names inside have these addresses; those with a version and those outside are given.
	now := func(what, inside, v, out, outV string) {
		t.Helper()
		addresses := func(id, all string) string {
			if all == "else" {
				return all
			}
			return strings.TrimSpace(id + " " + all)
		}
		n.expect(what, map[string]string{
			byName:                               addresses("/#/io.l5d.k8s/"+ns+"/http/cart /Rest", inside),
			byNumber:                             addresses("/#/io.l5d.k8s/"+ns+"/80/cart", inside),
			here:                                 addresses("/#/io.l5d.k8s.ns/http/cart", inside),
			version:                              addresses("/#/by/version/"+ns+"/http/cart/v2 /rest", v),
			outside:                              addresses(outside, out),
			outsideV:                             addresses(outsideV, outV),
			"/#/io.l5d.k8s/" + ns + "/82/cart":   "else",
			"/#/io.l5d.k8s/" + ns + "/grpc/cart": "else",
			"/#/io.l5d.k8s/" + ns + "/dns/cart":  "else",
			"/#/io.l5d.k8s/" + ns + "/http":      "else",
			"/#/by/version/" + ns + "/http/cart": "else",
			"/#/io.l5d.k8s.external/" + ns + "/82/cart":    "else",
			"/#/io.l5d.k8s.external/" + ns + "/dns/cart":   "else",
			"/#/io.l5d.k8s/" + ns + "x/http/cart":          "else",
			"/#/io.l5d.k8s.external/" + ns + "x/http/cart": "else",
		})
	}
	now("nothing", "else", "else", "else", "else")
	s.service("cart", nil)
	now("a Service", "else", "else", "else", "else")
	s.slice("one", "cart", "v1", "http:8080", endpoint("10.0.1.4"))
	now("an endpoint", "10.0.1.4:8080", "else", "else", "else")
	s.slice("two", "cart", "V2", "http:8081", endpoint("10.0.2.9", true, true, false))
	now("a slice with its own number", "10.0.1.4:8080 10.0.2.9:8081", "10.0.2.9:8081", "else", "else")
	s.slice("three", "cart", "v2", "http:8080", endpoint("fd00::4"))
	now("the other family", "10.0.1.4:8080 10.0.2.9:8081 [fd00::4]:8080", "10.0.2.9:8081 [fd00::4]:8080", "else", "else")
	s.slice("three", "cart", "v2", "http:8080", endpoint("fd00::4", false, false, false))
	s.slice("two", "cart", "v2", "http:8081", endpoint("10.0.2.9", false, true, true))
	now("one not ready, one terminating", "10.0.1.4:8080", "10.0.2.9:8081", "else", "else")
	s.slice("two", "cart", "v2", "http:8081", endpoint("10.0.2.9", false, false, true))
	now("that one is at its end", "10.0.1.4:8080", "", "else", "else")
	s.deleteSlice("three")
	now("only that one", "10.0.1.4:8080", "else", "else", "else")
	s.deleteSlice("two")
	s.slice("one", "cart", "v2", "http:8080", endpoint("10.0.1.4", false, false, false))
	now("none is ready", "", "", "else", "else")
	s.slice("one", "cart", "v2", "admin:9000", endpoint("10.0.1.4"))
	now("not that port", "else", "else", "else", "else")
	s.slice("one", "cart", "v2", "")
	now("scaled to zero", "else", "else", "else", "else")
	s.slice("one", "cart", "v2", "http:8080", endpoint("10.0.1.4"))
	now("scaled up", "10.0.1.4:8080", "10.0.1.4:8080", "else", "else")

	s.service("cart", func(o *corev1.Service) {
		o.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}, {IP: "2001:db8::1"}}
	})
	now("a load balancer", "10.0.1.4:8080", "10.0.1.4:8080", "192.0.2.1:80 [2001:db8::1]:80", "else")
	s.service("cart", func(o *corev1.Service) { o.Labels = map[string]string{"version": "V2"} })
	now("with the label", "10.0.1.4:8080", "10.0.1.4:8080", "192.0.2.1:80 [2001:db8::1]:80", "192.0.2.1:80 [2001:db8::1]:80")
	s.service("cart", func(o *corev1.Service) { o.Status.LoadBalancer.Ingress = nil })
	now("without it", "10.0.1.4:8080", "10.0.1.4:8080", "else", "else")
	s.deleteService("cart")
	now("deleted", "else", "else", "else", "else")
	s.service("cart", nil)
	now("made anew", "10.0.1.4:8080", "10.0.1.4:8080", "else", "else")

	// The endpoint is a pod from now on.
	e := endpoint("10.0.1.4")
	e.TargetRef = &corev1.ObjectReference{Kind: "Pod", Namespace: ns, Name: "a"}
	s.slice("one", "cart", "v2", "http:8080", e)
	now("a pod that is not known yet", "", "", "else", "else")
	s.pod("a", "10.0.1.4", "sidecar")
	now("a pod with a proxy", "10.0.1.4:8080>sidecar>10.0.1.4:4141", "10.0.1.4:8080>sidecar>10.0.1.4:4141", "else", "else")
	p, err := api.Client().CoreV1().Pods(ns).Get(t.Context(), "a", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s.podStatus(p, corev1.PodFailed, "10.0.1.4")
	now("a pod that has ended, which its slice does not say yet", "", "", "else", "else")
}

// away is how long the API server is gone: AWAY, a duration, or some seconds.
func away(t *testing.T) time.Duration {
	d, err := time.ParseDuration(cmp.Or(os.Getenv("AWAY"), "3s"))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// The API server goes away and comes back: meanwhile all stays as it was, and what happens while nobody
// watches is seen afterwards. Nothing that was written is lost.
func TestAway(t *testing.T) {
	a, err := start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = a.Close() }()
	ns := namespace(t, a)
	s := shop{t, a, ns}
	s.service("cart", nil)
	s.service("tart", nil)
	s.slice("one", "cart", "", "http:8080", endpoint("10.0.1.4"))
	s.slice("two", "tart", "", "http:8080", endpoint("10.0.2.4"))
	index := newIndex(t, a)
	n := newNames(t, index, ns, registry.Namer{Kind: registry.Kubernetes, Prefix: naming.Path{"io.l5d.k8s"}})
	cart, tart := "/#/io.l5d.k8s/"+ns+"/http/cart", "/#/io.l5d.k8s/"+ns+"/http/tart"
	before := map[string]string{cart: cart + " 10.0.1.4:8080", tart: tart + " 10.0.2.4:8080"}
	n.expect("before", before)
	one, two := newStore(t, ns, a.RESTConfig()), newStore(t, ns, a.RESTConfig())
	version := must(t)(one.Put(t.Context(), "web", by(t, "ada", "/a=>/b")))
	await(t, two, "web", "/a=>/b")

	changes := 0
	for _, name := range []string{cart, tart} {
		n.followed[name].Notify(func() { changes++ })
	}
	if err := a.Stop(); err != nil {
		t.Fatal(err)
	}
	if v, err := one.Put(t.Context(), "web", by(t, "ada", "/a=>/lost")); err == nil {
		t.Errorf("version %s is written to nobody", v)
	}
	// One that starts now knows nothing, and says so.
	late := newIndex(t, a)
	pending, release := late.Replicas(naming.Path{"#", "io.l5d.k8s", ns, "http", "cart"})
	defer release()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(away(t)); time.Now().Before(end); <-tick.C {
		n.expect("away", before)
		for _, st := range []*store.Store{one, two} {
			if v, err := st.Get(t.Context(), "web"); err != nil || v.Version != version {
				t.Fatalf("while the API server is away it is %+v, %v", v, err)
			}
		}
	}
	if changes > 0 {
		t.Errorf("%d changes were published", changes)
	}
	if got := pending.Get().State; got != naming.StatePending {
		t.Errorf("what was never read is %s", got)
	}
	if err := a.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	// At once: most of this happens before the watches are back.
	s.deleteService("tart")
	s.slice("one", "cart", "", "http:8080", endpoint("10.0.1.5"))
	s.service("new", nil)
	s.slice("three", "new", "", "http:8080", endpoint("10.0.3.4"))
	next := must(t)(two.Update(t.Context(), "web", by(t, "bob", "/a=>/c"), version))
	if v := await(t, one, "web", "/a=>/c"); v.Version != next {
		t.Errorf("versions differ: %s, %s", v.Version, next)
	}
	fresh := "/#/io.l5d.k8s/" + ns + "/http/new"
	n.expect("back", map[string]string{cart: cart + " 10.0.1.5:8080", tart: "else", fresh: fresh + " 10.0.3.4:8080"})
	awaitValue(t, pending, func(r naming.Replicas) bool { return len(r.Endpoints) == 1 })
	t.Logf("all is known again %.1f s after the API server is", time.Since(began).Seconds())
	history, err := one.History(t.Context(), "web")
	if err != nil || len(history) != 2 || history[0].By != "bob" || history[1].By != "ada" {
		t.Errorf("the history is %+v, %v", history, err)
	}
}
