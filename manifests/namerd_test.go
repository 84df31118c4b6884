package manifests_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/manifests"
	"github.com/tulle-mesh/tulle/naming/kubernetes/store"
	"github.com/tulle-mesh/tulle/naming/namer/namerd"
	"github.com/tulle-mesh/tulle/sidecar/linkerd"
)

// The example has the definition of dtabs that the chart has; go test ./manifests -update writes it.
func TestNamerdDefinition(t *testing.T) {
	const file = "examples/namerd/definition.yaml"
	chart, err := manifests.Render("tulle", nil)
	if err != nil {
		t.Fatal(err)
	}
	_, spec, _ := strings.Cut(string(chart), "\n  name: dtabs.l5d.io\n")
	_, spec, ok := strings.Cut(spec, "\nspec:\n")
	if !ok {
		t.Fatal("the chart defines no dtabs")
	}
	spec, _, _ = strings.Cut(spec, "\n---\n")
	// Not the chart's labels: whoever looks for what Tulle's installation owns must not find it.
	want := "# As manifests/chart has it, by \"go test ./manifests -update\". Do not edit.\napiVersion: apiextensions.k8s.io/v1\n" +
		"kind: CustomResourceDefinition\nmetadata:\n  name: dtabs.l5d.io\nspec:\n" + strings.TrimRight(spec, "\n") + "\n"
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("%s is not what the chart has; run go test ./manifests -update (-want +got)\n%s", file, diff)
	}
}

// tulle-namer reads the example's configuration, its pods are where the Service and the proxies of the other example
// look for them, and they need no rights beyond those that the configuration asks for.
func TestNamerdExample(t *testing.T) {
	text, err := os.ReadFile("examples/namerd/namerd.yaml")
	if err != nil {
		t.Fatal(err)
	}
	objects := parse(t, text)
	settings := all[corev1.ConfigMap](objects)["namerd"]
	c, err := namerd.Parse("namerd.yaml", []byte(settings.Data["namerd.yaml"]))
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Warnings) != 1 || !strings.Contains(c.Warnings[0].Text, "Thrift is not spoken") {
		t.Errorf("it warns %v", c.Warnings)
	}
	if c.Admin != "0.0.0.0:9991" || len(c.Servers) != 1 || c.Servers[0].Address != "0.0.0.0:4180" || c.Storage.Kind != namerd.Kubernetes || len(c.Namers) != 1 {
		t.Errorf("got %+v", c)
	}

	pods := all[appsv1.Deployment](objects)["namerd"].Spec.Template
	container := pods.Spec.Containers[0]
	ports := map[string]int32{}
	for _, p := range container.Ports {
		ports[p.Name] = p.ContainerPort
	}
	if diff := cmp.Diff(map[string]int32{"http": 4180, "admin": 9991}, ports); diff != "" {
		t.Error(diff)
	}
	mount := container.VolumeMounts[0]
	if got := container.Args; !slices.Equal(got, []string{"-config", filepath.Join(mount.MountPath, "namerd.yaml")}) || pods.Spec.Volumes[0].ConfigMap.Name != settings.Name {
		t.Errorf("the arguments are %q", got)
	}
	if container.ReadinessProbe.HTTPGet.Path != "/admin/ready" || container.ReadinessProbe.HTTPGet.Port.StrVal != "admin" {
		t.Errorf("the probe is %+v", container.ReadinessProbe)
	}
	service := all[corev1.Service](objects)["namerd"]
	if !labels.SelectorFromSet(service.Spec.Selector).Matches(labels.Set(pods.Labels)) || service.Spec.Ports[0].TargetPort.StrVal != "http" {
		t.Errorf("the service leads elsewhere: %+v", service.Spec)
	}
	fence := all[networkingv1.NetworkPolicy](objects)["namerd"].Spec
	if !selects(t, &fence.PodSelector, labels.Set(pods.Labels)) || len(fence.Ingress) != 1 || len(fence.Ingress[0].Ports) != 1 || fence.Ingress[0].Ports[0].Port.StrVal != "http" {
		t.Errorf("others than the API's callers are let in: %+v", fence)
	}
	restricted, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, result := range restricted.EvaluatePod(api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}, &pods.ObjectMeta, &pods.Spec) {
		if !result.Allowed {
			t.Errorf("the pods are not restricted: %s: %s", result.ForbiddenReason, result.ForbiddenDetail)
		}
	}

	rights := map[string][]string{}
	for _, rules := range [][]rbacv1.PolicyRule{all[rbacv1.ClusterRole](objects)["namerd"].Rules, all[rbacv1.Role](objects)["namerd"].Rules} {
		for _, r := range rules {
			for _, resource := range r.Resources {
				rights[strings.TrimPrefix(r.APIGroups[0]+"/"+resource, "/")] = r.Verbs
			}
		}
	}
	if diff := cmp.Diff(map[string][]string{
		"pods": {"list", "watch"}, "services": {"list", "watch"}, "discovery.k8s.io/endpointslices": {"list", "watch"},
		"l5d.io/dtabs": {"get", "list", "watch", "create", "update", "delete"}, "l5d.io/dtabs/status": {"patch"},
	}, rights); diff != "" {
		t.Error(diff)
	}
	if all[rbacv1.Role](objects)["namerd"].Namespace != c.Storage.Namespace {
		t.Error("the rights are not where the dtabs are")
	}

	proxy, err := os.ReadFile("examples/linkerd/namerd.yaml")
	if err != nil {
		t.Fatal(err)
	}
	l, err := linkerd.Parse("namerd.yaml", proxy)
	if err != nil {
		t.Fatal(err)
	}
	rules := dtabs(t)
	for _, r := range l.Routers {
		if want := service.Name + "." + service.Namespace + ".svc.cluster.local:4180"; r.Interpreter.Address != want {
			t.Errorf("the proxies look for a namerd at %s, want %s", r.Interpreter.Address, want)
		}
		if !slices.Contains(rules, r.Interpreter.Namespace) {
			t.Errorf("the proxies follow %s, and there are %q", r.Interpreter.Namespace, rules)
		}
	}
}

// dtabs returns the names of the dtabs of the example, which parse.
func dtabs(t *testing.T) (names []string) {
	t.Helper()
	text, err := os.ReadFile("examples/namerd/dtabs.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for doc := range strings.SplitSeq(string(text), "---\n") {
		object, err := yaml.YAMLToJSONStrict([]byte(doc))
		if err != nil {
			t.Fatal(err)
		}
		var o struct {
			Kind     string
			Metadata struct{ Name, Namespace string }
		}
		if err := yaml.Unmarshal(object, &o); err != nil {
			t.Fatal(err)
		}
		if o.Kind == "" {
			continue // the comment
		}
		if err := store.Check(object); err != nil || o.Kind != store.Kind || o.Metadata.Namespace != "default" {
			t.Errorf("%+v: %v", o, err)
		}
		names = append(names, o.Metadata.Name)
	}
	return names
}
