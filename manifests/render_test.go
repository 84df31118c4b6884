package manifests_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	certmanager "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	"github.com/google/go-cmp/cmp"
	admission "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/manifests"
)

// parse decodes YAML documents strictly: an unknown or a repeated field is an error.
func parse(t *testing.T, text []byte) []runtime.Object {
	t.Helper()
	types := runtime.NewScheme()
	if err := errors.Join(scheme.AddToScheme(types), certmanager.AddToScheme(types)); err != nil {
		t.Fatal(err)
	}
	decoder := serializer.NewCodecFactory(types, serializer.EnableStrict).UniversalDeserializer()
	var objects []runtime.Object
	for _, doc := range bytes.Split(append([]byte("\n"), text...), []byte("\n---\n")) {
		var content any
		if err := yaml.Unmarshal(doc, &content); err != nil || content == nil {
			if err != nil {
				t.Fatalf("%v in\n%s", err, doc)
			}
			continue
		}
		if fields, ok := content.(map[string]any); ok && fields["kind"] == "CustomResourceDefinition" {
			// Its types are a module that nothing else needs; the API server itself reads it in e2e.
			objects = append(objects, &unstructured.Unstructured{Object: fields})
			continue
		}
		object, _, err := decoder.Decode(doc, nil, nil)
		if err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		objects = append(objects, object)
	}
	return objects
}

func render(t *testing.T, namespace string, values map[string]any) []runtime.Object {
	t.Helper()
	text, err := manifests.Render(namespace, values)
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, text)
}

// all returns the objects of one type by name.
func all[T any, P interface {
	*T
	metav1.Object
}](objects []runtime.Object) map[string]P {
	found := map[string]P{}
	for _, o := range objects {
		if p, ok := o.(P); ok {
			found[p.GetName()] = p
		}
	}
	return found
}

