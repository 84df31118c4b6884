package drift

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"
	"time"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/tulle-mesh/tulle/webhook"
)

const roots = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n"

func injectorConfig() webhook.Config {
	return webhook.Config{ProxyImage: "proxy:1", ControllerURL: "https://tulle-controller.tulle.svc:4181", ControllerCA: roots}
}

func shop(value string) webhook.Namespace {
	return webhook.Namespace{Name: "shop", Labels: map[string]string{webhook.LabelInject: value}}
}

// plain returns a pod of a replica set of a Deployment.
func plain(namespace, deployment, name string) *corev1.Pod {
	yes := true
	pod := &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(namespace + "/" + name), CreationTimestamp: metav1.Now()},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "app"}}},
	}
	if deployment != "" {
		pod.Labels = map[string]string{"pod-template-hash": "5f6d"}
		pod.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: deployment + "-5f6d", UID: types.UID("rs-" + deployment), Controller: &yes}}
	}
	return pod
}

// inject injects a pod as the webhook does.
func inject(t testing.TB, pod *corev1.Pod, ns webhook.Namespace, cfg webhook.Config) *corev1.Pod {
	t.Helper()
	raw, err := json.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	res, err := webhook.Inject(raw, ns, cfg)
	if err != nil {
		t.Fatal(err)
	}
	p, err := jsonpatch.DecodePatch(res.Patch)
	if err != nil {
		t.Fatalf("%s: %v", res.Reason, err)
	}
	if raw, err = p.Apply(raw); err != nil {
		t.Fatal(err)
	}
	injected := &corev1.Pod{}
	if err := json.Unmarshal(raw, injected); err != nil {
		t.Fatal(err)
	}
	return injected
}

func TestJudge(t *testing.T) {
	cfg, ns := injectorConfig(), shop("enabled")
	annotated := func(key, value string) *corev1.Pod {
		p := plain("shop", "web", "web-1")
		p.Annotations = map[string]string{key: value}
		return p
	}
	in := func(mode string) *corev1.Pod { return inject(t, annotated(webhook.AnnotationMode, mode), ns, cfg) }
	change := func(p *corev1.Pod, how func(*corev1.Pod)) *corev1.Pod { how(p); return p }
	other := cfg
	other.ProxyImage = "proxy:2"
	ports := cfg
	ports.OutgoingPort = 4440
	sidecars := shop("enabled")
	sidecars.Labels = maps.Clone(sidecars.Labels)
	sidecars.Labels[webhook.LabelMode] = "sidecar"
	none := shop("enabled")
	none.Labels = maps.Clone(none.Labels)
	none.Labels[webhook.LabelMode] = "none"
	for name, c := range map[string]struct {
		pod        *corev1.Pod
		ns         webhook.Namespace
		cfg        webhook.Config
		kind       Kind
		says       string
		repairable bool
	}{
		"host, as it should be":                      {in("host"), ns, cfg, "", "", true},
		"sidecar, as it should be":                   {in("sidecar"), ns, cfg, "", "", true},
		"best-effort":                                {in("sidecar"), shop("best-effort"), cfg, "", "", true},
		"escaped":                                    {plain("shop", "web", "web-1"), ns, cfg, Escaped, "mode host", true},
		"escaped, best-effort":                       {plain("shop", "web", "web-1"), shop("best-effort"), cfg, Escaped, "mode host", true},
		"escaped, for a sidecar":                     {plain("shop", "web", "web-1"), sidecars, cfg, Escaped, "mode sidecar", true},
		"escaped, without controller":                {plain("shop", "", "web-1"), ns, cfg, Escaped, "mode host", false},
		"escaped, and would be refused":              {annotated(webhook.AnnotationMode, "ambient"), ns, cfg, Escaped, "would be refused", false},
		"opted out":                                  {change(plain("shop", "web", "web-1"), func(p *corev1.Pod) { p.Labels[webhook.LabelInject] = "false" }), ns, cfg, "", "", true},
		"opted out since":                            {change(in("host"), func(p *corev1.Pod) { p.Labels[webhook.LabelInject] = "false" }), ns, cfg, "", "", true},
		"mode none":                                  {annotated(webhook.AnnotationMode, "none"), ns, cfg, "", "", true},
		"mirror of a static pod":                     {annotated(corev1.MirrorPodAnnotationKey, "x"), ns, cfg, "", "", true},
		"Windows":                                    {change(plain("shop", "web", "web-1"), func(p *corev1.Pod) { p.Spec.OS = &corev1.PodOS{Name: corev1.Windows} }), ns, cfg, "", "", true},
		"host network, for a sidecar":                {change(plain("shop", "web", "web-1"), func(p *corev1.Pod) { p.Spec.HostNetwork = true }), sidecars, cfg, "", "", true},
		"not enabled":                                {plain("shop", "web", "web-1"), shop("disabled"), cfg, "", "", true},
		"image of the proxy":                         {in("sidecar"), ns, other, Stale, "would be another one", true},
		"image of the proxy, no matter in host mode": {in("host"), ns, other, "", "", true},
		"port of the proxy":                          {in("host"), ns, ports, Stale, "would be another one", true},
		"mode of the namespace":                      {inject(t, plain("shop", "web", "web-1"), ns, cfg), sidecars, cfg, Stale, "its mode is host, and would be sidecar", true},
		"namespace is to be none":                    {inject(t, plain("shop", "web", "web-1"), ns, cfg), none, cfg, Stale, "would not be (mode_none)", true},
		"would be refused now":                       {change(in("host"), func(p *corev1.Pod) { p.Annotations[webhook.AnnotationMode] = "x" }), ns, cfg, Stale, "would be refused", false},
		"another version's": {change(in("host"), func(p *corev1.Pod) {
			p.Annotations[webhook.AnnotationStatus] = strings.Replace(p.Annotations[webhook.AnnotationStatus], `"version":"v2"`, `"version":"v1"`, 1)
		}), ns, cfg, Stale, "another version", true},
		"a status that is copied": {change(plain("shop", "web", "web-1"), func(p *corev1.Pod) {
			p.Annotations = map[string]string{webhook.AnnotationStatus: in("sidecar").Annotations[webhook.AnnotationStatus]}
		}), ns, cfg, Escaped, "outside of the mesh", true},
		"what Kubernetes adds is no matter": {change(in("sidecar"), func(p *corev1.Pod) {
			p.Spec.NodeName, p.Spec.ServiceAccountName = "node-1", "default"
			p.Spec.Tolerations = []corev1.Toleration{{Key: "node.kubernetes.io/not-ready", Operator: corev1.TolerationOpExists}}
			p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "kube-api-access-x"})
			for i := range p.Spec.Containers {
				p.Spec.Containers[i].VolumeMounts = append(p.Spec.Containers[i].VolumeMounts, corev1.VolumeMount{Name: "kube-api-access-x", MountPath: "/x"})
			}
		}), ns, cfg, "", "", true},
	} {
		t.Run(name, func(t *testing.T) {
			v, err := judge(c.pod, c.ns, c.cfg)
			if err != nil {
				t.Fatal(err)
			}
			pod := entryOf(c.pod, v).finding()
			if v.kind != c.kind || !strings.Contains(v.message, c.says) || pod.Repairable() != c.repairable {
				t.Errorf("got %q (%s): %q, repairable %v", v.kind, v.reason, v.message, pod.Repairable())
			}
			if c.kind == "" && v.message != "" {
				t.Errorf("says %q", v.message)
			}
		})
	}
}

