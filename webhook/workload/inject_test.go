package workload_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/tulle-mesh/tulle/webhook"
	"github.com/tulle-mesh/tulle/webhook/workload"
)

// What the injector does to a file, however that is laid out, is taken away again without a trace.
func TestInjectionComesBack(t *testing.T) {
	config := webhook.Config{
		ProxyImage: "proxy:1", ControllerURL: "https://c:1", ControllerCA: "-----BEGIN CERTIFICATE-----\nMAo=\n-----END CERTIFICATE-----\n",
		ImagePullSecrets: []string{"cred"},
	}
	injected := 0
	rapid.Check(t, func(t *rapid.T) {
		text := workload.DrawWorkload(t)
		mode := rapid.SampledFrom([]string{"host", "sidecar"}).Draw(t, "mode")
		ns := webhook.Namespace{Name: "shop", Labels: map[string]string{webhook.LabelInject: "enabled", webhook.LabelMode: mode}}
		f, err := workload.Parse("f", []byte(text))
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		res, err := webhook.Inject(f.Templates[0].JSON, ns, config)
		if err != nil {
			t.Fatal(err)
		}
		if res.Reason.Denies() || res.Patch == nil {
			return
		}
		injected++
		there, err := f.Edit([][]byte{res.Patch})
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		g, err := workload.Parse("g", there)
		if err != nil {
			t.Fatal(err)
		}
		again, err := webhook.Inject(g.Templates[0].JSON, ns, config)
		if err != nil || again.Patch != nil {
			t.Fatalf("a second pass is not empty: %s, %v\n%s", again.Patch, err, there)
		}
		undo, err := webhook.Uninject(g.Templates[0].JSON)
		if err != nil {
			t.Fatal(err)
		}
		back, err := g.Edit([][]byte{undo})
		if err != nil {
			t.Fatalf("%v\n%s", err, there)
		}
		h, err := workload.Parse("h", back)
		if err != nil {
			t.Fatal(err)
		}
		if !workload.EqualJSON(h.Templates[0].JSON, f.Templates[0].JSON) {
			t.Fatalf("got %s\nwant %s", h.Templates[0].JSON, f.Templates[0].JSON)
		}
		if string(back) != text && workload.Still(text) {
			t.Fatalf("%s\nbecame\n%s\nbecame\n%s\nby %s and %s", text, there, back, res.Patch, undo)
		}
	})
	if injected == 0 {
		t.Error("nothing was ever injected")
	}
}