func TestRenderedObjects(t *testing.T) {
	objects := render(t, "tulle", nil)
	var got []string
	for _, o := range objects {
		got = append(got, o.GetObjectKind().GroupVersionKind().Kind+" "+o.(metav1.Object).GetName())
		switch o.(type) {
		case *unstructured.Unstructured, *corev1.Namespace, *rbacv1.ClusterRole, *rbacv1.ClusterRoleBinding, *admission.MutatingWebhookConfiguration:
		default:
			if ns := o.(metav1.Object).GetNamespace(); ns != "tulle" && (ns != "tulle-probe" || o.(metav1.Object).GetName() != "tulle-probe") {
				t.Errorf("%s is in namespace %q", got[len(got)-1], ns)
			}
		}
	}
	want := []string{
		"Namespace tulle", "Namespace tulle-probe", "CustomResourceDefinition dtabs.l5d.io", "ServiceAccount tulle-controller", "ServiceAccount tulle-host",
		"ClusterRole tulle-controller", "ClusterRole tulle-dtab-editor", "ClusterRole tulle-dtab-viewer",
		"ClusterRoleBinding tulle-controller", "Role tulle-controller", "Role tulle-probe", "RoleBinding tulle-controller", "RoleBinding tulle-probe",
		"Issuer tulle-mesh", "Issuer tulle-selfsigned", "Certificate tulle-bundle", "Certificate tulle-ca", "Certificate tulle-controller",
		"ConfigMap tulle-controller", "ConfigMap tulle-policy",
		"Service tulle-controller", "Service tulle-host", "PodDisruptionBudget tulle-controller", "Deployment tulle-controller", "DaemonSet tulle-host",
		"MutatingWebhookConfiguration tulle-dtabs", "MutatingWebhookConfiguration tulle-injector",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestRenderIsRepeatable(t *testing.T) {
	values := map[string]any{"dtabs": map[string]any{"b": "/a=>/b", "a": "/c=>/d"}}
	first, err := manifests.Render("tulle", values)
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if again, err := manifests.Render("tulle", values); err != nil || !bytes.Equal(first, again) {
			t.Fatalf("rendered otherwise: %v", err)
		}
	}
	if len(values) != 1 || len(values["dtabs"].(map[string]any)) != 2 {
		t.Errorf("the caller's values became %v", values)
	}
}

// violations returns what a pod template does against a Pod Security level.
func violations(t *testing.T, level api.Level, template corev1.PodTemplateSpec) []string {
	t.Helper()
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, res := range evaluator.EvaluatePod(api.LevelVersion{Level: level, Version: api.LatestVersion()}, &template.ObjectMeta, &template.Spec) {
		if !res.Allowed {
			found = append(found, res.ForbiddenReason)
		}
	}
	return found
}

func TestPodSecurity(t *testing.T) {
	objects := render(t, "tulle", nil)
	if got := violations(t, api.LevelRestricted, all[appsv1.Deployment](objects)["tulle-controller"].Spec.Template); got != nil {
		t.Errorf("the controller's pods are not restricted: %q", got)
	}
	host := all[appsv1.DaemonSet](objects)["tulle-host"].Spec.Template
	if got := violations(t, api.LevelRestricted, host); !slices.Equal(got, []string{"host namespaces"}) {
		t.Errorf("the host proxies break %q; expected the host's network and nothing else", got)
	}
	host.Spec.HostNetwork = false
	if got := violations(t, api.LevelRestricted, host); got != nil {
		t.Errorf("the host proxies break %q beside the host's network", got)
	}
	for _, c := range host.Spec.Containers {
		if len(c.Ports) != 0 {
			t.Error("the host proxies list ports, which the API server reserves on the node")
		}
	}
	if got := all[corev1.Namespace](objects)["tulle"].Labels["pod-security.kubernetes.io/enforce"]; got != "privileged" {
		t.Errorf("the namespace enforces %q", got)
	}
}

// A new host proxy can run beside the old one, and is not taken for ready while
// the old one answers its probes.
func TestHostProxiesAreReplaced(t *testing.T) {
	for handover, want := range map[bool][2]string{true: {"1", "0"}, false: {"0", "1"}} {
		d := all[appsv1.DaemonSet](render(t, "mesh", map[string]any{"host": map[string]any{"handover": handover}}))["tulle-host"]
		update, c := d.Spec.UpdateStrategy.RollingUpdate, d.Spec.Template.Spec.Containers[0]
		surge := "0"
		if update.MaxSurge != nil {
			surge = update.MaxSurge.String()
		}
		if got := [2]string{surge, update.MaxUnavailable.String()}; got != want {
			t.Errorf("handover %v: surge and unavailable are %v, want %v", handover, got, want)
		}
		socket := ""
		for _, e := range c.Env {
			if e.Name == "TULLE_HANDOVER" {
				socket = e.Value
			}
		}
		// Those that are not replaced this way offer their listeners all the same, for when the value changes.
		if socket != "@tulle/mesh" || (c.StartupProbe != nil) != handover || (d.Spec.MinReadySeconds > 0) != handover {
			t.Errorf("handover %v: socket %q, startup probe %v, minReadySeconds %d", handover, socket, c.StartupProbe, d.Spec.MinReadySeconds)
		}
	}
}

// A policy reaches the controller as it is written, numbers included, by a mount
// that is renewed, and without a restart.
func TestPolicy(t *testing.T) {
	want := "server:\n  maxConcurrentRequests: 2000000\n  tunnel: {idleTimeMs: 2592000000}\n"
	objects, without := render(t, "mesh", map[string]any{"policy": want}), render(t, "mesh", nil)
	maps := all[corev1.ConfigMap](objects)
	if got := maps["tulle-policy"].Data["policy.yaml"]; got != want {
		t.Errorf("the policy is %q", got)
	}
	if settings := maps["tulle-controller"].Data["controller.yaml"]; !strings.Contains(settings, "\npolicy: /etc/tulle/policy.yaml\n") {
		t.Errorf("the controller is told of no policy:\n%s", settings)
	}
	pod := all[appsv1.Deployment](objects)["tulle-controller"].Spec.Template
	mount := pod.Spec.Containers[0].VolumeMounts[0]
	sources := pod.Spec.Volumes[0].Projected.Sources
	if mount.MountPath != "/etc/tulle" || mount.SubPath != "" || !slices.ContainsFunc(sources, func(s corev1.VolumeProjection) bool {
		return s.ConfigMap != nil && s.ConfigMap.Name == "tulle-policy" && s.ConfigMap.Items[0].Path == "policy.yaml"
	}) {
		t.Errorf("the policy is not mounted: %v, %v", mount, sources)
	}
	if diff := cmp.Diff(all[appsv1.Deployment](without)["tulle-controller"], all[appsv1.Deployment](objects)["tulle-controller"]); diff != "" {
		t.Errorf("a new policy is a new controller:\n%s", diff)
	}
}

// Names in one object that mean another one.
func TestReferences(t *testing.T) {
	for name, values := range map[string]map[string]any{
		"default": nil,
		"own issuer": {"issuer": map[string]any{"create": false, "name": "corp", "kind": "ClusterIssuer"},
			"imagePullSecrets": []any{map[string]any{"name": "registry"}}},
		"no host proxies": {"host": map[string]any{"enabled": false}},
	} {
		t.Run(name, func(t *testing.T) {
			objects := render(t, "mesh", values)
			secrets := map[string]bool{"registry": true}
			certificates, issuers := all[certmanager.Certificate](objects), all[certmanager.Issuer](objects)
			for _, c := range certificates {
				secrets[c.Spec.SecretName] = true
				if ref := c.Spec.IssuerRef; ref.Kind == "Issuer" && issuers[ref.Name] == nil || ref.Kind != "Issuer" && ref.Name != "corp" {
					t.Errorf("certificate %s is issued by %+v", c.Name, ref)
				}
			}
			for _, i := range issuers {
				if i.Spec.CA != nil && !secrets[i.Spec.CA.SecretName] {
					t.Errorf("issuer %s has no CA", i.Name)
				}
			}
			templates := map[string]corev1.PodTemplateSpec{}
			for _, d := range all[appsv1.Deployment](objects) {
				templates[d.Name] = d.Spec.Template
				checkSelector(t, d.Spec.Selector, d.Spec.Template)
			}
			for _, d := range all[appsv1.DaemonSet](objects) {
				templates[d.Name] = d.Spec.Template
				checkSelector(t, d.Spec.Selector, d.Spec.Template)
			}
			accounts, maps := all[corev1.ServiceAccount](objects), all[corev1.ConfigMap](objects)
			for owner, template := range templates {
				if accounts[template.Spec.ServiceAccountName] == nil {
					t.Errorf("%s runs as %q", owner, template.Spec.ServiceAccountName)
				}
				for _, v := range template.Spec.Volumes {
					for _, s := range v.Projected.Sources {
						if s.Secret != nil && !secrets[s.Secret.Name] {
							t.Errorf("%s mounts secret %q", owner, s.Secret.Name)
						}
						if s.ConfigMap != nil && maps[s.ConfigMap.Name] == nil {
							t.Errorf("%s mounts config map %q", owner, s.ConfigMap.Name)
						}
					}
				}
			}
			service := all[corev1.Service](objects)["tulle-controller"]
			checkService(t, service, templates)
			dns := certificates["tulle-controller"].Spec.DNSNames
			hook := all[admission.MutatingWebhookConfiguration](objects)["tulle-injector"].Webhooks[0].ClientConfig.Service
			if !slices.Contains(dns, hook.Name+"."+hook.Namespace+".svc") || hook.Name != service.Name || *hook.Port != 443 {
				t.Errorf("the webhook calls %+v, the certificate is for %v", hook, dns)
			}
		})
	}
}

func checkSelector(t *testing.T, s *metav1.LabelSelector, template corev1.PodTemplateSpec) {
	t.Helper()
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil || selector.Empty() || !selector.Matches(labels.Set(template.Labels)) {
		t.Errorf("selector %v does not select its own pods, %v: %v", selector, template.Labels, err)
	}
}

// checkService sees to it that a Service selects the pods of exactly one owner, at ports they have.
func checkService(t *testing.T, service *corev1.Service, templates map[string]corev1.PodTemplateSpec) {
	t.Helper()
	var owners []string
	for owner, template := range templates {
		if !labels.SelectorFromSet(service.Spec.Selector).Matches(labels.Set(template.Labels)) {
			continue
		}
		owners = append(owners, owner)
		for _, port := range service.Spec.Ports {
			if !slices.ContainsFunc(template.Spec.Containers, func(c corev1.Container) bool {
				return slices.ContainsFunc(c.Ports, func(p corev1.ContainerPort) bool {
					return p.Name == port.TargetPort.StrVal || p.ContainerPort == port.TargetPort.IntVal
				})
			}) {
				t.Errorf("service %s: %s has no port %s", service.Name, owner, port.TargetPort.String())
			}
		}
	}
	if len(owners) != 1 {
		t.Errorf("service %s selects the pods of %v", service.Name, owners)
	}
}

func TestPermissions(t *testing.T) {
	objects := render(t, "tulle", nil)
	got := map[string][]string{}
	add := func(where string, rules []rbacv1.PolicyRule) {
		for _, r := range rules {
			for _, res := range r.Resources {
				got[where+" "+res] = append(got[where+" "+res], r.Verbs...)
			}
		}
	}
	for _, r := range all[rbacv1.ClusterRole](objects) {
		where := "cluster"
		if r.Name != "tulle-controller" {
			where = r.Name // for people
		}
		add(where, r.Rules)
	}
	for _, r := range all[rbacv1.Role](objects) {
		add(r.Namespace, r.Rules)
	}
	watch := []string{"get", "list", "watch"}
	want := map[string][]string{
		"cluster nodes":                         watch,
		"cluster mutatingwebhookconfigurations": {"get", "list", "watch", "patch"},
		"tulle secrets":                         {"create", "get", "list", "watch", "update"}, "tulle-probe pods": {"create"},
		"cluster namespaces": watch, "cluster pods": watch, "cluster services": watch, "cluster endpointslices": watch,
		"cluster tokenreviews": {"create"}, "cluster subjectaccessreviews": {"create"},
		"cluster events": {"create", "patch"}, "cluster replicasets": {"get"}, "cluster jobs": {"get"}, "tulle leases": {"create", "get", "update"},
		"tulle certificaterequests": {"create", "get", "list", "watch", "delete"},
		"tulle dtabs":               {"get", "list", "watch", "create", "update", "delete"},
		"tulle dtabs/status":        {"patch"},
		"tulle-dtab-viewer dtabs":   watch,
		"tulle-dtab-editor dtabs":   {"get", "list", "watch", "create", "update", "patch", "delete"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	roles := all[rbacv1.ClusterRole](objects)
	for name, label := range map[string]string{"tulle-dtab-viewer": "view", "tulle-dtab-editor": "edit"} {
		if roles[name].Labels["rbac.authorization.k8s.io/aggregate-to-"+label] != "true" {
			t.Errorf("%s is not part of %s: %v", name, label, roles[name].Labels)
		}
	}
}

// Rights over workloads come only with the wish that pods be repaired.
func TestPermissionsForRepairs(t *testing.T) {
	for _, c := range []struct{ escaped, stale, workloads, evictions string }{
		{"report", "report", "", ""},
		{"evict", "report", "[get]", "[create]"},
		{"report", "restart", "[get patch]", ""},
		{"evict", "restart", "[get patch]", "[create]"},
	} {
		role := all[rbacv1.ClusterRole](render(t, "tulle", map[string]any{"injector": map[string]any{"escaped": c.escaped, "stale": c.stale}}))["tulle-controller"]
		got := map[string]string{}
		for _, r := range role.Rules {
			for _, resource := range r.Resources {
				got[resource] = fmt.Sprint(r.Verbs)
			}
		}
		for _, kind := range []string{"deployments", "statefulsets", "daemonsets"} {
			if got[kind] != c.workloads {
				t.Errorf("%+v: %s: %s", c, kind, got[kind])
			}
		}
		if got["pods/eviction"] != c.evictions {
			t.Errorf("%+v: evictions: %s", c, got["pods/eviction"])
		}
	}
}

// An uninstall must not take everybody's dtabs along, and an upgrade must reach the definition, which Helm's folder crds
// does not allow.
func TestDefinitionOfDtabs(t *testing.T) {
	definition := all[unstructured.Unstructured](render(t, "mesh", nil))["dtabs.l5d.io"]
	if definition == nil || definition.GetAnnotations()["helm.sh/resource-policy"] != "keep" {
		t.Errorf("the definition is %v", definition)
	}
}

// Dtabs are judged in the mesh's namespace alone, and can be repaired while the controller is away.
func TestDtabWebhook(t *testing.T) {
	objects := render(t, "mesh", nil)
	config := all[admission.MutatingWebhookConfiguration](objects)["tulle-dtabs"]
	hook := config.Webhooks[0]
	if len(config.Webhooks) != 1 {
		t.Errorf("the webhook is %+v", config)
	}
	if *hook.FailurePolicy != admission.Ignore || *hook.SideEffects != admission.SideEffectClassNone || *hook.TimeoutSeconds > 5 ||
		*hook.ClientConfig.Service.Path != "/validate-dtab" || hook.ClientConfig.Service.Namespace != "mesh" {
		t.Errorf("the webhook is %+v", hook)
	}
	if got := hook.NamespaceSelector.MatchLabels; !maps.Equal(got, map[string]string{corev1.LabelMetadataName: "mesh"}) {
		t.Errorf("the namespaces are %v", got)
	}
	if rule := hook.Rules[0]; !slices.Equal(rule.Resources, []string{"dtabs"}) || !slices.Equal(rule.Operations, []admission.OperationType{"CREATE", "UPDATE"}) {
		t.Errorf("the rule is %+v", rule)
	}
	account := all[corev1.ServiceAccount](objects)["tulle-controller"]
	if want := "system:serviceaccount:" + account.Namespace + ":" + account.Name; !strings.Contains(hook.MatchConditions[0].Expression, "!= '"+want+"'") {
		t.Errorf("the controller is asked about its own writes: %v", hook.MatchConditions)
	}
}

// Replicas are apart, and no drain takes all of them.
func TestReplicas(t *testing.T) {
	objects := render(t, "mesh", nil)
	controller := all[appsv1.Deployment](objects)["tulle-controller"]
	if n := *controller.Spec.Replicas; n != 2 {
		t.Errorf("%d replicas", n)
	}
	if len(controller.Spec.Template.Spec.TopologySpreadConstraints) != 0 {
		t.Error("a constraint on zones makes the scheduler forget about nodes where these are not known")
	}
	// Preferred, for on one node a second replica would wait for another.
	weights := map[string]int32{}
	for _, apart := range controller.Spec.Template.Spec.Affinity.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution {
		weights[apart.PodAffinityTerm.TopologyKey] = apart.Weight
		checkSelector(t, apart.PodAffinityTerm.LabelSelector, controller.Spec.Template)
	}
	if want := map[string]int32{corev1.LabelHostname: 100, corev1.LabelTopologyZone: 50}; !maps.Equal(weights, want) {
		t.Errorf("kept apart by %v, want %v", weights, want)
	}
	budget := all[policyv1.PodDisruptionBudget](objects)["tulle-controller"].Spec
	checkSelector(t, budget.Selector, controller.Spec.Template)
	if budget.MaxUnavailable.IntValue() != 1 || budget.MinAvailable != nil {
		t.Errorf("the budget is %+v", budget)
	}
}

// Text of the user's ends up as the same text, whatever is in it.
func TestUserText(t *testing.T) {
	const image, dtab = `reg/a:1" # 'b`, "/svc => /host ; # \"quoted\": {{ no template }}\n/host=>/srv"
	const namers = "# a comment\n- kind: io.l5d.k8s\n  prefix: '/edge' # 1.0\n"
	objects := render(t, "tulle", map[string]any{
		"proxy": map[string]any{"image": image}, "dtabs": map[string]any{"internal": dtab}, "namers": namers,
		"injector": map[string]any{"resources": map[string]any{"requests": map[string]any{"cpu": 2}, "limits": map[string]any{"memory": nil}}},
	})
	if got := all[appsv1.DaemonSet](objects)["tulle-host"].Spec.Template.Spec.Containers[0].Image; got != image {
		t.Errorf("the image is %q", got)
	}
	var settings struct {
		Dtabs  map[string]string
		Namers string
		Inject map[string]any
	}
	if err := yaml.Unmarshal([]byte(all[corev1.ConfigMap](objects)["tulle-controller"].Data["controller.yaml"]), &settings); err != nil {
		t.Fatal(err)
	}
	if settings.Dtabs["internal"] != dtab || settings.Dtabs["default"] == "" || settings.Inject["proxy-image"] != image || settings.Namers != namers {
		t.Errorf("the settings are %+v", settings)
	}
	if settings.Inject["proxy-cpu-request"] != "2" || settings.Inject["proxy-memory-limit"] != nil {
		t.Errorf("the sidecar's resources are %v", settings.Inject)
	}
}

// The controller may read the ConfigMaps of the value and no others, in the namespaces that they are in.
func TestConfigMapsOfTheNamer(t *testing.T) {
	objects := render(t, "mesh", map[string]any{"namer": map[string]any{"configMaps": []any{"shop/rules", "l5d/x.v1", "shop/other"}}})
	var got []string
	for _, o := range objects {
		switch o := o.(type) {
		case *rbacv1.Role:
			if o.Name == "tulle-configmaps" {
				got = append(got, fmt.Sprint(o.Namespace, " ", o.Rules))
			}
		case *rbacv1.RoleBinding:
			if o.Name == "tulle-configmaps" {
				got = append(got, fmt.Sprint(o.Namespace, " ", o.RoleRef.Kind, " ", o.RoleRef.Name, " ", o.Subjects[0].Namespace, "/", o.Subjects[0].Name))
			}
		}
	}
	rule := func(names ...string) string {
		return fmt.Sprint([]rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: names, Verbs: []string{"get", "list", "watch"}}})
	}
	want := []string{
		"l5d " + rule("x.v1"), "shop " + rule("rules", "other"),
		"l5d Role tulle-configmaps mesh/tulle-controller", "shop Role tulle-configmaps mesh/tulle-controller",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// New settings must make new pods, because the controller reads them at start.
func TestSettingsRestart(t *testing.T) {
	hash := func(values map[string]any) string {
		return all[appsv1.Deployment](render(t, "tulle", values))["tulle-controller"].Spec.Template.Annotations["tulle.dev/settings-hash"]
	}
	for _, values := range []map[string]any{
		{"dtabs": map[string]any{"default": "/a=>/b"}}, {"namers": "- kind: io.l5d.k8s"}, {"namer": map[string]any{"access": "open"}},
		{"namer": map[string]any{"configMaps": []any{"shop/rules"}}},
	} {
		if hash(nil) == hash(values) {
			t.Errorf("%v leaves the pods as they are", values)
		}
	}
}

func TestValuesRefused(t *testing.T) {
	for _, tt := range []struct {
		values string
		want   []string
	}{
		{`{contoller: {}}`, []string{"top level: ", "contoller"}},
		{`{controller: {replicas: two}}`, []string{"controller.replicas: got string, want integer"}},
		{`{controller: {replicas: 0}, injector: {defaultMode: both}, issuer: {caDuration: 10y}}`,
			[]string{"controller.replicas: ", "injector.defaultMode: ", "issuer.caDuration: "}},
		{`{injector: {hostAddress: "http://a b", nativeSidecar: maybe, certificate: vault, architectures: [], imagePullSecrets: [{name: a}], failurePolicy: Fail}}`,
			[]string{"injector.hostAddress: ", "injector.nativeSidecar: ", "injector.certificate: ", "injector.architectures: ", "injector.imagePullSecrets.0: ", "failurePolicy"}},
		{`{dtabs: {Default: ""}}`, []string{"dtabs"}},
		{`{namers: [{kind: io.l5d.k8s}], namer: {access: some}}`, []string{"namers: got array, want string", "namer.access: "}},
		{`{namer: {configMaps: [rules, shop/rules/dtab, Shop/rules, shop/rules_1, shop/.a, shop/a, shop/a]}}`,
			[]string{"namer.configMaps.0: ", "namer.configMaps.1: ", "namer.configMaps.2: ", "namer.configMaps.3: ", "namer.configMaps.4: ", "items at 5 and 6 are equal"}},
		{`{host: {resources: {limits: {gpu: 1}}}}`, []string{"host.resources.limits: ", "gpu"}},
	} {
		var values map[string]any
		if err := yaml.Unmarshal([]byte(tt.values), &values); err != nil {
			t.Fatal(err)
		}
		_, err := manifests.Render("tulle", values)
		var refused *manifests.ValuesError
		if !errors.As(err, &refused) {
			t.Errorf("%s: %v", tt.values, err)
			continue
		}
		for _, want := range tt.want {
			if !strings.Contains(strings.Join(refused.Problems, "\n"), want) {
				t.Errorf("%s: %q does not say %q", tt.values, refused.Problems, want)
			}
		}
	}
}

// A value that null takes away, as --set proxy.image=null does, is not needed, or the schema says that it is: no template
// stumbles over it.
func TestValuesTakenAway(t *testing.T) {
	text, err := os.ReadFile("chart/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var values map[string]any
	if err := yaml.Unmarshal(text, &values); err != nil {
		t.Fatal(err)
	}
	var try func(values map[string]any, path []string)
	try = func(values map[string]any, path []string) {
		for key, v := range values {
			at := append(slices.Clone(path), key)
			var without any
			for _, k := range slices.Backward(at) {
				without = map[string]any{k: without}
			}
			out, err := manifests.Render("tulle", without.(map[string]any))
			var refused *manifests.ValuesError
			switch {
			case errors.As(err, &refused):
				if said := strings.Join(refused.Problems, "\n"); !strings.Contains(said, "missing propert") || !strings.Contains(said, "'"+key+"'") {
					t.Errorf("%s: null: %s", strings.Join(at, "."), said)
				}
			case err != nil:
				t.Errorf("%s: null: %v", strings.Join(at, "."), err)
			case bytes.Contains(out, []byte("<no value>")):
				t.Errorf("%s: null: the output has no value", strings.Join(at, "."))
			}
			if below, ok := v.(map[string]any); ok {
				try(below, at)
			}
		}
	}
	try(values, nil)
}

func TestWithoutNamespace(t *testing.T) {
	if got := all[corev1.Namespace](render(t, "tulle", map[string]any{"createNamespace": false})); got["tulle"] != nil {
		t.Errorf("namespaces %v", slices.Collect(maps.Keys(got)))
	}
}

func TestHelloWorld(t *testing.T) {
	objects := parse(t, manifests.HelloWorld())
	namespaces := all[corev1.Namespace](objects)
	byNamespace := map[string][]runtime.Object{}
	for _, o := range objects {
		switch o.(type) {
		case *corev1.Namespace:
			continue
		case *corev1.Service, *appsv1.Deployment:
		default:
			t.Errorf("the demo does not know %T", o)
		}
		ns := o.(metav1.Object).GetNamespace()
		if namespaces[ns] == nil {
			t.Errorf("%T %s is in namespace %q", o, o.(metav1.Object).GetName(), ns)
		}
		byNamespace[ns] = append(byNamespace[ns], o)
	}
	for _, mode := range []string{"host", "sidecar"} {
		ns := namespaces["hello-"+mode]
		if ns == nil || ns.Labels["tulle.dev/inject"] != "enabled" || ns.Labels["tulle.dev/mode"] != mode ||
			ns.Labels["pod-security.kubernetes.io/enforce"] != "restricted" {
			t.Fatalf("namespace hello-%s is %+v", mode, ns)
		}
		templates := map[string]corev1.PodTemplateSpec{}
		replicas := map[string]int32{}
		for name, d := range all[appsv1.Deployment](byNamespace[ns.Name]) {
			templates[name], replicas[name] = d.Spec.Template, *d.Spec.Replicas
			checkSelector(t, d.Spec.Selector, d.Spec.Template)
			if got := violations(t, api.LevelRestricted, d.Spec.Template); got != nil {
				t.Errorf("%s/%s is not restricted: %q", ns.Name, name, got)
			}
		}
		if want := map[string]int32{"hello": 1, "world-v1": 2, "world-v2": 1}; !maps.Equal(replicas, want) {
			t.Errorf("%s has %v, want %v", ns.Name, replicas, want)
		}
		services := all[corev1.Service](byNamespace[ns.Name])
		if got := slices.Sorted(maps.Keys(services)); !slices.Equal(got, []string{"hello", "world", "world-v2"}) {
			t.Errorf("%s has services %v", ns.Name, got)
		}
		for _, s := range services {
			checkService(t, s, templates)
			if p := s.Spec.Ports[0]; p.Port != 80 || p.Name != "http" {
				t.Errorf("%s/%s has port %+v", ns.Name, s.Name, p)
			}
		}
	}
}