// The injector sees past an injection: it answers for the pod that carries one what it answers for the pod without.
func TestAsUninjected(t *testing.T) {
	no := false
	classic := injectorConfig()
	classic.NativeSidecar = &no
	for name, c := range map[string]struct {
		cfg         webhook.Config
		annotations map[string]string
	}{
		"host":            {injectorConfig(), map[string]string{webhook.AnnotationMode: "host"}},
		"sidecar":         {injectorConfig(), map[string]string{webhook.AnnotationMode: "sidecar"}},
		"classic sidecar": {classic, map[string]string{webhook.AnnotationMode: "sidecar"}},
		"redirect":        {injectorConfig(), map[string]string{webhook.AnnotationMode: "sidecar", webhook.AnnotationCapture: webhook.CaptureRedirect}},
	} {
		t.Run(name, func(t *testing.T) {
			pod := plain("shop", "web", "web-1")
			pod.Annotations = c.annotations
			raw, err := json.Marshal(inject(t, pod, shop("enabled"), c.cfg))
			if err != nil {
				t.Fatal(err)
			}
			patch, err := webhook.Uninject(raw)
			if err != nil {
				t.Fatal(err)
			}
			p, err := jsonpatch.DecodePatch(patch)
			if err != nil {
				t.Fatal(err)
			}
			bare, err := p.Apply(raw)
			if err != nil {
				t.Fatal(err)
			}
			next := c.cfg
			next.OutgoingPort, next.ProxyImage = 4440, "proxy:2"
			for _, cfg := range []webhook.Config{c.cfg, next} {
				with, err := webhook.Inject(raw, shop("enabled"), cfg)
				if err != nil {
					t.Fatal(err)
				}
				without, err := webhook.Inject(bare, shop("enabled"), cfg)
				if err != nil || with.Hash != without.Hash || with.Hash == "" {
					t.Errorf("%s (%s) and %s (%s), %v", with.Hash, with.Reason, without.Hash, without.Reason, err)
				}
			}
		})
	}
}

func TestList(t *testing.T) {
	cfg := injectorConfig()
	cfg.ExcludedNamespaces = []string{"old"}
	label := func(name, value string) *corev1.Namespace {
		n := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if value != "" {
			n.Labels = map[string]string{webhook.LabelInject: value}
		}
		return n
	}
	done, going := plain("shop", "web", "done"), plain("shop", "web", "going")
	done.Status.Phase = corev1.PodSucceeded
	going.DeletionTimestamp = &metav1.Time{Time: time.Now()}
	going.Finalizers = []string{"x.test/y"}
	client := fake.NewClientset(
		label("shop", "enabled"), label("try", "best-effort"), label("other", ""), label("off", "disabled"), label("old", "enabled"), label("kube-system", "enabled"),
		plain("shop", "web", "web-2"), plain("shop", "web", "web-1"), inject(t, plain("shop", "web", "fine"), shop("enabled"), cfg), done, going,
		plain("try", "", "bare"), plain("other", "web", "web-1"), plain("off", "web", "web-1"), plain("old", "web", "web-1"), plain("kube-system", "web", "web-1"),
	)
	pods, err := List(t.Context(), client, cfg)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range pods {
		got = append(got, p.Namespace+"/"+p.Name+" "+string(p.Kind)+" "+p.Owner.String())
	}
	if want := "shop/web-1 Escaped deployment/web, shop/web-2 Escaped deployment/web, try/bare Escaped "; strings.Join(got, ", ") != want {
		t.Errorf("got %s", strings.Join(got, ", "))
	}
}
