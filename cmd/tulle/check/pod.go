package check

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/webhook/drift"
	"github.com/tulle-mesh/tulle/webhook/settings"
)

// caSecret has the CA by which sidecars trust the controller, which is part of what is injected.
const caSecret = "tulle-controller-tls"

// pods lists the pods that are not as the injector would make them now.
func (c *checker) pods(ctx context.Context) {
	secret, err := c.client.CoreV1().Secrets(c.mesh).Get(ctx, caSecret, metav1.GetOptions{})
	if err != nil {
		c.skip("pods that escaped or are stale, because what is injected has the CA in it", err)
		return
	}
	nodes, err := c.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		c.skip("pods that escaped or are stale, because what is injected depends on the nodes", err)
		return
	}
	facts := settings.Survey(func(yield func(settings.Node) bool) {
		for i := range nodes.Items {
			if n, ok := settings.NodeOf(&nodes.Items[i]); ok && !yield(n) {
				return
			}
		}
	})
	found, err := drift.List(ctx, c.client, c.settings.Resolve(facts).Config(string(secret.Data["ca.crt"])))
	if err != nil {
		c.skip("pods that escaped or are stale", err)
		return
	}
	type group struct {
		kind             drift.Kind
		namespace, owner string
	}
	groups := map[group][]drift.Pod{}
	for _, p := range found {
		if c.only != "" && p.Namespace != c.only {
			continue
		}
		owner := p.Owner.String()
		if p.Owner.Kind == "" {
			owner = "pod/" + p.Name
		}
		g := group{p.Kind, p.Namespace, owner}
		groups[g] = append(groups[g], p)
	}
	if len(groups) == 0 {
		c.pass("all pods of the mesh are as they would be made now")
		return
	}
	keys := slices.SortedFunc(maps.Keys(groups), func(a, b group) int {
		return strings.Compare(string(a.kind)+" "+a.namespace+" "+a.owner, string(b.kind)+" "+b.namespace+" "+b.owner)
	})
	for _, g := range keys {
		all := groups[g]
		f := Finding{Code: Stale, Object: g.owner, Namespace: g.namespace, Message: fmt.Sprintf("%s stale: %s", areWord(len(all)), all[0].Message), Fix: renew(all[0], g.owner)}
		if g.kind == drift.Escaped {
			f.Code, f.Message = Escaped, fmt.Sprintf("%s outside of the mesh: %s", areWord(len(all)), all[0].Message)
		}
		c.find(f)
	}
}

func areWord(n int) string {
	if n == 1 {
		return "1 pod is"
	}
	return fmt.Sprintf("%d pods are", n)
}

// renew is the command that makes the pods of a workload anew.
func renew(p drift.Pod, owner string) string {
	switch {
	case p.Reason.Denies():
		return "tulle explain pod " + p.Name + " -n " + p.Namespace
	case slices.Contains([]string{"Deployment", "DaemonSet", "StatefulSet"}, p.Owner.Kind):
		return kubectl(p.Namespace, "rollout", "restart "+owner)
	case p.Owner.Kind == "": // nobody else makes it again
		return kubectl(p.Namespace, "get", "pod "+p.Name+" -o yaml | kubectl replace --force -f -")
	}
	return kubectl(p.Namespace, "delete", "pod "+p.Name)
}
