package webhook

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"
)

// qosClass is the class of a pod by the page "Pod Quality of Service Classes" of the Kubernetes documentation, and is
// written from it, not from what the injector does:
//
//	Guaranteed   every container has a limit and a request for memory, and these are equal; the same for CPU;
//	             or the pod as a whole has
//	BestEffort   no container has a request or limit for memory or CPU, nor has the pod
//	Burstable    all others
//
// Init containers count. A request that is absent is the limit, which is a default that the API server fills in.
func qosClass(pod *corev1.Pod) corev1.PodQOSClass {
	var all []corev1.ResourceRequirements
	if pod.Spec.Resources != nil {
		all = append(all, *pod.Spec.Resources)
	} else {
		for _, c := range pod.Spec.InitContainers {
			all = append(all, c.Resources)
		}
		for _, c := range pod.Spec.Containers {
			all = append(all, c.Resources)
		}
	}
	none, equal := true, true
	for _, r := range all {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			request, requested := r.Requests[name]
			limit, limited := r.Limits[name]
			if !requested {
				request = limit
			}
			if !request.IsZero() || !limit.IsZero() {
				none = false
			}
			if !limited || limit.IsZero() || request.Cmp(limit) != 0 {
				equal = false
			}
		}
	}
	switch {
	case none:
		return corev1.PodQOSBestEffort
	case equal:
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}

func resources(requests, limits string) object {
	list := func(text string) object {
		o := object{}
		for field := range strings.FieldsSeq(text) {
			name, q, _ := strings.Cut(field, "=")
			o[name] = q
		}
		return o
	}
	return object{"requests": list(requests), "limits": list(limits)}
}

// written returns r as the tables below do.
func written(r corev1.ResourceRequirements) string {
	var parts []string
	for _, list := range []struct {
		what string
		list corev1.ResourceList
	}{{"requests", r.Requests}, {"limits", r.Limits}} {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			if q, ok := list.list[name]; ok {
				parts = append(parts, fmt.Sprintf("%s %s=%s", list.what, name, q.String()))
			}
		}
	}
	return strings.Join(parts, ", ")
}

