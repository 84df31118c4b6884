package webhook

import (
	"fmt"
	"testing"
)

func TestStrays(t *testing.T) {
	type set = map[string]string
	for _, c := range []struct {
		of                  func(labels, annotations map[string]string) []Stray
		labels, annotations set
		want                string // key, as, meant, counts
	}{
		{NamespaceStrays, set{LabelInject: "", LabelMode: "", "team": ""}, set{"a/b": ""}, ""},
		{NamespaceStrays, set{"tulle.dev/Inject": ""}, nil, "tulle.dev/Inject label tulle.dev/inject label"},
		{NamespaceStrays, nil, set{LabelMode: ""}, "tulle.dev/mode annotation tulle.dev/mode label"},
		{NamespaceStrays, nil, set{"tulle.dev/injct": ""}, "tulle.dev/injct annotation tulle.dev/inject label"},
		{NamespaceStrays, set{"tulle.dev/owner": ""}, set{"tulle.dev/": ""}, "tulle.dev/owner label  label, tulle.dev/ annotation  annotation"},
		{NamespaceStrays, set{"tulle.io/inject": "", "tulle/mode": "", "tulle.io/team": "", "tullehub.com/inject": "", "kubernetes.io/inject": ""}, nil,
			"tulle.io/inject label tulle.dev/inject label, tulle/mode label tulle.dev/mode label"},
		{PodStrays, set{LabelInject: "", LabelMode: ""}, set{AnnotationMode: "", AnnotationStatus: ""}, ""},
		{PodStrays, set{AnnotationCapture: "", "tulle.dev/skip-port": ""}, nil,
			"tulle.dev/capture label tulle.dev/capture annotation, tulle.dev/skip-port label tulle.dev/skip-ports annotation"},
		{PodStrays, set{AnnotationStatus: ""}, set{LabelInject: ""}, "tulle.dev/status label  label, tulle.dev/inject annotation tulle.dev/inject label"},
		{PodStrays, nil, set{"tulle.dev/outgoing": ""}, "tulle.dev/outgoing annotation tulle.dev/outgoing-port annotation"},
		{WorkloadStrays, set{LabelInject: "", AnnotationMode: ""}, set{AnnotationMode: ""},
			"tulle.dev/inject label tulle.dev/inject label, tulle.dev/mode label tulle.dev/mode annotation, tulle.dev/mode annotation tulle.dev/mode annotation"},
	} {
		got := ""
		for _, s := range c.of(c.labels, c.annotations) {
			if got != "" {
				got += ", "
			}
			got += fmt.Sprint(s.Key, " ", s.As, " ", s.Meant, " ", s.Counts)
		}
		if got != c.want {
			t.Errorf("%v %v: got %s, want %s", c.labels, c.annotations, got, c.want)
		}
	}
	many := set{}
	for i := range 1000 {
		many[fmt.Sprintf("tulle.dev/x%d", i)] = ""
	}
	if n := len(PodStrays(many, many)); n != 100 {
		t.Errorf("%d strays", n)
	}
}

func TestOtherMesh(t *testing.T) {
	for _, c := range []struct {
		key, value, mesh string
		asks             bool
	}{
		{"istio.io/rev", "disabled", "Istio", true}, {"istio-injection", "disabled", "Istio", false}, {"istio-injection", "enabled", "Istio", true},
		{"istio.io/dataplane-mode", "none", "Istio", false}, {"sidecar.istio.io/inject", "false", "Istio", false},
		{"linkerd.io/inject", "ingress", "Linkerd", true}, {"kuma.io/sidecar-injection", "disabled", "Kuma", false},
		{"consul.hashicorp.com/connect-inject", "true", "Consul", true}, {LabelInject, "enabled", "", false},
	} {
		if mesh, asks := OtherMesh(c.key, c.value); mesh != c.mesh || asks != c.asks {
			t.Errorf("%s=%s: %s, %v", c.key, c.value, mesh, asks)
		}
	}
}
