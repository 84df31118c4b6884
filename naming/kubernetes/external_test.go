package kubernetes

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
)

func followID(t testing.TB, x *Index, id string) *watch.Value[naming.Replicas] {
	t.Helper()
	p, err := naming.ParsePath(id)
	if err != nil {
		t.Fatal(err)
	}
	v, release := x.Replicas(p)
	t.Cleanup(release)
	return v
}

func labelled(s *discoveryv1.EndpointSlice, kv ...string) *discoveryv1.EndpointSlice {
	for i := 0; i < len(kv); i += 2 {
		s.Labels[kv[i]] = kv[i+1]
	}
	return s
}

func balanced(s *corev1.Service, at ...string) *corev1.Service {
	for _, a := range at {
		i := corev1.LoadBalancerIngress{Hostname: a}
		if _, err := netip.ParseAddr(a); err == nil {
			i = corev1.LoadBalancerIngress{IP: a, Hostname: "ignored.test"}
		}
		s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, i)
	}
	return s
}

// A label selects slices, which carry the labels of their Service.
func TestLabel(t *testing.T) {
	x := newIndex(t)
	x.MarkSynced()
	one := followID(t, x, "/#/io.l5d.k8s/shop/http/cart/version/v1")
	upper := followID(t, x, "/#/io.l5d.k8s/Shop/HTTP/Cart/version/V1")
	two := followID(t, x, "/#/io.l5d.k8s/shop/80/cart/version/v2")
	other := followID(t, x, `/#/io.l5d.k8s/shop/80/cart/\x61\x70\x70\x2f\x72/v1`) // app/r
	all := followID(t, x, "/#/io.l5d.k8s/shop/80/cart")
	expect := func(what string, want ...string) {
		t.Helper()
		for i, v := range []*watch.Value[naming.Replicas]{one, upper, two, other, all} {
			if got := show(v.Get()); got != want[i] {
				t.Errorf("%s: name %d is %s, want %s", what, i, got, want[i])
			}
		}
	}
	expect("nothing", "neg", "neg", "neg", "neg", "neg")
	x.ApplyService(svc("cart", "http:80:8080"))
	x.ApplySlice(labelled(eps("a", "cart", "http:8080", ep("10.0.0.1")), "version", "V1"))
	expect("one", "bound 10.0.0.1:8080", "bound 10.0.0.1:8080", "neg", "neg", "bound 10.0.0.1:8080")
	x.ApplySlice(labelled(eps("b", "cart", "http:8080", ep("10.0.0.2")), "version", "v2", "app/r", "v1"))
	expect("two", "bound 10.0.0.1:8080", "bound 10.0.0.1:8080", "bound 10.0.0.2:8080", "bound 10.0.0.2:8080", "bound 10.0.0.1:8080 10.0.0.2:8080")
	x.ApplySlice(labelled(eps("a", "cart", "http:8080", ep("10.0.0.1")), "version", "v2"))
	expect("relabelled", "neg", "neg", "bound 10.0.0.1:8080 10.0.0.2:8080", "bound 10.0.0.2:8080", "bound 10.0.0.1:8080 10.0.0.2:8080")
}

// What a Service is from outside, for each state of it.
func TestExternal(t *testing.T) {
	const id = "/#/io.l5d.k8s.external/shop/"
	web := func(at ...string) *corev1.Service { return balanced(svc("cart", "http:80:8080", "dns:53:53"), at...) }
	udp := web("192.0.2.1")
	udp.Spec.Ports[1].Protocol = corev1.ProtocolUDP
	canary := web("192.0.2.1")
	canary.Labels = map[string]string{"version": "Canary"}
	for _, c := range []struct {
		name    string
		service *corev1.Service
		id      string
		want    string
	}{
		{"nothing", nil, "80/cart", "neg"},
		{"no load balancer", web(), "80/cart", "neg"},
		{"by number", web("192.0.2.1", "192.0.2.2"), "80/cart", "bound 192.0.2.1:80 192.0.2.2:80"},
		{"by name", web("192.0.2.1"), "HTTP/Cart", "bound 192.0.2.1:80"},
		{"IPv6", web("2001:db8::1"), "http/cart", "bound [2001:db8::1]:80"},
		{"undeclared number", web("192.0.2.1"), "8080/cart", "neg"},
		{"no port of that name", web("192.0.2.1"), "grpc/cart", "neg"},
		{"UDP", udp, "dns/cart", "neg"},
		{"with the label", canary, "80/cart/version/canary", "bound 192.0.2.1:80"},
		{"with another label", canary, "80/cart/version/main", "neg"},
		{"a host name of two addresses", web("lb.test"), "80/cart", "bound 192.0.2.7:80 192.0.2.8:80"},
		{"a host name beside an address", web("lb.test", "192.0.2.1"), "80/cart", "bound 192.0.2.1:80 192.0.2.7:80 192.0.2.8:80"},
		{"a host name that does not resolve", web("gone.test"), "80/cart", "bound"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				x := resolvingIndex(t, watch.New("192.0.2.7 192.0.2.8"))
				x.MarkSynced()
				live := followID(t, x, id+c.id)
				if c.service != nil {
					x.ApplyService(c.service)
				}
				late := followID(t, x, id+c.id)
				synctest.Wait()
				if got := show(live.Get()); got != c.want || live != late {
					t.Errorf("got %s, want %s", got, c.want)
				}
			})
		})
	}
}