func TestResources(t *testing.T) {
	burstable, guaranteed := resources("cpu=1", ""), resources("", "cpu=1 memory=1Gi")
	for name, tt := range map[string]struct {
		app, pod    object
		annotations map[string]any
		change      func(*Config)
		want        string
		class       corev1.PodQOSClass
		goal        string // GOMEMLIMIT
	}{
		"best effort": {class: corev1.PodQOSBestEffort},
		"best effort, but asked": {annotations: map[string]any{AnnotationMemoryLimit: "100Mi"},
			want: "requests memory=100Mi, limits memory=100Mi", class: corev1.PodQOSBurstable, goal: "94371840"},
		"zero is none": {app: resources("cpu=0", "memory=0"), class: corev1.PodQOSBestEffort},
		"others do not count": {app: resources("ephemeral-storage=1Gi", "ephemeral-storage=1Gi"),
			class: corev1.PodQOSBestEffort},
		"burstable": {app: burstable, want: "requests cpu=10m, requests memory=32Mi, limits memory=256Mi",
			class: corev1.PodQOSBurstable, goal: "241591905"},
		"burstable, no limit": {app: burstable, change: func(c *Config) { c.MemoryLimit = "" },
			want: "requests cpu=10m, requests memory=32Mi", class: corev1.PodQOSBurstable},
		"burstable, all asked": {app: burstable, annotations: map[string]any{AnnotationCPURequest: "0.1", AnnotationCPULimit: "1",
			AnnotationMemoryRequest: "64Mi", AnnotationMemoryLimit: "512Mi"},
			want: "requests cpu=100m, requests memory=64Mi, limits cpu=1, limits memory=512Mi", class: corev1.PodQOSBurstable, goal: "483183819"},
		"the limit gives way": {app: burstable, annotations: map[string]any{AnnotationMemoryRequest: "1Gi"},
			want: "requests cpu=10m, requests memory=1Gi, limits memory=1Gi", class: corev1.PodQOSBurstable, goal: "966367638"},
		"the request gives way": {app: burstable, annotations: map[string]any{AnnotationMemoryLimit: "16Mi"},
			want: "requests cpu=10m, requests memory=16Mi, limits memory=16Mi", class: corev1.PodQOSBurstable, goal: "15099489"},
		"guaranteed": {app: guaranteed, want: "requests cpu=200m, requests memory=256Mi, limits cpu=200m, limits memory=256Mi",
			class: corev1.PodQOSGuaranteed, goal: "241591905"},
		"guaranteed, written out": {app: resources("cpu=1000m memory=1Gi", "cpu=1 memory=1024Mi"),
			want:  "requests cpu=200m, requests memory=256Mi, limits cpu=200m, limits memory=256Mi",
			class: corev1.PodQOSGuaranteed, goal: "241591905"},
		"guaranteed, no limit configured": {app: guaranteed, change: func(c *Config) { c.MemoryLimit, c.CPURequest = "", "300m" },
			want:  "requests cpu=300m, requests memory=128Mi, limits cpu=300m, limits memory=128Mi",
			class: corev1.PodQOSGuaranteed, goal: "120795948"},
		"guaranteed, asked": {app: guaranteed, annotations: map[string]any{AnnotationCPURequest: "50m", AnnotationMemoryLimit: "64Mi"},
			want: "requests cpu=50m, requests memory=64Mi, limits cpu=50m, limits memory=64Mi", class: corev1.PodQOSGuaranteed, goal: "60397974"},
		"guaranteed, asked not to be": {app: guaranteed, annotations: map[string]any{AnnotationCPURequest: "50m", AnnotationCPULimit: "1"},
			want: "requests cpu=50m, requests memory=256Mi, limits cpu=1, limits memory=256Mi", class: corev1.PodQOSBurstable, goal: "241591905"},
		"almost guaranteed": {app: resources("cpu=1", "cpu=1 memory=1Gi"), class: corev1.PodQOSGuaranteed,
			want: "requests cpu=200m, requests memory=256Mi, limits cpu=200m, limits memory=256Mi", goal: "241591905"},
		"not guaranteed": {app: resources("cpu=500m", "cpu=1 memory=1Gi"), class: corev1.PodQOSBurstable,
			want: "requests cpu=10m, requests memory=32Mi, limits memory=256Mi", goal: "241591905"},
		"the pod's, guaranteed": {pod: resources("cpu=1 memory=1Gi", "cpu=1 memory=1Gi"), class: corev1.PodQOSGuaranteed},
		"the pod's, burstable":  {pod: resources("cpu=1", ""), app: resources("cpu=1", ""), class: corev1.PodQOSBurstable},
		"the pod's, asked": {pod: resources("cpu=1 memory=1Gi", "cpu=1 memory=1Gi"), annotations: map[string]any{AnnotationMemoryLimit: "128Mi", AnnotationMemoryRequest: "32Mi"},
			want: "requests memory=32Mi, limits memory=128Mi", class: corev1.PodQOSGuaranteed, goal: "120795948"},
	} {
		t.Run(name, func(t *testing.T) {
			for form, f := range forms() {
				c := app()
				if tt.app != nil {
					c["resources"] = tt.app
				}
				spec := object{"containers": []any{c}}
				if tt.pod != nil {
					spec["resources"] = tt.pod
				}
				annotations := map[string]any{}
				for _, m := range []map[string]any{f.annotations, tt.annotations} {
					for k, v := range m {
						annotations[k] = v
					}
				}
				change := func(c *Config) {
					f.change(c)
					if tt.change != nil {
						tt.change(c)
					}
				}
				pod, res := injected(t, spec, annotations, enabled("shop"), change)
				if res.Reason != InjectedSidecar {
					t.Fatalf("%s: %s, %s", form, res.Reason, res.Message)
				}
				proxy := find(t, pod, ProxyContainer)
				if got := written(proxy.Resources); got != tt.want {
					t.Errorf("%s: %s, want %s", form, got, tt.want)
				}
				if got := qosClass(&pod); got != tt.class {
					t.Errorf("%s: the class is %s, want %s", form, got, tt.class)
				}
				if got := envOf(proxy, "GOMEMLIMIT"); got != tt.goal {
					t.Errorf("%s: GOMEMLIMIT is %q, want %q", form, got, tt.goal)
				}
				if lost := name == "guaranteed, asked not to be"; lost != (len(res.Warnings) > 0) {
					t.Errorf("%s: warnings %q", form, res.Warnings)
				}
			}
		})
	}
}

