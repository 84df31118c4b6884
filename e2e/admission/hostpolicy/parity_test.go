//go:build e2e

package hostpolicy

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tulle-mesh/tulle/webhook"
	"github.com/tulle-mesh/tulle/webhook/hostpolicy"
)

type object = map[string]any

// enabled are the labels of most namespaces here.
func enabled(mode string) map[string]string {
	return map[string]string{webhook.LabelInject: webhook.NamespaceEnabled, webhook.LabelMode: mode}
}

// check holds the policy against the webhook. It returns why the policy leaves the pod alone, if it does.
func (m *mesh) check(t tester, raw []byte) string {
	t.Helper()
	read, want := m.byWebhook(t, raw)
	got := m.byPolicy(raw)
	if read == nil || want.err != nil && !want.res.Reason.Denies() { // no pod, with or without what is ours
		if got.err == nil {
			t.Fatalf("the API server refuses the pod with what the webhook adds (%v), but not with what the policy adds\n%s", want.err, raw)
		}
		return "invalid"
	}
	if got.err != nil {
		t.Fatalf("refused by the policy: %v; the webhook says %s\n%s", got.err, want.res.Reason, raw)
	}
	left := hostpolicy.Leaves(read.Annotations, m.cfg, want.res)
	switch {
	case want.res.Patch == nil && left == "":
		left = "the webhook does nothing either"
		fallthrough
	case left != "":
		if same(got.pod) != same(read) {
			t.Fatalf("%s, but the policy has changed the pod:\n%s\nfrom\n%s", left, same(got.pod), same(read))
		}
		return left
	}
	if same(got.pod) != same(want.pod) {
		t.Fatalf("by the policy:\n%s\nby the webhook:\n%s", same(got.pod), same(want.pod))
	}
	// The webhook has nothing left to do, and undoes it all.
	text := asked(t, got.pod)
	again, err := webhook.Inject(text, webhook.Namespace{Name: m.home, Labels: m.labels}, m.cfg)
	if err != nil || again.Reason != webhook.AlreadyInjected || again.Patch != nil {
		t.Fatalf("after the policy, the webhook says %s, %v, and patches %s", again.Reason, err, again.Patch)
	}
	undo, err := webhook.Uninject(text)
	if err != nil {
		t.Fatalf("%v", err)
	}
	undone, err := create(context.Background(), m.client, m.bare, patched(t, text, undo))
	if err != nil || same(undone) != same(read) {
		t.Fatalf("undone it is not what it was: %v\n%s\nbut\n%s", err, same(undone), same(read))
	}
	m.completes(t, text)
	// So has the policy.
	if twice := m.byPolicy(text); twice.err != nil || same(twice.pod) != same(got.pod) {
		t.Fatalf("a second time the policy gives another pod: %v\n%s\nnot\n%s", twice.err, same(twice.pod), same(got.pod))
	}
	return ""
}

// completes holds what the policy does with a pod to which somebody has added containers after it.
func (m *mesh) completes(t tester, pod []byte) {
	t.Helper()
	var o object
	if err := json.Unmarshal(pod, &o); err != nil {
		t.Fatalf("%v", err)
	}
	late := func(name string, env ...any) object { return object{"name": name, "image": "late", "env": env} }
	spec := o["spec"].(object)
	status := o["metadata"].(object)["annotations"].(object)[webhook.AnnotationStatus].(string)
	for _, c := range spec["containers"].([]any) {
		// And changed the environments there are. What the first pass wrote down of one is not written anew.
		if c := c.(object); c["env"] != nil && !strings.Contains(status, `"`+c["name"].(string)+`":{`) {
			c["env"] = slices.Concat([]any{object{"name": "THEIRS"}}, c["env"].([]any), []any{object{"name": "NODE_NAME", "value": "theirs"}})
		}
	}
	spec["containers"] = slices.Concat(
		[]any{late("late0", object{"name": "A"}, object{"name": "no_proxy", "value": "a"})}, spec["containers"].([]any),
		[]any{late("late1"), late("late2", object{"name": "http_proxy", "value": "http://corp:3128"})})
	more, err := json.Marshal(o)
	if err != nil {
		t.Fatalf("%v", err)
	}
	_, want := m.byWebhook(t, more)
	got := m.byPolicy(more)
	if onConflict := want.pod == nil || strings.Contains(string(want.res.Patch), `\"was\":`); onConflict {
		return // the new container's own proxy is not left alone
	}
	if got.err != nil || same(got.pod) != same(want.pod) {
		t.Fatalf("a pod with containers added later: %v, by the policy:\n%s\nby the webhook:\n%s", got.err, same(got.pod), same(want.pod))
	}
}

