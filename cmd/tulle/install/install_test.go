package install

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tulle-mesh/tulle/manifests"
)

// Whatever the chart has, an uninstallation knows how to find.
func TestKindsAreTheCharts(t *testing.T) {
	text, err := manifests.Render("tulle", nil)
	if err != nil {
		t.Fatal(err)
	}
	objects, err := decode(text)
	if err != nil || len(objects) < 20 {
		t.Fatalf("%d objects, %v", len(objects), err)
	}
	known := map[string]bool{}
	for _, k := range kinds() {
		known[k.String()] = true
	}
	for i := range objects {
		o := &objects[i]
		if !known[o.GroupVersionKind().String()] {
			t.Errorf("the chart has %s, of a kind that is not looked for", name(o))
		}
		for _, part := range strings.Split(selector, ",") {
			if key, value, _ := strings.Cut(part, "="); o.GetLabels()[key] != value {
				t.Errorf("%s does not have the label %s", name(o), part)
			}
		}
	}
	if settings(objects, "tulle") < 0 {
		t.Error("there is no ConfigMap of the controller")
	}
}

func TestRefusals(t *testing.T) {
	installed := func(version, layout string) []unstructured.Unstructured {
		o := unstructured.Unstructured{Object: map[string]any{"kind": "ConfigMap", "metadata": map[string]any{"name": controller, "namespace": "tulle"}}}
		o.SetLabels(map[string]string{labelVersion: version})
		o.SetAnnotations(map[string]string{annotationLayout: layout})
		return []unstructured.Unstructured{o}
	}
	for _, c := range []struct{ was, layout, now, want string }{
		{"1.2.3", "1", "1.2.3", ""},
		{"1.2.3", "1", "1.3.0", ""},
		{"1.9.0", "1", "1.10.0", ""},
		{"dev", "1", "1.0.0", ""},
		{"1.0.0", "1", "dev", ""},
		{"1.3.0", "1", "1.2.3", "version 1.3.0 is installed, and this program is 1.2.3"},
		{"1.3.0", "1", "1.3.0-rc.1", "version 1.3.0 is installed"},
		{"1.0.0", "", "1.2.3", "is arranged in a way"},
		{"1.0.0", "2", "1.2.3", "is arranged in a way"},
	} {
		err := (&upgrade{namespace: "tulle"}).check(installed(c.was, c.layout), installed(c.now, "1"))
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestCompare(t *testing.T) {
	object := func(containers ...any) map[string]any {
		return map[string]any{"spec": map[string]any{"containers": append([]any{}, containers...)}, "data": map[string]any{"a.yaml": "one\ntwo\nthree\n"}}
	}
	a := map[string]any{"name": "a", "image": "x"}
	b := map[string]any{"name": "b", "image": "y"}
	for _, c := range []struct {
		was, now any
		want     []string
	}{
		{object(a, b), object(a, b), nil},
		{object(a, b), object(a), []string{`- spec.containers[b]: {"image":"y","name":"b"}`}},
		{object(a), object(map[string]any{"name": "a", "image": "z"}), []string{`~ spec.containers[a].image: "x" -> "z"`}},
		{object(a, b), object(b, a), []string{`~ spec.containers: [{"image":"x","name":"a"},{"image":"y","name":"b"}] -> [{"image":"y","name":"b"},{"image":"x","name":"a"}]`}},
		{object(), map[string]any{"spec": map[string]any{"containers": []any{}}, "data": map[string]any{"a.yaml": "one\nthree\nfour\n"}}, []string{"data[a.yaml]:\n  - two\n  + four"}},
		{map[string]any{"a": nil}, map[string]any{"a": int64(1)}, []string{"+ a: 1"}},
		{map[string]any{"a": "x"}, map[string]any{"a": map[string]any{"b": "c"}}, []string{`~ a: "x" -> {"b":"c"}`}},
	} {
		var got []string
		for _, change := range compare(c.was, c.now) {
			got = append(got, change.String())
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%v, %v (-want +got)\n%s", c.was, c.now, diff)
		}
	}
}

func TestRolloutStates(t *testing.T) {
	two := int32(2)
	d := func(s appsv1.DeploymentStatus) string {
		_, state := deploymentState(&appsv1.Deployment{Spec: appsv1.DeploymentSpec{Replicas: &two}, Status: s})
		return state
	}
	for want, s := range map[string]appsv1.DeploymentStatus{
		"":                     {Replicas: 2, UpdatedReplicas: 2, AvailableReplicas: 2},
		"1 of 2 new pods made": {Replicas: 2, UpdatedReplicas: 1, AvailableReplicas: 2},
		"1 old pods to end":    {Replicas: 3, UpdatedReplicas: 2, AvailableReplicas: 2},
		"0 of 2 pods ready":    {Replicas: 2, UpdatedReplicas: 2},
	} {
		if got := d(s); got != want {
			t.Errorf("%+v: %q, want %q", s, got, want)
		}
	}
	if done, state := daemonSetState(&appsv1.DaemonSet{}); !done {
		t.Errorf("a DaemonSet without nodes: %q", state)
	}
}

// What is in namespaces of others is not part of the installation, but for the rights to read ConfigMaps there.
func TestOurs(t *testing.T) {
	for _, c := range []struct {
		kind, namespace, name string
		want                  bool
	}{
		{"ClusterRole", "", "tulle-controller", true}, {"Role", "tulle", "tulle-controller", true}, {"Role", "tulle-probe", "tulle-probe", true},
		{"Role", "shop", "tulle-configmaps", true}, {"RoleBinding", "shop", "tulle-configmaps", true},
		{"Role", "shop", "tulle-controller", false}, {"ConfigMap", "shop", "tulle-configmaps", false},
	} {
		o := &unstructured.Unstructured{Object: map[string]any{"kind": c.kind}}
		o.SetName(c.name)
		o.SetNamespace(c.namespace)
		if got := ours(o, map[string]bool{"tulle": true, "tulle-probe": true}); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}
