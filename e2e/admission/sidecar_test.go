//go:build e2e

package admission

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/webhook"
	"github.com/tulle-mesh/tulle/webhook/serving"
)

// dryCreate has the API server judge a pod as if it were created, with unknown fields for errors, and returns what it
// would have stored.
func dryCreate(t *testing.T, ns string, raw []byte) (*corev1.Pod, error) {
	t.Helper()
	var pod corev1.Pod
	err := api.Client().CoreV1().RESTClient().Post().Namespace(ns).Resource("pods").SetHeader("Content-Type", "application/json").
		Param("dryRun", "All").Param("fieldValidation", "Strict").Body(raw).Do(t.Context()).Into(&pod)
	return &pod, err
}

// sidecarPods are pods of every kind that a sidecar must fit.
func sidecarPods() map[string]string {
	return map[string]string{
		"bare":       `{containers: [{name: app, image: i}]}`,
		"burstable":  `{containers: [{name: app, image: i, resources: {requests: {cpu: 100m}}}]}`,
		"guaranteed": `{containers: [{name: app, image: i, resources: {limits: {cpu: "1", memory: 1Gi}}}, {name: b, image: i, resources: {limits: {cpu: 100m, memory: 1Gi}}}]}`,
		"guaranteed with init containers": `{initContainers: [{name: one, image: i, resources: {limits: {cpu: "1", memory: 1Gi}}},
			{name: two, image: i, restartPolicy: Always, resources: {limits: {cpu: "1", memory: 1Gi}}}],
			containers: [{name: app, image: i, resources: {limits: {cpu: "1", memory: 1Gi}}}]}`,
		"resources of the pod":     `{resources: {requests: {cpu: 100m, memory: 128Mi}, limits: {cpu: "1", memory: 128Mi}}, containers: [{name: app, image: i, resources: {requests: {cpu: 100m, memory: 128Mi}}}]}`,
		"the pod's are guaranteed": `{resources: {limits: {cpu: "1", memory: 1Gi}}, containers: [{name: app, image: i}]}`,
		"ends":                     `{restartPolicy: Never, terminationGracePeriodSeconds: 0, containers: [{name: app, image: i}]}`,
		"probes and hooks": `{containers: [{name: app, image: i, ports: [{name: web, containerPort: 8080}, {containerPort: 9000, hostPort: 9000, protocol: UDP}],
			startupProbe: {httpGet: {port: web}}, readinessProbe: {grpc: {port: 8082}}, livenessProbe: {tcpSocket: {port: 8081}},
			lifecycle: {preStop: {sleep: {seconds: 1}}}}]}`,
		"strict": `{securityContext: {runAsNonRoot: true, runAsUser: 1000, fsGroup: 2000, seccompProfile: {type: RuntimeDefault}}, imagePullSecrets: [{name: mine}],
			containers: [{name: app, image: i, securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}}]}`,
		"shared processes": `{shareProcessNamespace: true, hostUsers: false, hostAliases: [{ip: 10.0.0.1, hostnames: [a]}], volumes: [{name: v, emptyDir: {}}],
			containers: [{name: app, image: i, volumeMounts: [{name: v, mountPath: /v}], env: [{name: no_proxy, value: corp}]}]}`,
	}
}

// TestSidecarsAreAccepted: whatever the pod and the form of its sidecar, the API server takes the result, knows every
// field in it, and gives it the class that the pod had.
func TestSidecarsAreAccepted(t *testing.T) {
	ns := namespace(t, nil)
	for form, f := range map[string]struct {
		native      bool
		annotations map[string]any
		ids         string // of OpenShift
	}{
		"native":             {true, nil, ""},
		"classic":            {false, nil, "1000700000/10000"},
		"native, redirect":   {true, map[string]any{webhook.AnnotationCapture: "redirect", webhook.AnnotationSkipPorts: "25,8000-8099", webhook.AnnotationOpaquePorts: "3306"}, "1000700000/10000"},
		"classic, redirect":  {false, map[string]any{webhook.AnnotationCapture: "redirect"}, ""},
		"with some requests": {true, map[string]any{webhook.AnnotationCPURequest: "15m", webhook.AnnotationMemoryLimit: "64Mi"}, ""},
	} {
		for name, spec := range sidecarPods() {
			t.Run(form+"/"+name, func(t *testing.T) {
				fields := map[string]any{"serviceAccountName": "default"} // which no admission plugin adds here
				if err := yaml.Unmarshal([]byte(spec), &fields); err != nil {
					t.Fatal(err)
				}
				annotations := map[string]any{"kept": "x"}
				maps.Copy(annotations, f.annotations)
				pod, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"generateName": "p-", "annotations": annotations},
					"spec": fields})
				if err != nil {
					t.Fatal(err)
				}
				before, err := dryCreate(t, ns, pod)
				if err != nil {
					t.Fatalf("without a sidecar: %v", err)
				}
				res, err := webhook.Inject(pod, webhook.Namespace{Name: ns, Labels: map[string]string{webhook.LabelInject: webhook.NamespaceEnabled},
					Annotations: map[string]string{"openshift.io/sa.scc.uid-range": f.ids}}, webhook.Config{
					DefaultMode: webhook.ModeSidecar, NativeSidecar: &f.native, ImagePullSecrets: []string{"mesh"}, MemoryLimit: "256Mi",
					ProxyImage: "tulle.dev/tulle-proxy:dev", ControllerURL: "https://tulle-controller.tulle.svc:4181",
					ControllerCA: roots})
				if err != nil || res.Reason != webhook.InjectedSidecar {
					t.Fatalf("%s: %s, %v", res.Reason, res.Message, err)
				}
				patch, err := jsonpatch.DecodePatch(res.Patch)
				if err != nil {
					t.Fatal(err)
				}
				patched, err := patch.Apply(pod)
				if err != nil {
					t.Fatal(err)
				}
				after, err := dryCreate(t, ns, patched)
				if strings.Contains(name, "resources of the pod") && f.annotations[webhook.AnnotationCPURequest] != nil {
					// What all containers ask for is more than the pod does then, and the API server says so.
					if err == nil || !strings.Contains(err.Error(), "spec.resources.requests") {
						t.Errorf("more is asked for than the pod has: %v", err)
					}
					return
				}
				if err != nil {
					t.Fatalf("with a sidecar: %v", err)
				}
				// Who asks for resources may get another class: also where only the pod has limits, as its requests are then
				// made of those of its containers.
				asked := f.annotations[webhook.AnnotationCPURequest] != nil
				if was, is := before.Status.QOSClass, after.Status.QOSClass; was != is && !(asked && (was == corev1.PodQOSBestEffort || name == "the pod's are guaranteed")) {
					t.Errorf("the class was %s and is %s", was, is)
				}
				if n := len(after.Spec.Containers) + len(after.Spec.InitContainers) - len(before.Spec.Containers) - len(before.Spec.InitContainers); n != 1 && f.annotations[webhook.AnnotationCapture] == nil {
					t.Errorf("%d containers were added", n)
				}
			})
		}
	}
}