// Pods by hand, one for each rule. Of those that the policy is to leave alone, left says a part of why.
func TestParity(t *testing.T) {
	m := start(t, webhook.Config{}, enabled("host"))
	env := func(entries string) string {
		return `{"spec":{"containers":[{"name":"app","image":"app","env":[` + entries + `]}]}}`
	}
	annotated := func(annotations string) string {
		return `{"metadata":{"annotations":{` + annotations + `}},"spec":{"containers":[{"name":"app","image":"app","ports":[{"name":"db","containerPort":5432}]},{"name":"other","image":"app","env":[{"name":"http_proxy","value":"http://corp:3128"}]}]}}`
	}
	const node = `{"name":"NODE_NAME","valueFrom":{"fieldRef":{"fieldPath":"spec.nodeName"}}}`
	const hostIP = `{"name":"TULLE_HOST_IP","valueFrom":{"fieldRef":{"fieldPath":"status.hostIP"}}}`
	const proxies = `{"name":"http_proxy","value":"http://$(TULLE_HOST_IP):4140"},{"name":"HTTP_PROXY","value":"http://$(TULLE_HOST_IP):4140"}`
	for name, tt := range map[string]struct{ pod, left string }{
		"plain":                    {pod: env(``)},
		"no env":                   {pod: `{"spec":{"containers":[{"name":"app","image":"app"}]}}`},
		"some env":                 {pod: env(`{"name":"A","value":"1"},{"name":"B","valueFrom":{"secretKeyRef":{"name":"s","key":"k","optional":true}}},{"name":"C"}`)},
		"resource field":           {pod: env(`{"name":"A","valueFrom":{"resourceFieldRef":{"resource":"limits.cpu","divisor":"1m"}}}`)},
		"init containers":          {pod: `{"spec":{"initContainers":[{"name":"i","image":"i"},{"name":"j","image":"j","restartPolicy":"Always","env":[{"name":"A"}]}],"containers":[{"name":"app","image":"app"},{"name":"app2","image":"app"}]}}`},
		"host network":             {pod: `{"spec":{"hostNetwork":true,"containers":[{"name":"app","image":"app","ports":[{"containerPort":4140,"hostPort":4140}]}]}}`},
		"labels, annotations":      {pod: `{"metadata":{"labels":{"a":"b"},"annotations":{"c":"\"\\\u0007<"}},"spec":{"containers":[{"name":"app","image":"app"}]}}`},
		"label true":               {pod: `{"metadata":{"labels":{"tulle.dev/inject":"true"}},"spec":{"containers":[{"name":"app","image":"app"}]}}`},
		"label false":              {`{"metadata":{"labels":{"tulle.dev/inject":"false"}},"spec":{"containers":[{"name":"app","image":"app"}]}}`, "mode"},
		"label wrong":              {`{"metadata":{"labels":{"tulle.dev/inject":"yes"}},"spec":{"containers":[{"name":"app","image":"app"}]}}`, "refused"},
		"own mode label":           {pod: `{"metadata":{"labels":{"tulle.dev/mode":"sidecar"}},"spec":{"containers":[{"name":"app","image":"app"}]}}`},
		"own mode label, the same": {pod: `{"metadata":{"labels":{"tulle.dev/mode":"host","x":"y"}},"spec":{"containers":[{"name":"app","image":"app","env":[{"name":"no_proxy"}]}]}}`},
		"mode host":                {pod: annotated(`"tulle.dev/mode":"host"`)},
		"mode none":                {annotated(`"tulle.dev/mode":"none"`), "mode"},
		"mode wrong":               {annotated(`"tulle.dev/mode":"Host"`), "refused"},

		"node name behind":        {pod: env(`{"name":"A"},` + node)},
		"node name first":         {pod: env(node + `,{"name":"A"}`)},
		"all behind, mixed":       {pod: env(`{"name":"A"},` + proxies + `,{"name":"B"},` + hostIP + `,{"name":"C"},` + node + `,{"name":"D"}`)},
		"half there":              {pod: env(hostIP + `,{"name":"B"},` + node)},
		"all there":               {pod: env(node + `,` + hostIP + `,` + proxies)},
		"swapped":                 {pod: env(hostIP + `,` + node)},
		"another node name":       {pod: env(`{"name":"NODE_NAME","value":"mine"},{"name":"A"}`)},
		"node name of a pod name": {pod: env(`{"name":"A"},{"name":"NODE_NAME","valueFrom":{"fieldRef":{"fieldPath":"metadata.name"}}}`)},
		"node name twice":         {pod: env(`{"name":"A"},` + node + `,{"name":"B"},` + node)},
		"host IP taken":           {env(`{"name":"TULLE_HOST_IP","value":"10.0.0.1"}`), "refused"},

		"no_proxy":              {pod: env(`{"name":"A"},{"name":"no_proxy","value":"a,b"},{"name":"B"}`)},
		"NO_PROXY":              {pod: env(`{"name":"A"},{"name":"NO_PROXY","value":"a b ,"},{"name":"B"}`)},
		"both":                  {pod: env(`{"name":"NO_PROXY","value":"a"},{"name":"A"},{"name":"no_proxy","value":"b,localhost"}`)},
		"both, node behind":     {pod: env(`{"name":"NO_PROXY","value":"a"},{"name":"A"},` + node + `,{"name":"no_proxy","value":"b,localhost"}`)},
		"no_proxy, node behind": {pod: env(`{"name":"A"},{"name":"no_proxy","value":"a"},` + node)},
		"no_proxy empty":        {pod: env(`{"name":"no_proxy"}`)},
		"no_proxy of spaces":    {pod: env(`{"name":"no_proxy","value":"\t \u2003"}`)},
		"no_proxy, odd spaces":  {pod: env(`{"name":"no_proxy","value":"é\u00a0localhost\u2003127.0.0.1\u000b::1\u0085x, "}`)},
		"no_proxy twice":        {pod: env(`{"name":"no_proxy","value":"a"},{"name":"A"},{"name":"no_proxy","value":"b"}`)},
		"no_proxy complete":     {pod: env(`{"name":"NO_PROXY","value":"localhost,127.0.0.1,::1,169.254.169.254,fd00:ec2::254,169.254.170.2,169.254.170.23,fd00:ec2::23,metadata.google.internal,168.63.129.16,100.100.100.200,kubernetes,kubernetes.default,kubernetes.default.svc,kubernetes.default.svc.cluster.local,$(KUBERNETES_SERVICE_HOST)"}`)},
		"no_proxy from a map":   {pod: env(`{"name":"no_proxy","valueFrom":{"configMapKeyRef":{"name":"c","key":"k"}}}`)},
		"one from a map":        {pod: env(`{"name":"NO_PROXY","value":"x"},{"name":"no_proxy","valueFrom":{"configMapKeyRef":{"name":"c","key":"k"}}}`)},

		"own proxy":            {pod: env(`{"name":"http_proxy","value":"http://corp:3128"}`)},
		"own proxy, empty":     {pod: env(`{"name":"HTTP_PROXY"}`)},
		"own proxy of one":     {pod: annotated(`"a":"b"`)},
		"own proxy and mine":   {pod: env(`{"name":"http_proxy","value":"http://$(TULLE_HOST_IP):4140"},{"name":"HTTP_PROXY","value":"http://corp:3128"}`)},
		"another mesh":         {pod: `{"spec":{"containers":[{"name":"app","image":"app"},{"name":"istio-proxy","image":"p"}]}}`},
		"leave":                {pod: annotated(`"tulle.dev/on-conflict":"leave"`)},
		"chain":                {annotated(`"tulle.dev/on-conflict":"chain"`), "is replaced"},
		"override":             {annotated(`"tulle.dev/on-conflict":"override"`), "is replaced"},
		"override in vain":     {pod: annotated(`"tulle.dev/on-conflict":"override","tulle.dev/skip-containers":"other"`)},
		"conflict of words":    {annotated(`"tulle.dev/on-conflict":"fight"`), "refused"},
		"skip":                 {pod: annotated(`"tulle.dev/skip-containers":" app ,nobody"`)},
		"skip all":             {pod: annotated(`"tulle.dev/skip-containers":"app,other"`)},
		"skip an empty name":   {annotated(`"tulle.dev/skip-containers":"app,"`), "refused"},
		"skip what is no name": {annotated(`"tulle.dev/skip-containers":"A"`), "refused"},
		"capture env":          {pod: annotated(`"tulle.dev/capture":"env"`)},
		"capture redirect":     {annotated(`"tulle.dev/capture":"redirect"`), "refused"},
		"skip ports":           {annotated(`"tulle.dev/skip-ports":"db"`), "sidecars"},
		"skip ports, wrong":    {annotated(`"tulle.dev/skip-ports":"nobody"`), "refused"},
		"resources":            {annotated(`"tulle.dev/proxy-cpu-request":"20m"`), "sidecars"},
		"the port":             {pod: annotated(`"tulle.dev/outgoing-port":"4140"`)},
		"another port":         {annotated(`"tulle.dev/outgoing-port":"4150"`), "port"},
		"no port":              {annotated(`"tulle.dev/outgoing-port":"http"`), "refused"},
		"a key unknown":        {pod: annotated(`"tulle.dev/mdoe":"host"`)},
		"windows":              {`{"spec":{"os":{"name":"windows"},"containers":[{"name":"app","image":"app"}]}}`, "mode"},
		"linux":                {pod: `{"spec":{"os":{"name":"linux"},"nodeSelector":{"kubernetes.io/os":"linux"},"containers":[{"name":"app","image":"app"}]}}`},
		"windows nodes":        {`{"spec":{"nodeSelector":{"beta.kubernetes.io/os":"windows"},"containers":[{"name":"app","image":"app"}]}}`, "mode"},
		"windows by affinity":  {affine(`{"matchExpressions":[{"key":"kubernetes.io/os","operator":"In","values":["windows"]}]},{"matchExpressions":[{"key":"a","operator":"Exists"},{"key":"kubernetes.io/os","operator":"NotIn","values":["linux","x"]}]}`), "mode"},
		"perhaps by affinity":  {pod: affine(`{"matchExpressions":[{"key":"kubernetes.io/os","operator":"In","values":["windows"]}]},{"matchFields":[{"key":"metadata.name","operator":"In","values":["n"]}]}`)},
		"no os by affinity":    {affine(`{"matchExpressions":[{"key":"beta.kubernetes.io/os","operator":"DoesNotExist"}]}`), "mode"},
		"a pod that is no pod": {`{"spec":{"containers":[]}}`, "invalid"},
		"a name that is none":  {`{"spec":{"containers":[{"name":"a\"b","image":"x","env":[{"name":"no_proxy","value":"x"}]}]}}`, "invalid"},
		"mirror":               {`{"metadata":{"annotations":{"kubernetes.io/config.mirror":"x"}},"spec":{"nodeName":"n","containers":[{"name":"app","image":"app"}]}}`, "mode"},
	} {
		t.Run(name, func(t *testing.T) {
			left := m.check(t, named(t, tt.pod))
			if (left == "") != (tt.left == "") || !strings.Contains(left, tt.left) {
				t.Errorf("the policy leaves it because %q, expected %q", left, tt.left)
			}
		})
	}
}

