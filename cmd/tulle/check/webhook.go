package check

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/webhook/breakglass"
	"github.com/tulle-mesh/tulle/webhook/hostpolicy"
)

// configurations are the chart's webhook configurations, with their entries.
func configurations() map[string][]string {
	return map[string][]string{
		breakglass.Configuration: {breakglass.Entry, "best-effort.inject.tulle.dev", "debug.inject.tulle.dev", "labels.inject.tulle.dev"},
		"tulle-dtabs":            {"dtabs.tulle.dev"},
	}
}

// webhook looks at what API servers know of the injector.
func (c *checker) webhook(ctx context.Context) {
	for _, name := range []string{breakglass.Configuration, "tulle-dtabs"} {
		object := "mutatingwebhookconfiguration/" + name
		w, err := c.client.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) && name == breakglass.Configuration && c.policies(ctx) {
			c.pass("%s is not there, and the API server's own policies of host mode are in its place", object)
			continue
		}
		if apierrors.IsNotFound(err) {
			c.find(Finding{Code: NoWebhook, Object: object, Message: "it is not there, so API servers do not ask the controller", Fix: c.upgrade("")})
			continue
		}
		if err != nil {
			c.skip(object, err)
			continue
		}
		c.entries(w, object, configurations()[name])
		if name == breakglass.Configuration {
			c.open(ctx, object)
		}
	}
	c.endpoints(ctx)
}

// policies reports whether the API server does host mode, and refuses what it cannot do, without a webhook.
func (c *checker) policies(ctx context.Context) bool {
	admission := c.client.AdmissionregistrationV1()
	_, err := admission.MutatingAdmissionPolicyBindings().Get(ctx, hostpolicy.Name, metav1.GetOptions{})
	_, err2 := admission.ValidatingAdmissionPolicyBindings().Get(ctx, hostpolicy.Refusals, metav1.GetOptions{})
	return err == nil && err2 == nil
}

// entries looks at the entries of a configuration.
func (c *checker) entries(w *admissionv1.MutatingWebhookConfiguration, object string, names []string) {
	good := 0
	var empty []string
	for _, name := range names {
		i := slices.IndexFunc(w.Webhooks, func(h admissionv1.MutatingWebhook) bool { return h.Name == name })
		if i < 0 {
			c.find(Finding{Code: NoWebhook, Object: object, Message: "its entry " + name + " is gone", Fix: c.upgrade("")})
			continue
		}
		h := w.Webhooks[i]
		if s := h.ClientConfig.Service; s == nil || s.Namespace != c.mesh || s.Name != controllerName {
			c.find(Finding{Code: NoWebhook, Object: object, Message: fmt.Sprintf("its entry %s does not lead to the Service %s in namespace %s", name, controllerName, c.mesh), Fix: c.upgrade("")})
			continue
		}
		if len(h.ClientConfig.CABundle) == 0 {
			empty = append(empty, name)
			continue
		}
		if why := expired(h.ClientConfig.CABundle, time.Now()); why != "" {
			c.find(Finding{Code: NoCABundle, Object: object, Message: fmt.Sprintf("the CA bundle of %s %s, so API servers trust no controller", name, why), Fix: c.renewCA()})
			continue
		}
		good++
	}
	if len(empty) > 0 {
		c.find(Finding{Code: NoCABundle, Object: object, Message: "the CA bundle is empty, so API servers trust no controller: " + some(empty), Fix: c.renewCA()})
	}
	if good == len(names) {
		c.pass("%s has its %s, with a CA", object, entriesWord(len(names)))
	}
}

func entriesWord(n int) string {
	if n == 1 {
		return "1 entry"
	}
	return fmt.Sprintf("%d entries", n)
}

// renewCA is what brings a CA bundle, whoever does so.
func (c *checker) renewCA() string {
	return kubectl(c.mesh, "logs", "deployment/"+controllerName) + "\n" + kubectl(c.mesh, "rollout", "restart deployment/"+controllerName) +
		"\nkubectl get pods -A -l app.kubernetes.io/name=cainjector  # with injector.certificate=cert-manager"
}

// expired says what is wrong with the certificates of a CA bundle, if no good one is among them.
func expired(bundle []byte, now time.Time) string {
	why := "holds no certificate"
	for {
		var block *pem.Block
		if block, bundle = pem.Decode(bundle); block == nil {
			return why
		}
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil {
			if now.Before(cert.NotAfter) {
				return ""
			}
			why = "ran out at " + cert.NotAfter.UTC().Format(time.RFC3339)
		}
	}
}

// open looks whether pods of enabled namespaces start unmeshed if the injector is away.
func (c *checker) open(ctx context.Context, object string) {
	state, err := breakglass.Read(ctx, c.client)
	if err != nil {
		return // what is missing has been found
	}
	switch {
	case state.Active():
		c.find(Finding{Code: Open, Object: object, Message: fmt.Sprintf("break-glass is open until %s, by %s (%s): pods of enabled namespaces start without the mesh while the injector is away",
			state.Open.Until.UTC().Format(time.RFC3339), state.Open.By, state.Open.Reason), Fix: "tulle breakglass --close"})
	case state.Policy != admissionv1.Fail:
		c.find(Finding{Code: Open, Object: object, Message: fmt.Sprintf("the failurePolicy of %s is %s, set by hand: pods of enabled namespaces start without the mesh while the injector is away", breakglass.Entry, state.Policy),
			Fix: c.upgrade("")})
	default:
		c.pass("break-glass is closed: no pod of an enabled namespace starts without the mesh")
	}
}

// endpoints looks where the Service of the controller leads.
func (c *checker) endpoints(ctx context.Context) {
	object := "service/" + controllerName
	if _, err := c.client.CoreV1().Services(c.mesh).Get(ctx, controllerName, metav1.GetOptions{}); apierrors.IsNotFound(err) {
		c.find(Finding{Code: NoEndpoint, Object: object, Namespace: c.mesh, Message: "it is not there, so API servers cannot reach the injector", Fix: c.upgrade("")})
		return
	} else if err != nil {
		c.skip(object, err)
		return
	}
	slices, err := c.client.DiscoveryV1().EndpointSlices(c.mesh).List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + controllerName})
	if err != nil {
		c.skip(object, err)
		return
	}
	n := 0
	for _, s := range slices.Items {
		for _, e := range s.Endpoints {
			if e.Conditions.Ready == nil || *e.Conditions.Ready {
				n++
			}
		}
	}
	if n == 0 {
		c.find(Finding{Code: NoEndpoint, Object: object, Namespace: c.mesh, Message: "it leads to no pod that is ready, so API servers cannot reach the injector",
			Fix: kubectl(c.mesh, "get", "endpointslices -l "+discoveryv1.LabelServiceName+"="+controllerName) + "\n" + kubectl(c.mesh, "get", "pods -l app.kubernetes.io/component=controller")})
		return
	}
	c.pass("%s leads to %s", object, count(n, "pod"))
}
