package webhook

import (
	"encoding/json"
	"reflect"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"pgregory.net/rapid"
)

// genAsks are annotations by which a pod asks for a sidecar of some kind.
func genAsks(t *rapid.T) object {
	asks := object{}
	some := func(wrong, key string, values ...string) {
		switch n := rapid.IntRange(0, 19).Draw(t, "asks "+key); {
		case n == 0:
			asks[key] = wrong
		case n > 10:
			asks[key] = rapid.SampledFrom(values).Draw(t, key)
		}
	}
	some("else", AnnotationCapture, CaptureEnv, CaptureRedirect, CaptureRedirect)
	some("no-port", AnnotationSkipPorts, "25", "10000,80", "1-65535")
	some("http", AnnotationOpaquePorts, "3306,5432") // which a pod may have
	some("x", AnnotationCPURequest, "50m", "1")
	some("2m", AnnotationCPULimit, "1", "2")
	some("32", AnnotationMemoryRequest, "32Mi", "64Mi")
	some("1", AnnotationMemoryLimit, "64Mi", "512Mi")
	some("8050", AnnotationAdminPort, "9992") // which a pod may have
	return asks
}

// genSituation gives a pod's spec what a sidecar depends on.
func genSituation(t *rapid.T, spec object) {
	some := func(key string, values ...any) {
		if rapid.IntRange(0, 3).Draw(t, "has "+key) == 0 {
			spec[key] = rapid.SampledFrom(values).Draw(t, key)
		}
	}
	some("restartPolicy", "Always", "OnFailure", "Never")
	some("terminationGracePeriodSeconds", 0, 1, 30, 600)
	some("nodeSelector", object{"kubernetes.io/arch": "arm64"}, object{"kubernetes.io/arch": "riscv64"})
	some("affinity", affinity([]string{"kubernetes.io/arch In amd64,s390x"}))
	some("securityContext", object{"runAsUser": 1000}, object{"fsGroup": 2000, "runAsNonRoot": true}, object{"runAsUser": redirectUser})
	some("resources", resources("cpu=2", "memory=2Gi"), object{})
	for _, field := range []string{"initContainers", "containers"} {
		for _, e := range list(spec[field]) {
			c := e.(object)
			more := func(key string, values ...any) {
				if rapid.IntRange(0, 3).Draw(t, "container has "+key) == 0 {
					c[key] = rapid.SampledFrom(values).Draw(t, "container's "+key)
				}
			}
			more("resources", resources("cpu=1", ""), resources("", "cpu=1 memory=1Gi"), resources("cpu=1 memory=1Gi", "cpu=1 memory=1Gi"), object{})
			more("ports", []any{object{"name": "http", "containerPort": 8080, "hostPort": 4140}}, []any{object{"containerPort": 9991}})
			more("securityContext", object{"capabilities": object{"add": []any{"SYS_PTRACE"}}}, object{"runAsUser": 0}, object{
				"allowPrivilegeEscalation": false, "runAsNonRoot": true, "capabilities": object{"drop": []any{"ALL"}}, "seccompProfile": object{"type": "RuntimeDefault"}})
			if field == "containers" {
				more("readinessProbe", object{"httpGet": object{"port": "http", "path": "/"}}, object{"grpc": object{"port": 8082}}, object{"tcpSocket": object{"port": 4141}})
				more("lifecycle", object{"preStop": object{"httpGet": object{"port": 8080}}})
			}
		}
	}
}

