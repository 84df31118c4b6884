package webhook

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	proxycapture "github.com/tulle-mesh/tulle/sidecar/capture"
)

func TestParsePorts(t *testing.T) {
	named := func(name string) []int {
		return map[string][]int{"http": {8080}, "db-0": {5432}, "twice": {9001, 9000}, "9p": {564}}[name]
	}
	for _, tt := range []struct{ text, want, wrong string }{
		{"80", "80", ""},
		{"10000,80", "80,10000", ""}, // by number, not by letter
		{" 443 , 80,80 ", "80,443", ""},
		{"9000-9100,9050-9200,9201", "9000-9201", ""},
		{"1-65535", "1-65535", ""},
		{"80-80", "80", ""},
		{"http,8081", "8080-8081", ""},
		{"db-0", "5432", ""},
		{"9p,twice", "564,9000-9001", ""},
		{"", "", "an element is empty"},
		{"80,", "", "an element is empty"},
		{"0", "", `"0" is no port`},
		{"65536", "", `"65536" is no port`},
		{"99999999999999999999", "", `"99999999999999999999" is no port`},
		{"-80", "", `"" is no port`},
		{"80-", "", `"" is no port`},
		{"1-2-3", "", `"2-3" is no port`},
		{"90-80", "", "the range 90-80 ends before it begins"},
		{"https", "", `"https" is neither a number, nor a range, nor the name of a port of the pod`},
		{"80 443", "", `"80 443" is neither`},
		{"+80", "", `"+80" is neither`},
	} {
		got, err := parsePorts(tt.text, named)
		switch {
		case tt.wrong != "":
			if err == nil || !strings.HasPrefix(err.Error(), tt.wrong) {
				t.Errorf("%q: %v, want %s", tt.text, err, tt.wrong)
			}
		case err != nil || got.String() != tt.want:
			t.Errorf("%q: %q, %v; want %q", tt.text, got, err, tt.want)
		}
	}
}

// What the injector writes is what the proxy reads, in the one order there is.
func FuzzParsePorts(f *testing.F) {
	for _, s := range []string{"80", "25,8000-8099, 3306", "http,1-2", "65535-65535,,", "0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		set, err := parsePorts(text, func(string) []int { return []int{8080} })
		if err != nil {
			return
		}
		for i, r := range set {
			if r.first < 1 || r.first > r.last || r.last > maxPort || i > 0 && r.first <= set[i-1].last+1 {
				t.Fatalf("%q: %v", text, set)
			}
		}
		read, err := proxycapture.ParsePorts(set.String())
		if err != nil || read.String() != set.String() {
			t.Fatalf("%q: the proxy reads %v, %v of %q", text, read, err, set)
		}
	})
}

func TestCaptureIsChecked(t *testing.T) {
	for _, tt := range []struct {
		mode        Mode
		annotations map[string]any
		reason      Reason
		says        string // in the message or a warning
	}{
		{ModeSidecar, map[string]any{AnnotationCapture: "env"}, InjectedSidecar, ""},
		{ModeSidecar, map[string]any{AnnotationCapture: "redirect"}, InjectedSidecar, ""},
		{ModeSidecar, map[string]any{AnnotationCapture: "iptables"}, InvalidAnnotation, `tulle.dev/capture is "iptables", allowed: env, redirect`},
		{ModeSidecar, map[string]any{AnnotationCapture: ""}, InvalidAnnotation, `tulle.dev/capture is "", allowed: env, redirect`},
		{ModeHost, map[string]any{AnnotationCapture: "env"}, InjectedHost, ""},
		{ModeHost, map[string]any{AnnotationCapture: "redirect"}, InvalidAnnotation, "tulle.dev/capture is redirect, which needs a proxy in the pod, but its mode is host"},
		{ModeSidecar, map[string]any{AnnotationSkipPorts: "25"}, InjectedSidecar, "tulle.dev/skip-ports has no effect without tulle.dev/capture: redirect"},
		{ModeHost, map[string]any{AnnotationOpaquePorts: "25"}, InjectedHost, "tulle.dev/opaque-ports has no effect without tulle.dev/capture: redirect"},
		{ModeHost, map[string]any{AnnotationOpaquePorts: "smtp"}, InvalidAnnotation, `tulle.dev/opaque-ports is "smtp", in which "smtp" is neither`},
		{ModeSidecar, map[string]any{AnnotationCapture: "redirect", AnnotationSkipPorts: "web,http"}, InvalidAnnotation, `"http" is neither a number, nor a range, nor the name of a port of the pod`},
		{ModeSidecar, map[string]any{AnnotationCapture: "redirect", AnnotationSkipPorts: strings.Repeat("1,3,5,7,", 64) + oddPorts(300)}, InvalidAnnotation, "more than 255"},
	} {
		raw := marshal(t, object{"metadata": object{"annotations": tt.annotations}, "spec": object{
			"containers": []any{object{"name": "app", "ports": []any{object{"name": "web", "containerPort": 80}}}}}})
		res := mustInject(t, raw, enabled("shop", LabelMode, string(tt.mode)), testConfig())
		said := res.Message + strings.Join(res.Warnings, "\n")
		if res.Reason != tt.reason || !strings.Contains(said, tt.says) || tt.says == "" && said != "" {
			t.Errorf("%s, %v: %s, %q; want %s, %q", tt.mode, tt.annotations, res.Reason, said, tt.reason, tt.says)
		}
	}
}

// oddPorts lists n ports that are not next to each other.
func oddPorts(n int) string { return oddSet(n).String() }

func oddSet(n int) portSet {
	var set portSet
	for i := range n {
		set = append(set, portRun{1001 + 2*i, 1001 + 2*i})
	}
	return set
}

