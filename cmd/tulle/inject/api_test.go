//go:build e2e

package inject

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tulle-mesh/tulle/e2e/chart"
	"github.com/tulle-mesh/tulle/e2e/cluster"
	"github.com/tulle-mesh/tulle/e2e/cluster/apitest"
	"github.com/tulle-mesh/tulle/webhook"
)

const shop = `
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: web}]}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: night, namespace: shop}
spec:
  schedule: "0 0 * * *"
  jobTemplate:
    spec:
      template:
        metadata: {labels: {tulle.dev/inject: "false"}}
        spec:
          restartPolicy: Never
          containers: [{name: job, image: job}]
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: rollouts.example.test}
spec:
  group: example.test
  names: {kind: Rollout, plural: rollouts, singular: rollout, shortNames: [ro]}
  scope: Namespaced
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}
`

// server is an API server with Tulle's objects, and without Tulle.
type server struct {
	*cluster.API
	t *testing.T
}

func (s *server) explain(args ...string) Explanation {
	s.t.Helper()
	out, talk, err := run(s.t, ExplainCommand(), "", append(args, "--kubeconfig", s.Kubeconfig(), "-o", "json")...)
	if err != nil {
		s.t.Fatalf("%v\n%s", err, talk)
	}
	var list struct{ Items []Explanation }
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list.Items) != 1 {
		s.t.Fatalf("%v\n%s", err, out)
	}
	return list.Items[0]
}

// table returns what people see.
func (s *server) table(args ...string) string {
	s.t.Helper()
	out, talk, err := run(s.t, ExplainCommand(), "", append(args, "--kubeconfig", s.Kubeconfig())...)
	if err != nil {
		s.t.Fatalf("%v\n%s", err, talk)
	}
	return out
}