func affine(terms string) string {
	return `{"spec":{"affinity":{"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":[` + terms + `]}}},"containers":[{"name":"app","image":"app"}]}}`
}

func named(t *testing.T, pod string) []byte {
	t.Helper()
	var o object
	if err := json.Unmarshal([]byte(pod), &o); err != nil {
		t.Fatal(err)
	}
	meta, _ := o["metadata"].(object)
	if meta == nil {
		meta = object{}
		o["metadata"] = meta
	}
	meta["name"] = "pod"
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Pods as they come, in meshes of all kinds.
func TestParityOfGeneratedPods(t *testing.T) {
	for name, tt := range map[string]struct {
		cfg    webhook.Config
		labels map[string]string
		proxy  string
	}{
		"hostIP":              {webhook.Config{}, map[string]string{webhook.LabelInject: webhook.NamespaceEnabled}, "http://$(TULLE_HOST_IP):4140"},
		"hostIPv6":            {webhook.Config{HostAddress: "hostIPv6", DefaultMode: webhook.ModeSidecar}, enabled("host"), "http://[$(TULLE_HOST_IP)]:4140"},
		"nodeName":            {webhook.Config{HostAddress: "nodeName"}, map[string]string{webhook.LabelInject: webhook.NamespaceBestEffort}, "http://$(NODE_NAME):4140"},
		"service, other port": {webhook.Config{HostAddress: "service", HostService: "tulle-host.tulle.svc", OutgoingPort: 4150, DefaultMode: webhook.ModeNone}, enabled("host"), "http://tulle-host.tulle.svc:4150"},
	} {
		t.Run(name, func(t *testing.T) {
			m := start(t, tt.cfg, tt.labels)
			seen := map[string]int{}
			rapid.Check(t, func(t *rapid.T) {
				raw, err := json.Marshal(genPod(t, tt.proxy))
				if err != nil {
					t.Fatal(err)
				}
				seen[m.check(t, raw)]++
			})
			t.Logf("left alone because: %v", seen)
			if seen[""] == 0 {
				t.Error("the policy has done none of them")
			}
		})
	}
}

func genEnv(t *rapid.T, proxy string) []any {
	var env []any
	field := func(path string) object { return object{"fieldRef": object{"fieldPath": path}} }
	for range rapid.IntRange(0, 8).Draw(t, "entries") {
		name := rapid.SampledFrom([]string{"A", "B", "C", "NODE_NAME", "TULLE_HOST_IP", "TULLE_POD_IP", "http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"}).Draw(t, "name")
		e := object{"name": name}
		switch name {
		case "NODE_NAME":
			if rapid.IntRange(0, 5).Draw(t, "node name") > 0 {
				e["valueFrom"] = field("spec.nodeName")
			} else {
				e["value"] = "mine"
			}
		case "TULLE_HOST_IP":
			e["valueFrom"] = field("status.hostIP")
		case "http_proxy", "HTTP_PROXY":
			e["value"] = rapid.SampledFrom([]string{proxy, proxy, proxy, proxy, "http://corp:3128", ""}).Draw(t, "proxy")
		case "no_proxy", "NO_PROXY":
			switch rapid.IntRange(0, 4).Draw(t, "kind of no_proxy") {
			case 0:
				e["valueFrom"] = object{"configMapKeyRef": object{"name": "c", "key": "k"}}
			case 1:
				e["value"] = rapid.StringOf(rapid.SampledFrom([]rune(", \t\u00a0\u2003é*.ab\"\\"))).Draw(t, "no_proxy as it comes")
			default:
				e["value"] = rapid.SampledFrom([]string{"", "a", "$(A),b", "localhost, *", ".svc ,", "x,169.254.169.254,"}).Draw(t, "no_proxy")
			}
		default:
			if rapid.Bool().Draw(t, "from") {
				e["valueFrom"] = object{"secretKeyRef": object{"name": "s", "key": "k"}}
			} else {
				e["value"] = rapid.String().Draw(t, "value")
			}
		}
		env = append(env, e)
	}
	return env
}

func genPod(t *rapid.T, proxy string) object {
	meta := object{"name": "pod"}
	annotations := object{}
	for range rapid.SampledFrom([]int{0, 0, 0, 1, 2}).Draw(t, "annotations") {
		key := rapid.SampledFrom(append(webhook.Annotations(), "note", "tulle.dev/nonsense")).Draw(t, "key")
		values, ok := map[string][]string{
			webhook.AnnotationMode:           {"host", "host", "none", "x"},
			webhook.AnnotationOutgoingPort:   {"4140", "4150", "80", "x"},
			webhook.AnnotationIncomingPort:   {"4141", "4142", "70000"},
			webhook.AnnotationAdminPort:      {"9990", "9991"},
			webhook.AnnotationSkipContainers: {"app0", "init0, app1", "other", "", "a,,b", "A"},
			webhook.AnnotationOnConflict:     {"leave", "chain", "override", "x"},
			webhook.AnnotationCapture:        {"env", "env", "redirect", "x"},
			webhook.AnnotationSkipPorts:      {"80", "x", "9-1"},
			webhook.AnnotationOpaquePorts:    {"80,90-99", ""},
		}[key]
		if !ok {
			values = []string{"", "10m", "64Mi", "x"}
		}
		annotations[key] = rapid.SampledFrom(values).Draw(t, "value")
	}
	if len(annotations) > 0 {
		meta["annotations"] = annotations
	}
	switch rapid.IntRange(0, 5).Draw(t, "labels") {
	case 0:
		meta["labels"] = object{"app": "a"}
	case 1:
		meta["labels"] = object{webhook.LabelMode: rapid.SampledFrom([]string{"host", "sidecar", "x"}).Draw(t, "mode label"), webhook.LabelInject: "true"}
	}
	spec := object{}
	for _, list := range []struct {
		field, prefix string
		low           int
	}{{"initContainers", "init", 0}, {"containers", "app", 1}} {
		var containers []any
		for i := range rapid.IntRange(list.low, 3).Draw(t, list.field) {
			c := object{"name": list.prefix + strconv.Itoa(i), "image": "app:1"}
			if i == 0 && list.low == 1 && rapid.IntRange(0, 9).Draw(t, "another mesh") == 0 {
				c["name"] = "linkerd-proxy"
			}
			if env := genEnv(t, proxy); len(env) > 0 {
				c["env"] = env
			}
			containers = append(containers, c)
		}
		if len(containers) > 0 {
			spec[list.field] = containers
		}
	}
	if rapid.IntRange(0, 5).Draw(t, "host network") == 0 {
		spec["hostNetwork"] = true
	}
	return object{"metadata": meta, "spec": spec}
}
