package workload

import (
	"strings"

	"pgregory.net/rapid"
)

// EqualJSON is for tests outside of the package.
var EqualJSON = equalJSON

// Still reports whether nothing of a text is moved or replaced by an injection: what is, is written anew.
func Still(text string) bool {
	return !strings.Contains(text, "NODE_NAME") && !strings.Contains(text, "override")
}

// DrawWorkload draws a Deployment in some layout.
func DrawWorkload(t *rapid.T) string {
	env := func(name string) []any {
		var list []any
		for _, n := range rapid.SliceOfN(rapid.SampledFrom([]string{"A", "B", "http_proxy", "NO_PROXY", "no_proxy", "NODE_NAME"}), 0, 4).Draw(t, name) {
			v := map[string]any{"name": n, "value": rapid.SampledFrom([]string{"", "x", "corp,10.0.0.0/8", "http://p:1"}).Draw(t, "value")}
			if n == "NODE_NAME" {
				v = map[string]any{"name": n, "valueFrom": map[string]any{"fieldRef": map[string]any{"fieldPath": "spec.nodeName"}}}
			}
			list = append(list, v)
		}
		return list
	}
	containers := func(prefix string, least int) []any {
		var list []any
		for i := range rapid.IntRange(least, 3).Draw(t, prefix) {
			c := map[string]any{"name": prefix + string(rune('a'+i)), "image": "i:1"}
			if e := env("env"); e != nil {
				c["env"] = e
			}
			if rapid.Bool().Draw(t, "args") {
				c["args"] = []any{"-c", "x\ny\n"}
			}
			list = append(list, c)
		}
		return list
	}
	spec := map[string]any{"containers": containers("c", 1)}
	if init := containers("i", 0); init != nil {
		spec["initContainers"] = init
	}
	if rapid.Bool().Draw(t, "volumes") {
		spec["volumes"] = []any{map[string]any{"name": "v", "emptyDir": map[string]any{}}}
	}
	meta := map[string]any{"labels": map[string]any{"app": "web"}}
	if rapid.Bool().Draw(t, "annotations") {
		meta["annotations"] = map[string]any{"a": "b: c", "tulle.dev/on-conflict": rapid.SampledFrom([]string{"leave", "override"}).Draw(t, "conflict")}
	}
	l := &layout{t: t, step: rapid.IntRange(1, 4).Draw(t, "step"), dash: rapid.IntRange(0, 3).Draw(t, "dash")}
	l.object(map[string]any{"kind": "Deployment", "spec": map[string]any{"template": map[string]any{"metadata": meta, "spec": spec}}}, 0, false)
	return l.b.String()
}
