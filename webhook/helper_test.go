package webhook

import (
	"encoding/json"
	"testing"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
)

const testCA = "-----BEGIN CERTIFICATE-----\nMAo=\n-----END CERTIFICATE-----\n"

func testConfig() Config {
	return Config{
		ProxyImage:    "tulle.dev/tulle-proxy:dev",
		ControllerURL: "https://tulle-controller.tulle.svc:4181",
		ControllerCA:  testCA,
		MemoryLimit:   "256Mi",
	}
}

func enabled(name string, labels ...string) Namespace {
	ns := Namespace{Name: name, Labels: map[string]string{LabelInject: "enabled"}}
	for i := 0; i+1 < len(labels); i += 2 {
		ns.Labels[labels[i]] = labels[i+1]
	}
	return ns
}

type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

// applied returns pod after the patch of res.
func applied(t fataler, pod []byte, res Result) []byte {
	t.Helper()
	if res.Patch == nil {
		return pod
	}
	p, err := jsonpatch.DecodePatch(res.Patch)
	if err != nil {
		t.Fatalf("decode the patch: %v\n%s", err, res.Patch)
	}
	out, err := p.Apply(pod)
	if err != nil {
		t.Fatalf("apply the patch: %v\n%s\nto %s", err, res.Patch, pod)
	}
	return out
}

func mustInject(t fataler, pod []byte, ns Namespace, cfg Config) Result {
	t.Helper()
	res, err := Inject(pod, ns, cfg)
	if err != nil {
		t.Fatalf("inject: %v", err)
	}
	return res
}

func tree(t fataler, raw []byte) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatalf("decode: %v\n%s", err, raw)
	}
	return v
}

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	out, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