// TestSidecarsWithinLimits: what else admits pods in a cluster agrees with a sidecar. A LimitRange gives the containers that
// come without resources some, before us and after us; Pod Security judges what comes out.
func TestSidecarsWithinLimits(t *testing.T) {
	m := install(t, values("self"))
	m.start(t, "one", serving.Config{Settle: 10 * time.Millisecond})
	labels := map[string]string{webhook.LabelInject: webhook.NamespaceEnabled, webhook.LabelMode: "sidecar"}
	create := func(t *testing.T, ns string, capture string) (*corev1.Pod, error) {
		t.Helper()
		pod := app()
		pod.Spec.ServiceAccountName = "default"
		pod.Annotations = map[string]string{webhook.AnnotationCapture: capture}
		return api.Client().CoreV1().Pods(ns).Create(t.Context(), pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict})
	}
	probe := namespace(t, labels)
	await(t, "the first admission", func(context.Context) (bool, string) {
		_, err := create(t, probe, "env")
		return err == nil, fmt.Sprint(err)
	})

	amount := func(cpu, memory string) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
	}
	for name, limits := range map[string]corev1.LimitRangeItem{
		"guaranteed": {Default: amount("500m", "512Mi")},
		"burstable":  {Default: amount("500m", "512Mi"), DefaultRequest: amount("50m", "64Mi")},
		"requests":   {DefaultRequest: amount("50m", "64Mi")},
	} {
		limits.Type = corev1.LimitTypeContainer
		plain, meshed := namespace(t, nil), namespace(t, labels)
		for _, ns := range []string{plain, meshed} {
			if _, err := api.Client().CoreV1().LimitRanges(ns).Create(t.Context(), &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Name: "limits"},
				Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{limits}}}, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		for _, capture := range []string{"env", "redirect"} {
			before, err := create(t, plain, capture)
			if err != nil {
				t.Fatal(err)
			}
			await(t, "the API server to see the limits", func(context.Context) (bool, string) { // its cache is behind for a moment
				before, err = create(t, plain, capture)
				return err == nil && len(before.Spec.Containers[0].Resources.Requests) > 0, fmt.Sprint(err)
			})
			var after *corev1.Pod
			await(t, "the API server to see the other limits", func(context.Context) (bool, string) {
				after, err = create(t, meshed, capture)
				return err == nil && len(after.Spec.Containers[0].Resources.Requests) > 0, fmt.Sprint(err)
			})
			if before.Status.QOSClass != after.Status.QOSClass {
				t.Errorf("%s, %s: the class is %s, and %s with a sidecar", name, capture, before.Status.QOSClass, after.Status.QOSClass)
			}
			if n := len(after.Spec.InitContainers); after.Spec.InitContainers[0].Name != webhook.ProxyContainer || n > 2 || (n == 2) != (capture == "redirect") {
				t.Errorf("%s, %s: %d init containers", name, capture, n)
			}
		}
	}

	strict := maps.Clone(labels)
	strict["pod-security.kubernetes.io/enforce"] = "restricted"
	ns := namespace(t, strict)
	if _, err := create(t, ns, "env"); err != nil {
		t.Errorf("in a restricted namespace: %v", err)
	}
	if _, err := create(t, ns, "redirect"); err == nil || !strings.Contains(err.Error(), "needs an init container with NET_ADMIN") || !strings.Contains(err.Error(), "leave the annotation tulle.dev/capture out") {
		t.Errorf("a redirect in a restricted namespace: %v", err)
	}
}
