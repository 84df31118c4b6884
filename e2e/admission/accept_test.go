//go:build e2e

package admission

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/rest"
	"pgregory.net/rapid"

	"github.com/tulle-mesh/tulle/webhook"
)

// The API server takes whatever the injector makes of a pod that it takes, with the strictest validation there is; of
// what it gives back, defaults and all, the injector has nothing to add, and finds back to the pod that was there.
func TestAPIServerAcceptsEveryInjection(t *testing.T) {
	ns := namespace(t, nil) // without the webhook: the test injects
	accepted := map[webhook.Mode]int{}
	rapid.Check(t, func(t *rapid.T) {
		raw, err := json.Marshal(genPod(t))
		if err != nil {
			t.Fatal(err)
		}
		plain, err := dryRun(ns, raw)
		if err != nil {
			t.Skip("the API server does not take the pod as it is: ", err)
		}
		where := webhook.Namespace{Name: ns, Labels: map[string]string{
			webhook.LabelInject: webhook.NamespaceEnabled,
			webhook.LabelMode:   rapid.SampledFrom([]string{"host", "sidecar"}).Draw(t, "mode")}}
		cfg := webhook.Config{
			ProxyImage: "tulle.dev/tulle-proxy:dev", ControllerURL: "https://tulle-controller.tulle.svc:4181",
			ControllerCA:     "-----BEGIN CERTIFICATE-----\nMAo=\n-----END CERTIFICATE-----\n",
			HostAddress:      rapid.SampledFrom([]string{"hostIP", "hostIPv6", "nodeName", "service"}).Draw(t, "host address"),
			HostService:      "tulle-host.tulle.svc",
			SidecarAddress:   rapid.SampledFrom([]string{"", "$(TULLE_POD_IP)"}).Draw(t, "sidecar address"),
			NativeSidecar:    rapid.SampledFrom([]*bool{nil, new(false)}).Draw(t, "native"),
			ImagePullSecrets: rapid.SampledFrom([][]string{nil, {"mesh", "mine"}}).Draw(t, "pull secrets"),
			MemoryLimit:      rapid.SampledFrom([]string{"", "256Mi"}).Draw(t, "memory"),
		}
		// What comes to a webhook has its defaults already.
		res, err := webhook.Inject(plain, where, cfg)
		if err != nil {
			t.Fatal(err)
		}
		if res.Patch == nil {
			return
		}
		injected, err := dryRun(ns, patched(t, plain, res.Patch))
		if err != nil {
			t.Fatalf("the API server does not take what %s made of it: %v\n%s", res.Reason, err, res.Patch)
		}
		accepted[res.Mode]++
		if again, err := webhook.Inject(injected, where, cfg); err != nil || again.Reason != webhook.AlreadyInjected || again.Patch != nil {
			t.Fatalf("with its defaults the pod is %s, %v: %s", again.Reason, err, again.Patch)
		}
		undo, err := webhook.Uninject(injected)
		if err != nil {
			t.Fatal(err)
		}
		back, err := dryRun(ns, patched(t, injected, undo))
		if err != nil {
			t.Fatalf("the API server does not take what was undone: %v\n%s", err, undo)
		}
		if diff := cmp.Diff(comparable(t, plain), comparable(t, back)); diff != "" {
			t.Fatalf("(-before +after)\n%s\n%s", diff, res.Patch)
		}
	})
	if accepted[webhook.ModeHost] == 0 || accepted[webhook.ModeSidecar] == 0 {
		t.Errorf("injected %v", accepted)
	}
}

// dryRun has the API server judge a pod, and returns it as it would be stored.
func dryRun(namespace string, pod []byte) ([]byte, error) {
	body, err := api.Client().CoreV1().RESTClient().Post().WarningHandler(rest.NoWarnings{}).Namespace(namespace).Resource("pods").
		Param("dryRun", metav1.DryRunAll).Param("fieldValidation", metav1.FieldValidationStrict).
		SetHeader("Content-Type", "application/json").SetHeader("Accept", "application/json").Body(pod).Do(context.Background()).Raw()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, body) // which has the API server's own words
	}
	return body, nil
}

func patched(t *rapid.T, pod, patch []byte) []byte {
	p, err := jsonpatch.DecodePatch(patch)
	if err != nil {
		t.Fatalf("%v: %s", err, patch)
	}
	out, err := p.Apply(pod)
	if err != nil {
		t.Fatalf("%v: %s", err, patch)
	}
	return out
}

// comparable is what of a pod must be the same.
func comparable(t *rapid.T, pod []byte) any {
	var p corev1.Pod
	if err := json.Unmarshal(pod, &p); err != nil {
		t.Fatal(err)
	}
	return []any{p.Labels, p.Annotations, p.Spec}
}

