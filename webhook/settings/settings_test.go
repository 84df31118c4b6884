package settings_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/manifests"
	"github.com/tulle-mesh/tulle/webhook/settings"
)

// ofChart returns the settings that the Helm chart writes for the controller.
func ofChart(t *testing.T, values map[string]any) []byte {
	t.Helper()
	rendered, err := manifests.Render("mesh", values)
	if err != nil {
		t.Fatal(err)
	}
	for document := range strings.SplitSeq(string(rendered), "\n---\n") {
		var object corev1.ConfigMap
		if err := yaml.Unmarshal([]byte(document), &object); err != nil {
			t.Fatal(err)
		}
		if text, ok := object.Data["controller.yaml"]; ok {
			return []byte(text)
		}
	}
	t.Fatal("the chart has no settings for the controller")
	return nil
}

func TestDefault(t *testing.T) {
	got, err := settings.Parse("controller.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(settings.Default(), got); diff != "" {
		t.Error(diff)
	}
}

func TestOfTheChart(t *testing.T) {
	got, err := settings.Parse("controller.yaml", ofChart(t, map[string]any{
		"trustDomain": "corp.test", "injector": map[string]any{"defaultMode": "sidecar"}, "proxy": map[string]any{"image": "reg/proxy:1"},
	}))
	if err != nil {
		t.Fatal(err)
	}
	c := got.Config("roots")
	if got := [...]string{c.MeshNamespace, c.TrustDomain, string(c.DefaultMode), c.ProxyImage, c.ControllerURL, c.ControllerCA, c.MemoryLimit}; got !=
		[...]string{"mesh", "corp.test", "sidecar", "reg/proxy:1", "https://tulle-controller.mesh.svc:4181", "roots", "256Mi"} {
		t.Errorf("got %q", got)
	}
}

func TestInject(t *testing.T) {
	got, err := settings.Parse("controller.yaml", ofChart(t, map[string]any{"injector": map[string]any{
		"hostAddress": "service", "nativeSidecar": false, "excludedNamespaces": []any{"a", "b"}, "imagePullSecrets": []any{"reg.cred"}, "architectures": []any{"arm64"},
		"resources": map[string]any{"limits": map[string]any{"cpu": 1}},
	}}))
	if err != nil {
		t.Fatal(err)
	}
	c := got.Config("")
	if !slices.Equal(c.ExcludedNamespaces, []string{"a", "b"}) || !slices.Equal(c.ImagePullSecrets, []string{"reg.cred"}) || !slices.Equal(c.Architectures, []string{"arm64"}) ||
		c.HostAddress != "service" || c.HostService != "tulle-host.mesh.svc" || *c.NativeSidecar || c.CPULimit != "1" {
		t.Errorf("got %+v", c)
	}
}

func TestWrong(t *testing.T) {
	_, err := settings.Parse("controller.yaml", []byte(`
webhook-address: ":1"
inject:
  default-mode: ambient
  excluded-namespaces: shop, Legacy
  native-sidecar: maybe
  host-address: ""
  proxy-cpu-limit: much
  proxy: x
  escaped: kill
  stale: evict
  repairs-per-minute: 0
`))
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		`default mode is "ambient"`, `inject.excluded-namespaces: "Legacy" is not a name`, `inject.native-sidecar: it is "maybe", allowed: auto, true, false`,
		"inject.host-address: it must not be empty", `CPU limit "much"`, "controller.yaml:9: inject.proxy is not a setting",
		`inject.escaped: it is "kill", allowed: report, evict, restart`, `inject.stale: it is "evict", allowed: report, restart`, "inject.repairs-per-minute: it is 0",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in:\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), "webhook-address") {
		t.Errorf("another's setting is judged: %v", err)
	}
}

func node(address, kubelet, system string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{corev1.LabelOSStable: system}}}
	n.Status.NodeInfo.KubeletVersion = kubelet
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeExternalIP, Address: "203.0.113.1"}, {Type: corev1.NodeHostName, Address: "n"}}
	if address != "" {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: address})
	}
	return n
}

func TestSurvey(t *testing.T) {
	for name, c := range map[string]struct {
		nodes  []*corev1.Node
		want   settings.Facts
		native bool
	}{
		"no nodes":     {nil, settings.Facts{}, true},
		"IPv4":         {[]*corev1.Node{node("10.0.0.1", "v1.37.2", "linux"), node("10.0.0.2", "v1.29.0-eks-508b6b3", "linux")}, settings.Facts{HostAddress: "hostIP"}, true},
		"IPv6":         {[]*corev1.Node{node("fd00::1", "v1.37.2", "linux")}, settings.Facts{HostAddress: "hostIPv6"}, true},
		"mixed":        {[]*corev1.Node{node("fd00::1", "v1.37.2", "linux"), node("10.0.0.1", "v1.37.2", "linux"), node("fd00::2", "v1.37.2", "linux")}, settings.Facts{HostAddress: "service"}, true},
		"one is old":   {[]*corev1.Node{node("10.0.0.1", "v1.37.2", "linux"), node("10.0.0.2", "v1.28.15+k3s1", "linux")}, settings.Facts{HostAddress: "hostIP", Classic: true}, false},
		"old Windows":  {[]*corev1.Node{node("10.0.0.1", "v1.37.2", "linux"), node("fd00::1", "v1.28.15", "windows")}, settings.Facts{HostAddress: "hostIP"}, true},
		"not yet told": {[]*corev1.Node{node("", "", "linux")}, settings.Facts{HostAddress: "hostIP"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			all := map[int]settings.Node{}
			for i, n := range c.nodes {
				if counted, ok := settings.NodeOf(n); ok {
					all[i] = counted
				}
			}
			facts := settings.Survey(maps.Values(all))
			if facts != c.want {
				t.Errorf("got %+v, want %+v", facts, c.want)
			}
			if got := settings.Survey(slices.Values(slices.Collect(maps.Values(all)))); got != facts {
				t.Errorf("in another order: %+v", got)
			}
			s := settings.Default().Resolve(facts)
			if s.Inject.HostAddress == settings.Auto || s.Inject.NativeSidecar != map[bool]string{true: "true", false: "false"}[c.native] {
				t.Errorf("resolved to %+v", s.Inject)
			}
			fixed := settings.Default()
			fixed.Inject.HostAddress, fixed.Inject.NativeSidecar = "proxy.local", "true"
			if got := fixed.Resolve(facts); got != fixed {
				t.Errorf("what is said was changed to %+v", got.Inject)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add("namespace: mesh\ninject: {host-address: service, excluded-namespaces: 'a,b'}\n")
	f.Add("inject: {default-mode: [}")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := settings.Parse("x", []byte(text))
		if err != nil {
			return
		}
		s = s.Resolve(settings.Facts{HostAddress: "service", Classic: true})
		if err := s.Validate(); err != nil {
			t.Errorf("valid, but not on every cluster: %v", err)
		}
	})
}