// TestSidecarProperties holds what is promised of sidecars of every form. That the patch touches nothing else, that a
// second pass is empty and that it can be undone, other tests hold of the same pods.
func TestSidecarProperties(t *testing.T) {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	passes := func(l api.Level, pod *corev1.Pod) bool {
		return !slices.ContainsFunc(evaluator.EvaluatePod(api.LevelVersion{Level: l, Version: api.LatestVersion()}, &pod.ObjectMeta, &pod.Spec),
			func(r policy.CheckResult) bool { return !r.Allowed })
	}
	rapid.Check(t, func(t *rapid.T) {
		pod := genPod(t)
		delete(pod["spec"].(object), "hostNetwork")
		if rapid.Bool().Draw(t, "asks") {
			asks := genAsks(t)
			if rapid.IntRange(0, 3).Draw(t, "redirect") > 0 {
				asks[AnnotationCapture] = CaptureRedirect
			}
			pod["metadata"].(object)["annotations"] = asks
			genSituation(t, pod["spec"].(object))
		}
		raw, err := json.Marshal(pod)
		if err != nil {
			t.Fatal(err)
		}
		cfg, ns := genConfig(t), enabled("shop", LabelMode, "sidecar")
		if rapid.IntRange(0, 3).Draw(t, "OpenShift") == 0 {
			ns.Annotations = map[string]string{annotationUIDRange: rapid.SampledFrom([]string{"1000/1000", "1000-1999", "x"}).Draw(t, "users")}
		}
		res := mustInject(t, raw, ns, cfg)
		if res.Reason != InjectedSidecar {
			return
		}
		var before, after corev1.Pod
		for _, p := range []struct {
			raw  []byte
			into *corev1.Pod
		}{{raw, &before}, {applied(t, raw, res), &after}} {
			if err := json.Unmarshal(p.raw, p.into); err != nil {
				t.Fatal(err)
			}
		}
		redirected := before.Annotations[AnnotationCapture] == CaptureRedirect
		native := cfg.NativeSidecar == nil || *cfg.NativeSidecar || before.Spec.RestartPolicy == "Never" || before.Spec.RestartPolicy == "OnFailure"

		var wantInit, wantContainers []string
		switch {
		case native && redirected:
			wantInit, wantContainers = slices.Concat([]string{ProxyContainer, RedirectContainer}, names(before.Spec.InitContainers)), names(before.Spec.Containers)
		case native:
			wantInit, wantContainers = slices.Concat([]string{ProxyContainer}, names(before.Spec.InitContainers)), names(before.Spec.Containers)
		case redirected:
			wantInit, wantContainers = append(names(before.Spec.InitContainers), RedirectContainer), slices.Concat([]string{ProxyContainer}, names(before.Spec.Containers))
		default:
			wantInit, wantContainers = names(before.Spec.InitContainers), slices.Concat([]string{ProxyContainer}, names(before.Spec.Containers))
		}
		if !slices.Equal(names(after.Spec.InitContainers), wantInit) || !slices.Equal(names(after.Spec.Containers), wantContainers) {
			t.Fatalf("init containers %q, containers %q; want %q, %q", names(after.Spec.InitContainers), names(after.Spec.Containers), wantInit, wantContainers)
		}
		was := map[string]corev1.Container{}
		for _, c := range slices.Concat(before.Spec.InitContainers, before.Spec.Containers) {
			was[c.Name] = c
		}
		init := names(before.Spec.InitContainers)
		for _, c := range slices.Concat(after.Spec.InitContainers, after.Spec.Containers) {
			switch c.Name {
			case ProxyContainer:
				if s := c.SecurityContext; len(s.Capabilities.Add) > 0 || *s.RunAsUser == 0 || !*s.RunAsNonRoot || ns.Annotations[annotationUIDRange] != "" && ns.Annotations[annotationUIDRange] != "x" && *s.RunAsUser != 1999 {
					t.Fatalf("the sidecar may do %+v", s)
				}
			case RedirectContainer:
				if !slices.Equal(c.SecurityContext.Capabilities.Add, []corev1.Capability{"NET_ADMIN"}) || *c.SecurityContext.AllowPrivilegeEscalation {
					t.Fatalf("the redirect may do %+v", c.SecurityContext)
				}
			default:
				alone := redirected || !native && slices.Contains(init, c.Name) // it has no use for an environment
				if !alone {
					c.Env = was[c.Name].Env
				}
				if w := was[c.Name]; len(w.Env) > 0 || len(c.Env) > 0 || alone {
					if !reflect.DeepEqual(w, c) {
						t.Fatalf("%s became %+v", c.Name, c)
					}
				}
			}
		}
		asked := false
		for _, a := range amounts() {
			_, ok := before.Annotations[a.key]
			asked = asked || ok
		}
		if was, is := qosClass(&before), qosClass(&after); was != is && !asked {
			t.Fatalf("the class was %s and is %s", was, is)
		}
		for _, level := range []api.Level{api.LevelRestricted, api.LevelBaseline} {
			if !redirected && passes(level, &before) && !passes(level, &after) {
				t.Fatalf("the pod no longer passes Pod Security %s", level)
			}
		}
		var shared []string
		for _, v := range after.Spec.Volumes {
			if v.EmptyDir != nil {
				shared = append(shared, v.Name)
			}
		}
		if len(shared) != len(before.Spec.Volumes) {
			t.Fatalf("volumes on the node: %q", shared)
		}
	})
}
