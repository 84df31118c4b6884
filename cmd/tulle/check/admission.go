package check

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/webhook"
	"github.com/tulle-mesh/tulle/webhook/serving"
	"github.com/tulle-mesh/tulle/webhook/settings"
)

// probeMargin is how much longer than a usual answer one of an API server takes that waits for a webhook.
const probeMargin = 10 * time.Second

// slow is from when on an admission takes longer than people like to wait for each pod.
const slow = time.Second

// atOnce bounds what is asked of an API server at a time.
const atOnce = 8

// learn reads what decides about injections: settings, nodes and namespaces.
func (c *checker) learn(ctx context.Context) error {
	list, err := c.client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	c.namespaces = list.Items
	if c.only != "" {
		c.namespaces = slices.DeleteFunc(c.namespaces, func(n corev1.Namespace) bool { return n.Name != c.only })
		if len(c.namespaces) == 0 {
			return fmt.Errorf("there is no namespace %s", c.only)
		}
	}
	facts := settings.Facts{}
	if nodes, err := c.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{}); err == nil {
		facts = settings.Survey(func(yield func(settings.Node) bool) {
			for i := range nodes.Items {
				if n, ok := settings.NodeOf(&nodes.Items[i]); ok && !yield(n) {
					return
				}
			}
		})
	}
	c.config = c.settings.Resolve(facts).Config(nobody())
	return nil
}

// excluded reports whether a namespace is never injected.
func (c *checker) excluded(name string) bool {
	return slices.Contains(webhook.ExcludedNamespaces(c.mesh), name) || slices.Contains(c.config.ExcludedNamespaces, name)
}

// joined reports whether pods of a namespace are to be injected.
func joined(labels map[string]string) bool {
	v := labels[webhook.LabelInject]
	return v == webhook.NamespaceEnabled || v == webhook.NamespaceBestEffort
}

// tryPods has the API server admit a pod of each namespace that joined, which it does not store.
func (c *checker) tryPods(ctx context.Context) {
	var names []string
	for _, ns := range c.namespaces {
		if joined(ns.Labels) && !c.excluded(ns.Name) && ns.Labels[webhook.LabelMode] != string(webhook.ModeNone) && ns.DeletionTimestamp == nil {
			names = append(names, ns.Name)
		}
	}
	if len(names) == 0 && c.only != "" {
		c.pass("no pod is tried in namespace %s, for none is to be injected there", c.only)
		return
	}
	if len(names) == 0 {
		c.pass("no namespace has joined the mesh")
		return
	}
	outcomes := make([]serving.Outcome, len(names))
	errs := make([]error, len(names))
	each(len(names), func(i int) { outcomes[i], errs[i] = c.try(ctx, names[i]) })
	// What is wrong with the injector is wrong in all namespaces: that is one finding.
	byCause := map[serving.Cause][]int{}
	var longest time.Duration
	good := 0
	for i, o := range outcomes {
		switch {
		case errs[i] != nil:
			c.skip("a pod of namespace "+names[i], errs[i])
		case o.Cause == "":
			good++
			longest = max(longest, o.Took)
		case o.Cause == serving.CauseForbidden && strings.Contains(o.Message, `cannot create resource "pods"`), o.Cause == serving.CauseAPI:
			c.skip("a pod of namespace "+names[i], fmt.Errorf("%s", o.Message))
		default:
			byCause[o.Cause] = append(byCause[o.Cause], i)
		}
	}
	if good > 0 {
		c.pass("a pod is injected in %s, within %s", count(good, "namespace"), longest.Round(time.Millisecond))
	}
	if longest > slow {
		c.find(Finding{Code: Slow, Message: fmt.Sprintf("to admit a pod took %s", longest.Round(time.Millisecond)),
			Fix: kubectl(c.mesh, "top", "pods -l app.kubernetes.io/component=controller") + "\nkubectl get mutatingwebhookconfigurations  # others that are asked about pods"})
	}
	for _, cause := range serving.Causes() {
		if at := byCause[cause]; len(at) > 0 {
			var in []string
			for _, i := range at {
				in = append(in, names[i])
			}
			c.find(c.tried(cause, outcomes[at[0]], in))
		}
	}
}

func (c *checker) try(ctx context.Context, namespace string) (serving.Outcome, error) {
	p, err := serving.NewProbe(serving.ProbeConfig{Client: c.client, Namespace: namespace, Registerer: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return serving.Outcome{}, err
	}
	return p.Try(ctx), nil
}

// tried is what a pod that was not injected means.
func (c *checker) tried(cause serving.Cause, o serving.Outcome, namespaces []string) Finding {
	in := "in namespace " + some(namespaces)
	if len(namespaces) > 1 {
		in = "in namespaces " + some(namespaces)
	}
	pods := kubectl(c.mesh, "get", "pods -l app.kubernetes.io/component=controller -o wide")
	logs := kubectl(c.mesh, "logs", "deployment/"+controllerName)
	switch cause {
	case serving.CauseTimeout:
		return Finding{Code: Timeout, Message: fmt.Sprintf("no pod starts %s: the API server cannot reach the injector: a firewall between the control plane and the nodes, most likely (%s)", in, o.Message),
			Fix: "# let the control plane reach port 8443 of the controller's pods; until then\ntulle breakglass --for 1h --reason \"the control plane does not reach the injector\""}
	case serving.CauseRefused:
		return Finding{Code: Refused, Message: fmt.Sprintf("no pod starts %s: nothing takes the API server's connections to the injector (%s)", in, o.Message), Fix: pods + "\n" + logs}
	case serving.CauseNoEndpoint:
		return Finding{Code: LeadsNowhere, Message: fmt.Sprintf("no pod starts %s: the Service of the injector leads nowhere (%s)", in, o.Message), Fix: pods}
	case serving.CauseCertificate:
		return Finding{Code: NotTrusted, Message: fmt.Sprintf("no pod starts %s: API servers do not trust the injector's certificate (%s)", in, o.Message), Fix: c.renewCA()}
	case serving.CauseDenied:
		return Finding{Code: Denied, Message: fmt.Sprintf("a pod that asks for nothing is refused %s (%s)", in, o.Message), Fix: "kubectl get namespace " + namespaces[0] + " -o yaml\nkubectl get validatingwebhookconfigurations,mutatingwebhookconfigurations"}
	case serving.CauseNotInjected:
		return Finding{Code: NotInjected, Message: fmt.Sprintf("a pod is admitted without being injected %s: API servers do not ask the injector, or go on without its answer", in),
			Fix: "kubectl get mutatingwebhookconfiguration tulle-injector -o yaml\n" + pods}
	case serving.CauseWebhook:
		return Finding{Code: WebhookFailed, Message: fmt.Sprintf("a pod is refused %s, because a webhook failed (%s)", in, o.Message), Fix: logs}
	}
	return Finding{Code: OtherRefusal, Message: fmt.Sprintf("a pod that Pod Security's \"restricted\" allows is refused %s (%s)", in, o.Message), Fix: kubectl(namespaces[0], "get", "resourcequota,limitrange") + "\nkubectl get validatingwebhookconfigurations"}
}

// each calls do for each number below n, some at a time.
func each(n int, do func(int)) {
	limit := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	for i := range n {
		limit <- struct{}{}
		wg.Go(func() {
			defer func() { <-limit }()
			do(i)
		})
	}
	wg.Wait()
}
