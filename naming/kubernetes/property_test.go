package kubernetes

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"pgregory.net/rapid"

	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/namer/api"
)

// Whatever the history, what is published is what an Index says that is given only the
// objects that are left, in another order; and when all is gone, nothing is kept.
func TestHistoryDoesNotMatter(t *testing.T) {
	names, ports, ips := []string{"a", "b"}, []string{"80", "http", "81"}, []string{"10.0.0.1", "10.0.0.2"}
	rapid.Check(t, func(t *rapid.T) {
		x := newIndex(fataler{t})
		x.MarkSynced()
		objects := map[string]any{}
		var releases []func()
		state := func(x *Index, keep bool) string {
			var b strings.Builder
			for _, n := range names {
				for _, p := range ports {
					for _, id := range []naming.Path{
						{"#", internal, "shop", p, n}, {"#", internal, "shop", p, n, "v", "1"},
						{"#", external, "shop", p, n}, {"#", external, "shop", p, n, "v", "1"},
					} {
						v, release := x.Replicas(id)
						fmt.Fprintf(&b, "%s %+v\n", id, v.Get())
						if releases = append(releases, release); !keep {
							release()
						}
					}
				}
			}
			for _, n := range []string{"n1", "n2"} {
				v, release := x.Pods(n)
				fmt.Fprintf(&b, "%s %+v\n", n, v.Get())
				if releases = append(releases, release); !keep {
					release()
				}
			}
			return b.String()
		}
		state(x, true) // follow everything from now on

		name, ip := rapid.SampledFrom(names), rapid.SampledFrom(ips)
		coin := rapid.Bool()
		for range rapid.IntRange(20, 40).Draw(t, "steps") {
			n := name.Draw(t, "name")
			var k string
			switch rapid.IntRange(0, 5).Draw(t, "kind") {
			case 0:
				k = "service " + n
				s := svc(n, rapid.SampledFrom([]string{"http:80:8080", "http:81:web", ":80:8080"}).Draw(t, "port"))
				if coin.Draw(t, "label") {
					s.Labels = map[string]string{"v": "1"}
				}
				if coin.Draw(t, "balanced") {
					balanced(s, ip.Draw(t, "at"))
				}
				objects[k] = s
			case 1:
				l := rapid.SampledFrom([]string{"l1", "l2", "l3"}).Draw(t, "slice")
				k = "slice " + l
				var endpoints []discoveryv1.Endpoint
				for range rapid.IntRange(0, 3).Draw(t, "endpoints") {
					flags := []string{}
					if coin.Draw(t, "ref") {
						flags = append(flags, "pod="+name.Draw(t, "pod"))
					}
					if !coin.Draw(t, "ready") {
						flags = append(flags, rapid.SliceOfDistinct(rapid.SampledFrom([]string{"unready", "terminating", "serving", "serving=no"}), rapid.ID[string]).Draw(t, "conditions")...)
					}
					endpoints = append(endpoints, ep(ip.Draw(t, "ip"), flags...))
				}
				next := eps(l, n, rapid.SampledFrom([]string{"http:8080", "web:9090", "", ":8080"}).Draw(t, "ports"), endpoints...)
				if coin.Draw(t, "label") {
					labelled(next, "v", "1")
				}
				objects[k] = next
			case 2, 3:
				k = "pod " + n
				objects[k] = po(n, ip.Draw(t, "ip"), rapid.SampledFrom([]string{"", api.ModeSidecar, api.ModeHost}).Draw(t, "mode"), func(p *corev1.Pod) {
					p.Spec.NodeName = rapid.SampledFrom([]string{"n1", "n2"}).Draw(t, "node")
					p.Spec.HostNetwork = coin.Draw(t, "host network")
					if coin.Draw(t, "ended") {
						p.Status.Phase = corev1.PodFailed
					}
				})
			default:
				if keys := sorted(objects); len(keys) > 0 {
					k := rapid.SampledFrom(keys).Draw(t, "deleted")
					remove(x, objects[k])
					delete(objects, k)
				}
				continue
			}
			apply(x, objects[k])
		}
		fresh := newIndex(fataler{t})
		for _, k := range rapid.Permutation(sorted(objects)).Draw(t, "order") {
			apply(fresh, objects[k])
		}
		fresh.MarkSynced()
		if got, want := state(x, true), state(fresh, false); got != want {
			t.Fatalf("published\n%s\nwant\n%s", got, want)
		}
		for _, release := range releases {
			release()
		}
		for _, k := range sorted(objects) {
			remove(x, objects[k])
		}
		for what, n := range map[string]int{
			"services": len(x.services), "slices": len(x.slices), "pods": len(x.pods), "IPs": len(x.byIP),
			"nodes": len(x.byNode), "users": len(x.users), "followed nodes": len(x.nodes),
		} {
			if n != 0 {
				t.Fatalf("%d %s are left", n, what)
			}
		}
	})
}

func sorted(objects map[string]any) []string {
	keys := make([]string, 0, len(objects))
	for k := range objects {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func remove(x *Index, o any) {
	switch o := o.(type) {
	case *corev1.Service:
		x.DeleteService(o.Namespace, o.Name)
	case *discoveryv1.EndpointSlice:
		x.DeleteSlice(o.Namespace, o.Name)
	case *corev1.Pod:
		x.DeletePod(o.Namespace, o.Name)
	}
}

// fataler lets a helper for *testing.T fail a *rapid.T.
type fataler struct{ t *rapid.T }

func (f fataler) Helper()           {}
func (f fataler) Fatal(args ...any) { f.t.Fatal(args...) }
