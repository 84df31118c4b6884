package webhook

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

// injected puts a pod with this spec and these annotations through sidecar mode, twice: the second pass must be empty.
// The pod is zero if it was not injected.
func injected(t *testing.T, spec object, annotations map[string]any, ns Namespace, change ...func(*Config)) (corev1.Pod, Result) {
	t.Helper()
	cfg := testConfig()
	cfg.DefaultMode = ModeSidecar
	for _, c := range change {
		c(&cfg)
	}
	meta := object{"generateName": "p-"}
	if annotations != nil {
		meta["annotations"] = annotations
	}
	raw := marshal(t, object{"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})
	res := mustInject(t, raw, ns, cfg)
	var pod corev1.Pod
	if res.Patch == nil {
		return pod, res
	}
	patched := applied(t, raw, res)
	if second := mustInject(t, patched, ns, cfg); second.Reason != AlreadyInjected || second.Patch != nil {
		t.Errorf("the second pass is %s with patch %s, %s", second.Reason, second.Patch, second.Message)
	}
	if err := json.Unmarshal(patched, &pod); err != nil {
		t.Fatal(err)
	}
	return pod, res
}

func app() object { return object{"name": "app", "image": "i"} }

func names(containers []corev1.Container) []string {
	var out []string
	for _, c := range containers {
		out = append(out, c.Name)
	}
	return out
}

func find(t *testing.T, pod corev1.Pod, name string) corev1.Container {
	t.Helper()
	all := slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers)
	i := slices.IndexFunc(all, func(c corev1.Container) bool { return c.Name == name })
	if i < 0 {
		t.Fatalf("no container %s among %q", name, names(all))
	}
	return all[i]
}

func envOf(c corev1.Container, name string) string {
	for _, e := range c.Env {
		if e.Name == name {
			return e.Value
		}
	}
	return ""
}

// forms are the ways in which a sidecar can be in a pod.
func forms() map[string]struct {
	annotations map[string]any
	change      func(*Config)
} {
	type form = struct {
		annotations map[string]any
		change      func(*Config)
	}
	redirect := map[string]any{AnnotationCapture: CaptureRedirect}
	native, classic := func(*Config) {}, func(c *Config) { c.NativeSidecar = new(false) }
	return map[string]form{
		"native": {nil, native}, "native, redirect": {redirect, native},
		"classic": {nil, classic}, "classic, redirect": {redirect, classic},
	}
}

// Probes of the app stay as they are, whatever they are: the sidecar takes what arrives at its own ports only, so the
// kubelet reaches the app as it did. That goes for three kinds of probe with four handlers, with ports by number and by
// name, and for hooks.
func TestProbesStay(t *testing.T) {
	handlers := map[string]object{
		"exec":      {"exec": object{"command": []any{"true"}}},
		"httpGet":   {"httpGet": object{"port": 8080, "path": "/healthz", "scheme": "HTTPS", "httpHeaders": []any{object{"name": "A", "value": "b"}}}},
		"by name":   {"httpGet": object{"port": "web"}},
		"tcpSocket": {"tcpSocket": object{"port": 8081}},
		"grpc":      {"grpc": object{"port": 8082, "service": "s"}},
	}
	for form, f := range forms() {
		for _, kind := range []string{"startupProbe", "readinessProbe", "livenessProbe"} {
			for handler, h := range handlers {
				c := app()
				c["ports"] = []any{object{"name": "web", "containerPort": 8080}}
				c[kind] = h
				if h["grpc"] == nil {
					c["lifecycle"] = object{"preStop": h}
				}
				pod, res := injected(t, object{"containers": []any{c}}, f.annotations, enabled("shop"), f.change)
				if res.Reason != InjectedSidecar {
					t.Fatalf("%s, %s %s: %s, %s", form, kind, handler, res.Reason, res.Message)
				}
				var want corev1.Container
				if err := json.Unmarshal(marshal(t, c), &want); err != nil {
					t.Fatal(err)
				}
				got := find(t, pod, "app")
				got.Env = nil
				if !reflect.DeepEqual(got, want) {
					t.Errorf("%s, %s %s: became %+v", form, kind, handler, got)
				}
				proxy := find(t, pod, ProxyContainer)
				for _, p := range proxy.Ports {
					if slices.Contains([]int32{8080, 8081, 8082}, p.ContainerPort) {
						t.Errorf("%s: the sidecar listens where the app is probed", form)
					}
				}
			}
		}
	}
}

// The sidecar has all three probes, and is killed by none while it only lacks its controller.
func TestSidecarProbes(t *testing.T) {
	for form, f := range forms() {
		pod, _ := injected(t, object{"containers": []any{app()}}, f.annotations, enabled("shop"), f.change)
		proxy := find(t, pod, ProxyContainer)
		for kind, p := range map[string]struct {
			probe *corev1.Probe
			path  string
		}{
			"startup": {proxy.StartupProbe, "/admin/ready"}, "readiness": {proxy.ReadinessProbe, "/admin/ready"}, "liveness": {proxy.LivenessProbe, "/admin/ping"},
		} {
			if p.probe == nil || p.probe.HTTPGet == nil || p.probe.HTTPGet.Path != p.path || p.probe.HTTPGet.Port.IntValue() != DefaultAdminPort {
				t.Errorf("%s: the %s probe is %+v", form, kind, p.probe)
			}
		}
		if n := proxy.StartupProbe.FailureThreshold * proxy.StartupProbe.PeriodSeconds; n < 1800 {
			t.Errorf("%s: the sidecar is killed after %d s without a controller", form, n)
		}
	}
}

func TestPortCollisions(t *testing.T) {
	port := func(n int) object { return object{"ports": []any{object{"containerPort": n}}} }
	for name, tt := range map[string]struct {
		container object
		says      []string
	}{
		"incoming":        {port(4141), []string{`container "app" uses port 4141, which is the sidecar's incoming port`, `tulle.dev/incoming-port: "4142"`}},
		"next one is too": {object{"ports": []any{object{"containerPort": 9990}, object{"containerPort": 9991}}}, []string{`tulle.dev/admin-port: "9992"`}},
		"two of ours":     {object{"ports": []any{object{"containerPort": 4140}, object{"containerPort": 4141}}}, []string{`tulle.dev/outgoing-port: "4142"`, `tulle.dev/incoming-port: "4143"`}},
		"readiness":       {object{"readinessProbe": object{"httpGet": object{"port": 9990}}}, []string{`tulle.dev/admin-port: "9991"`}},
		"startup":         {object{"startupProbe": object{"tcpSocket": object{"port": 4141}}}, []string{`tulle.dev/incoming-port: "4142"`}},
		"liveness":        {object{"livenessProbe": object{"grpc": object{"port": 4141}}}, []string{`tulle.dev/incoming-port: "4142"`}},
		"hook":            {object{"lifecycle": object{"preStop": object{"httpGet": object{"port": 9990}}}}, []string{`tulle.dev/admin-port: "9991"`}},
		"UDP":             {object{"ports": []any{object{"containerPort": 4141, "protocol": "UDP"}}}, nil},
	} {
		c := app()
		for k, v := range tt.container {
			c[k] = v
		}
		_, res := injected(t, object{"containers": []any{c}}, nil, enabled("shop"))
		if len(tt.says) == 0 {
			if res.Reason != InjectedSidecar {
				t.Errorf("%s: %s, %s", name, res.Reason, res.Message)
			}
			continue
		}
		if res.Reason != PortTaken {
			t.Errorf("%s: %s", name, res.Reason)
		}
		for _, s := range tt.says {
			if !strings.Contains(res.Message, s) {
				t.Errorf("%s: %q lacks %q", name, res.Message, s)
			}
		}
	}
	// Following the hint helps.
	c := app()
	c["ports"] = port(4141)["ports"]
	if pod, res := injected(t, object{"containers": []any{c}}, map[string]any{AnnotationIncomingPort: "4142"}, enabled("shop")); res.Reason != InjectedSidecar ||
		find(t, pod, ProxyContainer).Ports[0].ContainerPort != 4142 {
		t.Errorf("with the port proposed: %s, %s", res.Reason, res.Message)
	}
}

// A port of the node is the node's: it is no port in the pod, and what a sidecar listens on is none of it.
func TestHostPorts(t *testing.T) {
	c := app()
	c["ports"] = []any{object{"containerPort": 8080, "hostPort": 4140}}
	_, res := injected(t, object{"containers": []any{c}}, nil, enabled("shop"))
	if res.Reason != InjectedSidecar || len(res.Warnings) != 1 || !strings.Contains(res.Warnings[0], "port 4140 of its node") {
		t.Errorf("%s, %s, %q", res.Reason, res.Message, res.Warnings)
	}
}

func TestPullSecrets(t *testing.T) {
	for name, tt := range map[string]struct{ have, want []string }{
		"none":  {nil, []string{"mesh", "mirror"}},
		"some":  {[]string{"z", "a"}, []string{"z", "a", "mesh", "mirror"}},
		"there": {[]string{"mirror", "a"}, []string{"mirror", "a", "mesh"}},
	} {
		spec := object{"containers": []any{app()}}
		var have []any
		for _, s := range tt.have {
			have = append(have, object{"name": s})
		}
		if have != nil {
			spec["imagePullSecrets"] = have
		}
		pod, _ := injected(t, spec, nil, enabled("shop"), func(c *Config) { c.ImagePullSecrets = []string{"mesh", "mirror"} })
		var got []string
		for _, s := range pod.Spec.ImagePullSecrets {
			got = append(got, s.Name)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

// By environment the level of Pod Security stays; a redirect costs NET_ADMIN, and nothing but that, in one init
// container. What the app's containers may do, ours may not for it.
func TestPodSecurityOfForms(t *testing.T) {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	level := func(l api.Level, pod corev1.Pod) string {
		var wrong []string
		for _, res := range evaluator.EvaluatePod(api.LevelVersion{Level: l, Version: api.LatestVersion()}, &pod.ObjectMeta, &pod.Spec) {
			if !res.Allowed {
				wrong = append(wrong, fmt.Sprintf("%s (%s)", res.ForbiddenReason, res.ForbiddenDetail))
			}
		}
		return strings.Join(wrong, "; ")
	}
	spec := func(context object) object {
		c := app()
		c["securityContext"] = context
		return object{"containers": []any{c}, "securityContext": object{"runAsNonRoot": true, "seccompProfile": object{"type": "RuntimeDefault"}}}
	}
	strict := object{"allowPrivilegeEscalation": false, "capabilities": object{"drop": []any{"ALL"}}}
	loose := object{"privileged": true, "capabilities": object{"add": []any{"SYS_PTRACE", "NET_RAW"}}}
	for form, f := range forms() {
		pod, _ := injected(t, spec(strict), f.annotations, enabled("shop"), f.change)
		wrong := level(api.LevelBaseline, pod)
		if f.annotations == nil {
			wrong = level(api.LevelRestricted, pod)
		}
		want := ""
		if f.annotations != nil {
			want = `non-default capabilities (container "tulle-redirect" must not include "NET_ADMIN" in securityContext.capabilities.add)`
		}
		if wrong != want {
			t.Errorf("%s: forbidden is %q, want %q", form, wrong, want)
		}

		pod, _ = injected(t, spec(loose), f.annotations, enabled("shop"), f.change)
		for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
			if c.Name == "app" {
				continue
			}
			s := c.SecurityContext
			if slices.Contains(s.Capabilities.Add, "SYS_PTRACE") || c.Name == ProxyContainer && len(s.Capabilities.Add) > 0 ||
				s.Privileged != nil && *s.Privileged || *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem {
				t.Errorf("%s: %s may do %+v", form, c.Name, s)
			}
		}
	}
}

// Nothing that the sidecar brings counts as storage on the node for the cluster autoscaler, so its annotations stay.
func TestNoLocalStorage(t *testing.T) {
	const local = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"
	for form, f := range forms() {
		annotations := map[string]any{local: "scratch"}
		for k, v := range f.annotations {
			annotations[k] = v
		}
		pod, _ := injected(t, object{"containers": []any{app()}, "volumes": []any{object{"name": "scratch", "emptyDir": object{}}}}, annotations, enabled("shop"), f.change)
		for _, v := range pod.Spec.Volumes {
			if v.Name != "scratch" && (v.EmptyDir != nil || v.HostPath != nil) {
				t.Errorf("%s: %s is storage on the node", form, v.Name)
			}
		}
		if pod.Annotations[local] != "scratch" {
			t.Errorf("%s: %s", form, pod.Annotations[local])
		}
	}
}