// resolvingIndex has a DNS that knows lb.test.
func resolvingIndex(t *testing.T, addresses *watch.Value[string]) *Index {
	t.Helper()
	x, err := NewIndex(Config{Lookup: func(_ context.Context, host string) ([]netip.Addr, time.Duration, error) {
		known := ""
		if host == "lb.test" {
			known = addresses.Get()
		}
		var all []netip.Addr
		for a := range strings.FieldsSeq(known) {
			all = append(all, netip.MustParseAddr(a))
		}
		if all == nil {
			return nil, 0, &net.DNSError{Name: host, IsNotFound: true}
		}
		return all, 0, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// A load balancer comes, moves and goes; its host names are followed for as long as somebody asks.
func TestExternalLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hosts := watch.New("192.0.2.7")
		x := resolvingIndex(t, hosts)
		x.MarkSynced()
		v, release := x.Replicas(naming.Path{"#", "io.l5d.k8s.external", "shop", "80", "cart"})
		step := func(what, want string, f func()) {
			t.Helper()
			f()
			synctest.Wait()
			if got := show(v.Get()); got != want {
				t.Errorf("%s: %s, want %s", what, got, want)
			}
		}
		step("it comes", "bound 192.0.2.7:80", func() { x.ApplyService(balanced(svc("cart", "http:80:8080"), "lb.test")) })
		step("DNS moves it", "bound 192.0.2.9:80", func() {
			hosts.Set("192.0.2.9")
			time.Sleep(time.Minute)
		})
		step("an address takes its place", "bound 192.0.2.1:80", func() { x.ApplyService(balanced(svc("cart", "http:80:8080"), "192.0.2.1")) })
		step("it goes", "neg", func() { x.ApplyService(svc("cart", "http:80:8080")) })
		step("it is back", "bound 192.0.2.9:80", func() { x.ApplyService(balanced(svc("cart", "http:80:8080"), "lb.test")) })
		step("the Service goes", "neg", func() { x.DeleteService("shop", "cart") })
		step("and is back", "bound 192.0.2.9:80", func() { x.ApplyService(balanced(svc("cart", "http:80:8080"), "lb.test")) })
		release()
		x.DeleteService("shop", "cart")
		if len(x.services) != 0 {
			t.Errorf("%d services are left", len(x.services))
		}
	})
}

// As long as DNS has not answered, the name is pending and not denied.
func TestExternalPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answer := make(chan struct{})
		x, err := NewIndex(Config{Lookup: func(ctx context.Context, _ string) ([]netip.Addr, time.Duration, error) {
			select {
			case <-answer:
				return []netip.Addr{netip.MustParseAddr("192.0.2.7")}, 0, nil
			case <-ctx.Done():
				return nil, 0, errors.New("no answer")
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		x.MarkSynced()
		x.ApplyService(balanced(svc("cart", "http:80:8080"), "lb.test"))
		v := followID(t, x, "/#/io.l5d.k8s.external/shop/80/cart")
		synctest.Wait()
		if got := show(v.Get()); got != "pending" {
			t.Errorf("before DNS answers it is %s", got)
		}
		close(answer)
		synctest.Wait()
		if got := show(v.Get()); got != "bound 192.0.2.7:80" {
			t.Errorf("then it is %s", got)
		}
	})
}