// The redirect starts between the sidecar and all that has the mesh to itself: with a native sidecar that is everything
// of the pod's, with a classic one the app only.
func TestRedirect(t *testing.T) {
	for _, native := range []bool{true, false} {
		pod, res := injected(t, object{"initContainers": []any{object{"name": "wait", "image": "i"}},
			"containers": []any{object{"name": "app", "image": "i", "ports": []any{object{"name": "db", "containerPort": 5432}},
				"env": []any{object{"name": "http_proxy", "value": "http://corp:3128"}}}}},
			map[string]any{AnnotationCapture: "redirect", AnnotationSkipPorts: "10000-10010,80,db", AnnotationOpaquePorts: "3306"},
			enabled("shop"), func(c *Config) { c.NativeSidecar = &native })
		if res.Reason != InjectedSidecar || len(res.Warnings) != 0 {
			t.Fatalf("native %v: %s, %s%q", native, res.Reason, res.Message, res.Warnings)
		}
		want, proxy := []string{ProxyContainer, RedirectContainer, "wait"}, pod.Spec.InitContainers[0]
		if !native {
			want, proxy = []string{"wait", RedirectContainer}, pod.Spec.Containers[0]
		}
		if got := names(pod.Spec.InitContainers); !slices.Equal(got, want) {
			t.Errorf("native %v: init containers %q, want %q", native, got, want)
		}
		redirect := pod.Spec.InitContainers[slices.Index(want, RedirectContainer)]
		if got, want := strings.Join(redirect.Args, " "), "redirect --outgoing-port=4140 --proxy-uid=41404 --skip-ports=80,5432,10000-10010 --opaque-ports=3306"; got != want {
			t.Errorf("native %v: %s, want %s", native, got, want)
		}
		if c := redirect.SecurityContext.Capabilities; !slices.Equal(c.Add, []corev1.Capability{"NET_ADMIN"}) || !slices.Equal(c.Drop, []corev1.Capability{"ALL"}) {
			t.Errorf("native %v: the redirect has %+v", native, c)
		}
		if redirect.RestartPolicy != nil || proxy.Name != ProxyContainer || *proxy.SecurityContext.RunAsUser != redirectUser {
			t.Errorf("native %v: the redirect restarts, or the proxy is not the redirect's user: %+v", native, proxy.SecurityContext)
		}
		for name, want := range map[string]string{"TULLE_CAPTURE": "redirect", "TULLE_OPAQUE_PORTS": "3306", "TULLE_OUTGOING": "127.0.0.1:4140"} {
			if got := envOf(proxy, name); got != want {
				t.Errorf("native %v: the proxy's %s is %q, want %q", native, name, got, want)
			}
		}
		for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
			if c.Name == "wait" && len(c.Env) != 0 || c.Name == "app" && (len(c.Env) != 1 || c.Env[0].Value != "http://corp:3128") {
				t.Errorf("native %v: %s has the environment %v", native, c.Name, c.Env)
			}
		}
	}
}

func TestRedirectIsRefused(t *testing.T) {
	user := func(uid int) object { return object{"runAsUser": uid} }
	openshift := enabled("shop")
	openshift.Annotations = map[string]string{annotationUIDRange: "1000/10"}
	one := enabled("shop")
	one.Annotations = map[string]string{annotationUIDRange: "1000/1"}
	for name, tt := range map[string]struct {
		ns             Namespace
		pod, container object
		init           object
		reason         Reason
	}{
		"nobody says":                    {enabled("shop"), nil, nil, nil, InjectedSidecar},
		"image's usual user":             {enabled("shop"), user(65532), nil, nil, InjectedSidecar},
		"container":                      {enabled("shop"), nil, user(redirectUser), nil, UIDTaken},
		"pod":                            {enabled("shop"), user(redirectUser), nil, nil, UIDTaken},
		"pod, but not the containers":    {enabled("shop"), user(redirectUser), user(1), user(2), InjectedSidecar},
		"init container":                 {enabled("shop"), nil, nil, user(redirectUser), UIDTaken},
		"OpenShift":                      {openshift, nil, nil, nil, InjectedSidecar},
		"OpenShift, last":                {openshift, nil, user(1009), nil, UIDTaken},
		"OpenShift, one user":            {one, nil, nil, nil, UIDTaken},
		"Pod Security baseline":          {enabled("shop", labelEnforce, "baseline"), nil, nil, nil, PodSecurity},
		"Pod Security restricted":        {enabled("shop", labelEnforce, "restricted"), nil, nil, nil, PodSecurity},
		"Pod Security privileged":        {enabled("shop", labelEnforce, "privileged"), nil, nil, nil, InjectedSidecar},
		"Pod Security that only reports": {enabled("shop", "pod-security.kubernetes.io/warn", "restricted"), nil, nil, nil, InjectedSidecar},
	} {
		container := func(name string, c object) object {
			o := object{"name": name, "image": "i"}
			if c != nil {
				o["securityContext"] = c
			}
			return o
		}
		spec := object{"initContainers": []any{container("init", tt.init)}, "containers": []any{container("app", tt.container)}}
		if tt.pod != nil {
			spec["securityContext"] = tt.pod
		}
		_, res := injected(t, spec, map[string]any{AnnotationCapture: "redirect"}, tt.ns)
		if res.Reason != tt.reason {
			t.Errorf("%s: %s, want %s: %s", name, res.Reason, tt.reason, res.Message)
		}
		if res.Reason == InjectedSidecar {
			continue
		}
		// Without a redirect each of them is welcome.
		if _, res := injected(t, spec, nil, tt.ns); res.Reason != InjectedSidecar {
			t.Errorf("%s, by environment: %s: %s", name, res.Reason, res.Message)
		}
	}
}
