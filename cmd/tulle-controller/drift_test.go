package main

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/tulle-mesh/tulle/webhook/serving"
)

// Pods are made anew only while new ones are better.
func TestHold(t *testing.T) {
	configuration := func(policy admissionv1.FailurePolicyType, until string) *admissionv1.MutatingWebhookConfiguration {
		c := &admissionv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "tulle-injector", Annotations: map[string]string{}},
			Webhooks: []admissionv1.MutatingWebhook{{Name: "inject.tulle.dev", FailurePolicy: &policy}}}
		if until != "" {
			c.Annotations["tulle.dev/breakglass-since"], c.Annotations["tulle.dev/breakglass-until"] = until, until
		}
		return c
	}
	now := time.Now().UTC().Format(time.RFC3339)
	for name, c := range map[string]struct {
		probed, injected bool
		webhook          *admissionv1.MutatingWebhookConfiguration
		why              string
	}{
		"all is well":            {true, true, configuration(admissionv1.Fail, ""), ""},
		"a policy, no webhook":   {true, true, nil, ""},
		"not probed yet":         {false, true, configuration(admissionv1.Fail, ""), "the injector's last probe has not succeeded"},
		"the probe fails":        {true, false, configuration(admissionv1.Fail, ""), "the injector's last probe has not succeeded"},
		"break-glass":            {true, true, configuration(admissionv1.Ignore, now), "break-glass is open"},
		"break-glass, cut short": {true, true, configuration(admissionv1.Fail, now), "break-glass is open"},
		"opened by hand":         {true, true, configuration(admissionv1.Ignore, ""), "break-glass is open"},
	} {
		t.Run(name, func(t *testing.T) {
			client := fake.NewClientset()
			if c.webhook != nil {
				client = fake.NewClientset(c.webhook)
			}
			client.PrependReactor("create", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
				pod := a.(clienttesting.CreateAction).GetObject().(*corev1.Pod).DeepCopy()
				if c.injected {
					pod.Labels["tulle.dev/mode"] = "host"
				}
				return true, pod, nil
			})
			probe, err := serving.NewProbe(serving.ProbeConfig{Client: client, Namespace: "tulle-probe", Registerer: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			if c.probed {
				probe.Try(t.Context())
			}
			if why := (&injector{probe: probe}).hold(t.Context(), clients{core: client}); why != c.why {
				t.Errorf("got %q", why)
			}
			if why := (&injector{}).hold(t.Context(), clients{core: client}); !strings.Contains(why, "no probe") {
				t.Errorf("without a probe: %q", why)
			}
		})
	}
}