func TestResourceAnnotationsAreChecked(t *testing.T) {
	for _, tt := range []struct {
		annotations map[string]any
		says        string
	}{
		{map[string]any{AnnotationCPURequest: "fast"}, `tulle.dev/proxy-cpu-request is "fast", allowed: a quantity from 1m on; hint: write one like 100m`},
		{map[string]any{AnnotationCPULimit: ""}, `tulle.dev/proxy-cpu-limit is "", allowed: a quantity from 10m on`},
		{map[string]any{AnnotationCPULimit: "0"}, `tulle.dev/proxy-cpu-limit is "0"`},
		{map[string]any{AnnotationCPURequest: "-1"}, `tulle.dev/proxy-cpu-request is "-1"`},
		{map[string]any{AnnotationMemoryRequest: "64m"}, `tulle.dev/proxy-memory-request is "64m", allowed: a quantity from 1Mi on; hint: write one like 128Mi`},
		{map[string]any{AnnotationMemoryLimit: "256"}, `tulle.dev/proxy-memory-limit is "256", allowed: a quantity from 16Mi on`},
		{map[string]any{AnnotationMemoryLimit: "64Mi", AnnotationMemoryRequest: "65Mi"}, "tulle.dev/proxy-memory-request is 65Mi, which is more than tulle.dev/proxy-memory-limit, 64Mi"},
	} {
		for _, mode := range []Mode{ModeHost, ModeSidecar} { // a pod's mode may change, its slips should not wait for that
			_, res := injected(t, object{"containers": []any{app()}}, tt.annotations, enabled("shop", LabelMode, string(mode)))
			if res.Reason != InvalidAnnotation || !strings.Contains(res.Message, tt.says) {
				t.Errorf("%s, %v: %s, %q; want %q", mode, tt.annotations, res.Reason, res.Message, tt.says)
			}
		}
	}
}

// Whatever the pod's resources, its class is the same before and after.
func TestClassStays(t *testing.T) {
	quantities := []string{"", "0", "100m", "1", "64Mi", "1Gi"}
	draw := func(t *rapid.T, what string) object {
		o := object{}
		requests, limits := object{}, object{}
		for _, name := range []string{"cpu", "memory", "ephemeral-storage"} {
			request, limit := rapid.SampledFrom(quantities).Draw(t, what+" request"), rapid.SampledFrom(quantities).Draw(t, what+" limit")
			if rapid.IntRange(0, 2).Draw(t, what+" same") == 0 {
				request = limit
			}
			if r, l := parsed(request), parsed(limit); limit != "" && r.Cmp(l) > 0 { // which the API server refuses
				request = limit
			}
			if request != "" {
				requests[name] = request
			}
			if limit != "" {
				limits[name] = limit
			}
		}
		o["requests"], o["limits"] = requests, limits
		return o
	}
	all := forms()
	rapid.Check(t, func(t *rapid.T) {
		container := func(name string) object {
			c := object{"name": name, "image": "i"}
			if rapid.IntRange(0, 3).Draw(t, "has resources") > 0 {
				c["resources"] = draw(t, name)
			}
			return c
		}
		spec := object{"containers": []any{container("a"), container("b")}}
		if rapid.Bool().Draw(t, "init") {
			spec["initContainers"] = []any{container("i")}
		}
		f := all[rapid.SampledFrom([]string{"native", "native, redirect", "classic", "classic, redirect"}).Draw(t, "form")]
		cfg := testConfig()
		f.change(&cfg)
		raw, err := json.Marshal(object{"metadata": object{"name": "p", "annotations": f.annotations}, "spec": spec})
		if err != nil {
			t.Fatal(err)
		}
		res := mustInject(t, raw, enabled("shop", LabelMode, "sidecar"), cfg)
		var before, after corev1.Pod
		if err := json.Unmarshal(raw, &before); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(applied(t, raw, res), &after); err != nil {
			t.Fatal(err)
		}
		if was, is := qosClass(&before), qosClass(&after); was != is {
			t.Fatalf("%s became %s: %s", was, is, raw)
		}
		for _, c := range append(after.Spec.InitContainers, after.Spec.Containers...) {
			for name, request := range c.Resources.Requests {
				if limit, ok := c.Resources.Limits[name]; ok && (c.Name == ProxyContainer || c.Name == RedirectContainer) && request.Cmp(limit) > 0 {
					t.Fatalf("%s requests more %s than its limit", c.Name, name)
				}
			}
		}
	})
}

// A configuration that the API server would refuse in every pod is refused before.
func TestConfigResources(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*Config)
		says   string
	}{
		"equal":            {func(c *Config) { c.MemoryRequest, c.MemoryLimit = "64Mi", "64Mi" }, ""},
		"memory":           {func(c *Config) { c.MemoryRequest, c.MemoryLimit = "65Mi", "64Mi" }, "memory request 65Mi is more than its limit, 64Mi"},
		"CPU, the default": {func(c *Config) { c.CPULimit = "5m" }, "CPU request 10m is more than its limit, 5m"},
		"no quantity":      {func(c *Config) { c.CPULimit = "fast" }, `CPU limit "fast" is not a quantity like 10m or 32Mi`},
	} {
		cfg := testConfig()
		tt.change(&cfg)
		err := cfg.Validate()
		if (err != nil) != (tt.says != "") || err != nil && (!errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), tt.says)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
