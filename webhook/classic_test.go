package webhook

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestNativeOrClassic(t *testing.T) {
	owner := func(version, kind string) []any {
		return []any{object{"apiVersion": version, "kind": kind, "name": "o", "uid": "u"}}
	}
	for name, tt := range map[string]struct {
		native  *bool
		restart string
		owners  []any
		want    bool
	}{
		"nobody says":            {nil, "Always", nil, true},
		"every kubelet":          {new(true), "Always", nil, true},
		"old kubelets":           {new(false), "Always", owner("apps/v1", "ReplicaSet"), false},
		"old, policy left out":   {new(false), "", nil, false},
		"old, Job":               {new(false), "Never", owner("batch/v1", "Job"), true},
		"old, Job by owner only": {new(false), "Always", owner("batch/v1", "Job"), true},
		"old, someone's Job":     {new(false), "Always", owner("jobs.example.org/v1", "Job"), false},
		"old, to end":            {new(false), "OnFailure", nil, true},
		"old, to end once":       {new(false), "Never", nil, true},
	} {
		spec := object{"containers": []any{app(), object{"name": "second", "image": "i"}}}
		if tt.restart != "" {
			spec["restartPolicy"] = tt.restart
		}
		cfg := testConfig()
		cfg.NativeSidecar, cfg.DefaultMode = tt.native, ModeSidecar
		raw := marshal(t, object{"metadata": object{"name": "p", "ownerReferences": tt.owners}, "spec": spec})
		if tt.owners == nil {
			raw = marshal(t, object{"metadata": object{"name": "p"}, "spec": spec})
		}
		patched := applied(t, raw, mustInject(t, raw, enabled("shop"), cfg))
		pod := podOf(t, patched)
		want, init := []string{"app", "second"}, []string{ProxyContainer}
		if !tt.want {
			want, init = []string{ProxyContainer, "app", "second"}, nil
		}
		if !slices.Equal(names(pod.Spec.Containers), want) || !slices.Equal(names(pod.Spec.InitContainers), init) {
			t.Errorf("%s: init containers %q, containers %q", name, names(pod.Spec.InitContainers), names(pod.Spec.Containers))
		}
		proxy := find(t, pod, ProxyContainer)
		if native := proxy.RestartPolicy != nil; native != tt.want || native == (proxy.Lifecycle != nil) {
			t.Errorf("%s: restarts %v, hooks %v", name, proxy.RestartPolicy, proxy.Lifecycle)
		}
	}
}

// The hooks keep the order of a native sidecar: the app starts after the proxy is ready, and the proxy ends after it.
func TestClassicHooks(t *testing.T) {
	for name, tt := range map[string]struct {
		grace   any
		ports   []any
		preStop string
	}{
		"default":       {nil, nil, "linger --timeout=25s"},
		"ports":         {nil, []any{object{"containerPort": 10000}, object{"containerPort": 8080}, object{"containerPort": 53, "protocol": "UDP"}}, "linger --ports=8080,10000 --timeout=25s"},
		"two minutes":   {120, nil, "linger --timeout=115s"},
		"twelve":        {12, nil, "linger --timeout=10s"},
		"two":           {2, nil, "linger --timeout=1s"},
		"one":           {1, nil, ""},
		"none":          {0, nil, ""},
		"far too early": {-1, nil, ""},
	} {
		c := app()
		if tt.ports != nil {
			c["ports"] = tt.ports
		}
		spec := object{"containers": []any{c}}
		if tt.grace != nil {
			spec["terminationGracePeriodSeconds"] = tt.grace
		}
		pod, _ := injected(t, spec, map[string]any{AnnotationAdminPort: "9991"}, enabled("shop"), func(c *Config) { c.NativeSidecar = new(false) })
		proxy := pod.Spec.Containers[0]
		if got := strings.Join(proxy.Lifecycle.PostStart.Exec.Command, " "); got != "/tulle-proxy await --admin-port=9991 --timeout=60s" {
			t.Errorf("%s: after the start: %s", name, got)
		}
		var got string
		if stop := proxy.Lifecycle.PreStop; stop != nil {
			got = strings.TrimPrefix(strings.Join(stop.Exec.Command, " "), "/tulle-proxy ")
		}
		if got != tt.preStop {
			t.Errorf("%s: before the end: %s, want %s", name, got, tt.preStop)
		}
	}
}

// kubectl means the first container where none is named, which is the sidecar only if that is classic.
func TestDefaultContainer(t *testing.T) {
	for name, tt := range map[string]struct {
		have   map[string]any
		native bool
		want   string
	}{
		"classic":             {nil, false, "app"},
		"classic, users say":  {map[string]any{annotationDefaultContainer: "second"}, false, "second"},
		"classic, they agree": {map[string]any{annotationDefaultContainer: "app"}, false, "app"},
		"native":              {nil, true, ""},
	} {
		pod, _ := injected(t, object{"containers": []any{app(), object{"name": "second", "image": "i"}}}, tt.have, enabled("shop"),
			func(c *Config) { c.NativeSidecar = &tt.native })
		if got := pod.Annotations[annotationDefaultContainer]; got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

// Init containers run before a classic sidecar: somebody should know.
func TestClassicAndInitContainers(t *testing.T) {
	for form, f := range forms() {
		_, res := injected(t, object{"initContainers": []any{object{"name": "i", "image": "i"}}, "containers": []any{app()}}, f.annotations, enabled("shop"), f.change)
		if warned := len(res.Warnings) == 1 && strings.Contains(res.Warnings[0], "init containers run before its sidecar"); warned != (form == "classic") {
			t.Errorf("%s: %q", form, res.Warnings)
		}
	}
	// They have no proxy that they could ask.
	pod, _ := injected(t, object{"initContainers": []any{object{"name": "i", "image": "i"}}, "containers": []any{app()}}, nil, enabled("shop"),
		func(c *Config) { c.NativeSidecar = new(false) })
	if init := pod.Spec.InitContainers[0]; envOf(init, "http_proxy") != "" {
		t.Errorf("the init container is sent to a proxy that is not there: %v", init.Env)
	}
	if pod.Spec.InitContainers[0].RestartPolicy == nil && envOf(pod.Spec.Containers[1], "http_proxy") == "" {
		t.Error("the app is not sent to its proxy")
	}
}

func podOf(t *testing.T, raw []byte) corev1.Pod {
	t.Helper()
	var pod corev1.Pod
	unmarshal(t, raw, &pod)
	return pod
}
