package webhook

import (
	"encoding/json"
	"strings"
	"testing"
)

func unmarshal(t *testing.T, raw []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(raw, into); err != nil {
		t.Fatal(err)
	}
}

// affinity requires one of these terms, each a list of expressions "key operator values…".
func affinity(terms ...[]string) object {
	var all []any
	for _, term := range terms {
		var expressions []any
		for _, e := range term {
			f := strings.Fields(e)
			expression := object{"key": f[0], "operator": f[1]}
			if len(f) > 2 {
				expression["values"] = strings.Split(f[2], ",")
			}
			expressions = append(expressions, expression)
		}
		all = append(all, object{"matchExpressions": expressions})
	}
	return object{"nodeAffinity": object{"requiredDuringSchedulingIgnoredDuringExecution": object{"nodeSelectorTerms": all}}}
}

func TestPlacement(t *testing.T) {
	const arch, old, os = "kubernetes.io/arch", "beta.kubernetes.io/arch", "kubernetes.io/os"
	for name, tt := range map[string]struct {
		spec   object
		reason Reason
		warns  string
	}{
		"anywhere":               {object{}, InjectedSidecar, ""},
		"amd64":                  {object{"nodeSelector": object{arch: "amd64"}}, InjectedSidecar, ""},
		"s390x":                  {object{"nodeSelector": object{arch: "s390x"}}, Architecture, "there are images for amd64, arm64"},
		"s390x, old label":       {object{"nodeSelector": object{old: "s390x"}}, Architecture, "there are images for amd64, arm64"},
		"affinity":               {object{"affinity": affinity([]string{arch + " In s390x,ppc64le"})}, Architecture, "there are images for"},
		"affinity, one will do":  {object{"affinity": affinity([]string{arch + " In s390x,arm64"})}, InjectedSidecar, "no image for, s390x"},
		"affinity, another term": {object{"affinity": affinity([]string{arch + " In s390x"}, []string{"disk In ssd"})}, InjectedSidecar, "no image for, s390x"},
		"affinity, both terms":   {object{"affinity": affinity([]string{arch + " In s390x"}, []string{old + " In ppc64le"})}, Architecture, ""},
		"affinity, one of two":   {object{"affinity": affinity([]string{arch + " In amd64,s390x", arch + " NotIn amd64"})}, Architecture, ""},
		"affinity and selector":  {object{"nodeSelector": object{arch: "arm64"}, "affinity": affinity([]string{arch + " In amd64,s390x"})}, Architecture, ""},
		"affinity without ours":  {object{"affinity": affinity([]string{arch + " NotIn amd64,arm64"})}, Architecture, ""},
		"affinity without one":   {object{"affinity": affinity([]string{arch + " NotIn amd64"})}, InjectedSidecar, ""},
		"no such label":          {object{"affinity": affinity([]string{arch + " DoesNotExist"})}, Architecture, ""},
		"some such label":        {object{"affinity": affinity([]string{arch + " Exists"})}, InjectedSidecar, ""},
		"preferred":              {object{"affinity": object{"nodeAffinity": object{"preferredDuringSchedulingIgnoredDuringExecution": []any{}}}}, InjectedSidecar, ""},
		"null":                   {object{"affinity": object{"nodeAffinity": nil}}, InjectedSidecar, ""},

		"Windows":                 {object{"os": object{"name": "windows"}}, WindowsPod, ""},
		"Windows by selector":     {object{"nodeSelector": object{os: "windows"}}, WindowsPod, ""},
		"Windows by old selector": {object{"nodeSelector": object{"beta.kubernetes.io/os": "windows"}}, WindowsPod, ""},
		"Windows by affinity":     {object{"affinity": affinity([]string{os + " In windows"})}, WindowsPod, ""},
		"not on Linux":            {object{"affinity": affinity([]string{os + " NotIn linux"})}, WindowsPod, ""},
		"Linux":                   {object{"os": object{"name": "linux"}, "nodeSelector": object{os: "linux"}}, InjectedSidecar, ""},
	} {
		spec := object{"containers": []any{app()}}
		for k, v := range tt.spec {
			spec[k] = v
		}
		_, res := injected(t, spec, nil, enabled("shop"))
		said := strings.Join(res.Warnings, "\n")
		if res.Reason != tt.reason || res.Reason.Denies() || !strings.Contains(said, tt.warns) || tt.warns == "" && tt.reason == InjectedSidecar && said != "" {
			t.Errorf("%s: %s, %q; want %s, %q", name, res.Reason, said, tt.reason, tt.warns)
		}
		if (tt.reason == Architecture || tt.reason == WindowsPod) && (said == "" || res.Patch != nil) {
			t.Errorf("%s: nobody is told, or the pod is changed: %q, %s", name, said, res.Patch)
		}
		// A host proxy has its own place to be; what the pod needs is an environment, on any processor.
		if tt.reason == Architecture {
			if _, res := injected(t, spec, map[string]any{AnnotationMode: "host"}, enabled("shop")); res.Reason != InjectedHost {
				t.Errorf("%s, host mode: %s", name, res.Reason)
			}
		}
	}
	if _, res := injected(t, object{"containers": []any{app()}, "nodeSelector": object{arch: "s390x"}}, nil, enabled("shop"),
		func(c *Config) { c.Architectures = []string{"s390x"} }); res.Reason != InjectedSidecar {
		t.Errorf("with an image for it: %s", res.Reason)
	}
}