func genPod(t *rapid.T) *corev1.Pod {
	sometimes := func(what string) bool { return rapid.IntRange(0, 2).Draw(t, what) == 0 }
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "p-", Labels: map[string]string{"app": "web"}}}
	p.APIVersion, p.Kind = "v1", "Pod"
	p.Spec.AutomountServiceAccountToken = new(false) // its volume has another name each time
	p.Spec.ServiceAccountName = "default"            // as the admission plugin says that this API server does without
	p.Spec.RestartPolicy = rapid.SampledFrom([]corev1.RestartPolicy{"", "Never", "OnFailure"}).Draw(t, "restarts")
	p.Spec.HostNetwork = rapid.IntRange(0, 5).Draw(t, "host network") == 0
	if sometimes("pull secret") {
		p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "mine"}}
	}
	if sometimes("volume") {
		p.Spec.Volumes = []corev1.Volume{{Name: "cache", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	}
	if sometimes("security") {
		p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: new(int64(1000)), FSGroup: new(int64(2000))}
	}
	p.Annotations = map[string]string{}
	for key, values := range map[string][]string{
		webhook.AnnotationOnConflict:              {webhook.ConflictChain, webhook.ConflictOverride, webhook.ConflictLeave},
		webhook.AnnotationSkipContainers:          {"app0", "init0"},
		webhook.AnnotationCapture:                 {webhook.CaptureEnv, webhook.CaptureRedirect},
		webhook.AnnotationSkipPorts:               {"25,9000-9100"},
		webhook.AnnotationAdminPort:               {"9991"},
		webhook.AnnotationCPULimit:                {"500m"},
		webhook.AnnotationMemoryLimit:             {"128Mi"},
		"kubectl.kubernetes.io/default-container": {"app0"},
	} {
		if rapid.IntRange(0, 4).Draw(t, "has "+key) == 0 {
			p.Annotations[key] = rapid.SampledFrom(values).Draw(t, key)
		}
	}
	if p.Annotations[webhook.AnnotationCapture] == "" {
		delete(p.Annotations, webhook.AnnotationSkipPorts)
	}
	for i := range rapid.IntRange(0, 2).Draw(t, "init containers") {
		c := genContainer(t, fmt.Sprint("init", i))
		if sometimes("is a sidecar") {
			c.RestartPolicy = new(corev1.ContainerRestartPolicyAlways)
		}
		p.Spec.InitContainers = append(p.Spec.InitContainers, c)
	}
	for i := range rapid.IntRange(1, 3).Draw(t, "containers") {
		c := genContainer(t, fmt.Sprint("app", i))
		if sometimes("probe") {
			c.ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(8080)}}}
		}
		if !p.Spec.HostNetwork && sometimes("port") {
			c.Ports = []corev1.ContainerPort{{Name: "http", ContainerPort: int32(8080 + i)}}
		}
		p.Spec.Containers = append(p.Spec.Containers, c)
	}
	return p
}

func genContainer(t *rapid.T, name string) corev1.Container {
	c := corev1.Container{Name: name, Image: "app:1"}
	field := func(path string) *corev1.EnvVarSource {
		return &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}
	}
	secret := &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "s"}, Key: "k"}}
	entries := []corev1.EnvVar{
		{Name: "A", Value: "$(NODE_NAME)"}, {Name: "A", Value: "twice"}, {Name: "B", ValueFrom: secret}, {Name: "EMPTY"},
		{Name: "NODE_NAME", ValueFrom: field("spec.nodeName")}, {Name: "NODE_NAME", Value: "mine"}, {Name: "TULLE_HOST_IP", ValueFrom: field("status.hostIP")},
		{Name: "http_proxy", Value: "http://corp.example:3128"}, {Name: "HTTP_PROXY", Value: "http://user:secret@corp.example:3128/"},
		{Name: "http_proxy", ValueFrom: secret}, {Name: "HTTP_PROXY", Value: "http://$(TULLE_HOST_IP):4140"},
		{Name: "no_proxy", Value: "10.0.0.0/8, .corp.example"}, {Name: "NO_PROXY", Value: "$(A)"}, {Name: "NO_PROXY", ValueFrom: secret}, {Name: "ALL_PROXY", Value: "x"},
	}
	for _, i := range rapid.SliceOfN(rapid.IntRange(0, len(entries)-1), 0, 7).Draw(t, "env") {
		c.Env = append(c.Env, entries[i])
	}
	if rapid.IntRange(0, 3).Draw(t, "env from") == 0 {
		c.EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "proxy-settings"}}}}
	}
	if rapid.IntRange(0, 2).Draw(t, "resources") == 0 {
		list := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("64Mi")}
		c.Resources = corev1.ResourceRequirements{Requests: list}
		if rapid.Bool().Draw(t, "guaranteed") {
			c.Resources.Limits = list
		}
	}
	c.Env = slices.Clip(c.Env)
	return c
}