func (s *server) label(value string) {
	s.t.Helper()
	patch := fmt.Sprintf(`{"metadata":{"labels":%s}}`, value)
	if _, err := s.Client().CoreV1().Namespaces().Patch(s.t.Context(), "shop", types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

// pod creates a pod of the Deployment, injected by that configuration if there is one.
func (s *server) pod(name string, by *webhook.Config) {
	s.t.Helper()
	text := []byte(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"` + name + `","labels":{"app":"web"}},"spec":{"containers":[{"name":"web","image":"web"}]}}`)
	if by != nil {
		res, err := webhook.Inject(text, webhook.Namespace{Name: "shop", Labels: map[string]string{webhook.LabelInject: "enabled"}}, *by)
		if err != nil {
			s.t.Fatal(err)
		}
		patch, err := jsonpatch.DecodePatch(res.Patch)
		if err != nil {
			s.t.Fatal(err)
		}
		if text, err = patch.Apply(text); err != nil {
			s.t.Fatal(err)
		}
	}
	var p corev1.Pod
	if err := json.Unmarshal(text, &p); err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.Client().CoreV1().Pods("shop").Create(s.t.Context(), &p, metav1.CreateOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

func want(t *testing.T, got, substring string) {
	t.Helper()
	if !strings.Contains(got, substring) {
		t.Errorf("%q is missing in\n%s", substring, got)
	}
}

func TestExplainLive(t *testing.T) {
	api := apitest.Start(t)
	s := &server{api, t}
	ctx, client := t.Context(), api.Client()
	if err := api.Apply(ctx, shop); err != nil {
		t.Fatal(err)
	}

	// Without Tulle.
	_, _, err := run(t, ExplainCommand(), "", "deploy", "web", "-n", "shop", "--kubeconfig", api.Kubeconfig())
	if err == nil || err.Error() != "there are no settings of Tulle in the cluster: no ConfigMap tulle-controller in namespace tulle" {
		t.Error(err)
	}

	// Its objects, but nothing that runs.
	some := chart.Render(t, "tulle", nil).Only(func(o chart.Object) bool {
		switch o.Kind + "/" + o.Name {
		case "Namespace/tulle", "ConfigMap/tulle-controller", "MutatingWebhookConfiguration/tulle-injector", "Service/tulle-controller":
			return true
		}
		return false
	})
	current, other := webhook.Config{}, webhook.Config{OutgoingPort: 5140}
	src := source{mesh: "tulle"}
	if in, err := src.open(ctx, false); err != nil {
		t.Fatal(err)
	} else {
		current = in.config
	}
	// Pods from before, in a namespace that joins later.
	s.pod("plain", nil)
	s.pod("injected", &current)
	s.pod("old", &other)
	if err := api.Apply(ctx, some); err != nil {
		t.Fatal(err)
	}

	x := s.explain("deploy", "web", "-n", "shop")
	if x.Called == nil || *x.Called || x.Reason != webhook.NotEnabled || x.Pods[0].Name != "injected" || x.Pods[0].State != stateExtra || x.Pods[2].State != stateCurrent {
		t.Errorf("%+v", x)
	}
	s.label(`{"tulle.dev/injected":"enabled"}`)
	want(t, s.table("deploy/web", "-n", "shop"), "hint: the label tulle.dev/injected of namespace shop means nothing; is tulle.dev/inject meant?")

	s.label(`{"tulle.dev/injected":null,"tulle.dev/inject":"enabled"}`)
	x = s.explain("deployment", "web", "-n", "shop")
	states := ""
	for _, p := range x.Pods {
		states += p.Name + " " + p.State + ", "
	}
	if x.Called == nil || !*x.Called || x.Reason != webhook.InjectedHost || states != "injected current, old stale, plain escaped, " {
		t.Errorf("%s %+v", states, x)
	}
	text := s.table("deploy/web", "-n", "shop")
	t.Log(text)
	want(t, text, "but the injector CANNOT be reached")
	want(t, text, "problem: its caBundle is empty")
	want(t, text, "problem: no pod behind Service tulle-controller in namespace tulle is ready")
	want(t, text, "best-effort.inject.tulle.dev does not: namespace shop has tulle.dev/inject=enabled, but it wants tulle.dev/inject in (best-effort)")
	want(t, text, "hint: to make the pods anew: kubectl rollout restart deployment/web -n shop")
	want(t, s.table("pod", "plain", "-n", "shop"), "it is not in the mesh, but would be now, in mode host")

	text = s.table("pod/old", "-n", "shop")
	t.Log(text)
	if strings.Contains(text, "template") {
		t.Error("a pod has no template")
	}

	// With what a controller would see to.
	entries, err := client.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(ctx, configName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range entries.Webhooks {
		entries.Webhooks[i].ClientConfig.CABundle = []byte(testCA)
	}
	if _, err := client.AdmissionregistrationV1().MutatingWebhookConfigurations().Update(ctx, entries, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	slice := &discovery.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "tulle", Labels: map[string]string{discovery.LabelServiceName: "tulle-controller"}},
		AddressType: discovery.AddressTypeIPv4, Endpoints: []discovery.Endpoint{{Addresses: []string{"10.0.0.1"}}}}
	if _, err := client.DiscoveryV1().EndpointSlices("tulle").Create(ctx, slice, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	want(t, s.table("deploy/web", "-n", "shop"), "its pods are injected in mode host (injected_host)")
	want(t, s.table("cj", "night", "-n", "shop"), "inject.tulle.dev does not: the pod has tulle.dev/inject=false, but it wants tulle.dev/inject notin (false)")

	// Sidecars: with and without the CA.
	s.label(`{"tulle.dev/mode":"sidecar"}`)
	x = s.explain("deploy", "web", "-n", "shop")
	if x.Mode != webhook.ModeSidecar || x.Hash != "" || x.Pods[0].State != stateUnknown {
		t.Errorf("%+v", x)
	}
	if _, _, err := run(t, Command(), shop, "-f", "-", "--kubeconfig", api.Kubeconfig()); err == nil || !strings.Contains(err.Error(), `it cannot be read: secrets "tulle-controller-tls" not found`) {
		t.Error(err)
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: caSecret, Namespace: "tulle"}, Data: map[string][]byte{caKey: []byte(ca)}}
	if _, err := client.CoreV1().Secrets("tulle").Create(ctx, secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if x = s.explain("deploy", "web", "-n", "shop"); x.Hash == "" || x.Pods[0].State != stateStale || x.Adds.InitContainers[0] != webhook.ProxyContainer {
		t.Errorf("%+v", x)
	}
	out, talk, err := run(t, Command(), strings.Replace(shop, "metadata: {name: shop}", "metadata: {name: other}", 1), "-f", "-", "--kubeconfig", api.Kubeconfig())
	if err != nil {
		t.Fatalf("%v\n%s", err, talk)
	}
	want(t, out, "tulle.dev/mode: sidecar")
	// The API server takes what was written.
	if err := api.Apply(ctx, out); err != nil {
		t.Error(err)
	}

	// A kind that nobody here knows, by its short name.
	if err := api.Apply(ctx, "apiVersion: example.test/v1\nkind: Rollout\nmetadata: {name: blue, namespace: shop}\nspec: {template: {spec: {containers: [{name: a, image: a}]}}}"); err != nil {
		t.Fatal(err)
	}
	want(t, s.table("ro", "blue", "-n", "shop"), "rollout/blue in namespace shop\n  its pods are injected in mode sidecar")
	for args, message := range map[string]string{
		"wibble x": `the cluster knows no kind "wibble"`, "deploy nope": "there is no deploy nope in namespace shop", "cm tulle-controller": "there is no cm tulle-controller in namespace shop",
		"ns shop": "namespace/shop is no pod and has no pod template",
	} {
		if _, _, err := run(t, ExplainCommand(), "", append(strings.Fields(args), "-n", "shop", "--kubeconfig", api.Kubeconfig())...); err == nil || err.Error() != message {
			t.Errorf("%s: %v", args, err)
		}
	}
	e := &explainer{}
	e.src.at.Kubeconfig, e.src.namespace = api.Kubeconfig(), "shop"
	cmd := ExplainCommand()
	cmd.SetContext(ctx)
	if names, _ := e.complete(cmd, []string{"po"}, ""); strings.Join(names, " ") != "injected old plain" {
		t.Errorf("completes %q", names)
	}

	// The configuration is gone.
	if err := client.AdmissionregistrationV1().MutatingWebhookConfigurations().Delete(ctx, configName, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	text = s.table("deploy/web", "-n", "shop")
	want(t, text, "its pods are NOT in the mesh, where they belong in mode sidecar, because the API server does not ask the injector")
	want(t, text, "hint: there is no MutatingWebhookConfiguration tulle-injector in the cluster")
}

// testCA is a certificate, which an API server wants a caBundle to be.
const testCA = `-----BEGIN CERTIFICATE-----
MIIBdTCCARugAwIBAgIUdqL5aSeJFfhisn5W4pwrg69nB2EwCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEdGVzdDAgFw0yNjExMjMxMzIwMjRaGA8yMTI2MTAzMDEzMjAy
NFowDzENMAsGA1UEAwwEdGVzdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABFMl
J8gJezdXr8wCSBdtBHO8A1Jx6Sz7PP/uDYdGBAugXjlasN2gLQhEp4edNcaMHInf
h5MKAJ1CvnY75Alc1VCjUzBRMB0GA1UdDgQWBBT5q3YOIGRlnhvwGh7HS2pZpxsG
xjAfBgNVHSMEGDAWgBT5q3YOIGRlnhvwGh7HS2pZpxsGxjAPBgNVHRMBAf8EBTAD
AQH/MAoGCCqGSM49BAMCA0gAMEUCIQD7hRiQU9vJQkz7pabxc6nBxi3I9JCrPNKW
uWyYE0MrogIgGnHKBM05pbfMmNBgY/zzZ6DjLOwyxu9TXMVtqnM5Al8=
-----END CERTIFICATE-----
`
