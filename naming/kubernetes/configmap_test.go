package kubernetes

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/tulle-mesh/tulle/internal/logtest"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/namer/api"
)

var shopRules = types.NamespacedName{Namespace: "shop", Name: "rules"}

func newConfigMaps() (*ConfigMaps, *logtest.Buffer) {
	l := &logtest.Buffer{}
	return NewConfigMaps([]types.NamespacedName{shopRules}, slog.New(slog.NewTextHandler(l, nil))), l
}

func of(key string) api.ConfigMap { return api.ConfigMap{Namespace: "shop", Name: "rules", Key: key} }

func showRules(r *api.Rules) string {
	switch {
	case r == nil:
		return "unknown"
	case r.Text == nil:
		return "none: " + r.Cause
	case r.Cause != "":
		return *r.Text + ": " + r.Cause
	}
	return *r.Text
}

// What proxies are told, for each thing that can become of a ConfigMap.
func TestConfigMap(t *testing.T) {
	c, log := newConfigMaps()
	m := c.all[shopRules]
	rules, release := c.Rules(of("dtab"))
	defer release()
	told := 0
	rules.Notify(func() { told++ })
	const wrong = "key dtab of ConfigMap shop/rules does not parse: line 2, column 11: a path, '(', '~', '!' or '$' expected but ';' found"
	step := func(what, want string, f func()) {
		t.Helper()
		before, old := told, showRules(rules.Get())
		f()
		if got := showRules(rules.Get()); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
		if n := told - before; n > 1 || n == 1 && old == want {
			t.Errorf("%s: told %d times", what, n)
		}
	}
	data := func(pairs ...string) func() {
		all := map[string]string{}
		for i := 0; i < len(pairs); i += 2 {
			all[pairs[i]] = pairs[i+1]
		}
		return func() { m.apply(true, all, nil) }
	}
	const broken = "/svc => /b ;\n/srv => ( ;"
	step("before all is read", "unknown", data())
	step("all is read, and there is no such key", "", m.markRead)
	step("it comes", "/svc=>/a", data("dtab", "/svc => /a ;"))
	step("another key changes", "/svc=>/a", data("dtab", "/svc => /a ;", "x", "y"))
	step("only white space changes", "/svc=>/a", data("dtab", "# same\n/svc=>/a"))
	step("it does not parse", "/svc=>/a: "+wrong, data("dtab", broken))
	step("another key changes meanwhile", "/svc=>/a: "+wrong, data("dtab", broken, "x", "z"))
	step("repaired", "/svc=>/b", data("dtab", "/svc=>/b"))
	step("the key goes", "", data("x", "y"))
	step("it comes and does not parse: no rules is what there was", ": "+wrong, data("dtab", broken))
	step("back", "/svc=>/c", data("dtab", "/svc=>/c"))
	binary := map[string][]byte{"dtab": []byte("/svc=>/d")}
	const inBinary = "key dtab of ConfigMap shop/rules is binary data; put the rules into data, as text"
	step("binary data", "/svc=>/c: "+inBinary, func() { m.apply(true, nil, binary) })
	step("back from that", "/svc=>/c", data("dtab", "/svc=>/c"))
	step("the key goes again", "", data("x", "y"))
	step("it comes as binary data", ": "+inBinary, func() { m.apply(true, nil, keysOf(binary)) })
	step("back again", "/svc=>/c", data("dtab", "/svc=>/c"))
	step("deleted", "", func() { m.apply(false, nil, nil) })
	step("made anew", "/svc=>/c", data("dtab", "/svc=>/c"))
	if n := strings.Count(log.String(), "rules are not taken"); n != 4 {
		t.Errorf("%d lines about what is wrong:\n%s", n, log.String())
	}
	if strings.Count(log.String(), "/srv => (") != 0 {
		t.Error("what a key has is in the log")
	}

	// Who follows later has what others have, and a key that nobody follows is remembered too.
	data("dtab", broken, "other", "/o=>/p")()
	data("dtab", broken, "other", "/o=>")()
	again, release2 := c.Rules(of("dtab"))
	if again != rules {
		t.Error("two values for one key")
	}
	other, release3 := c.Rules(of("other"))
	if got := other.Get(); *got.Text != "/o=>/p" || got.Cause == "" {
		t.Errorf("the other key is %s", showRules(got))
	}
	for _, f := range []func(){release, release, release2, release3} {
		f()
	}
	if len(m.followed) != 0 {
		t.Error("keys are still followed")
	}
}

// A value that never parsed is not known.
func TestConfigMapNeverParsed(t *testing.T) {
	c, _ := newConfigMaps()
	m := c.all[shopRules]
	m.apply(true, map[string]string{"dtab": "/svc"}, nil)
	m.markRead()
	rules, release := c.Rules(of("dtab"))
	defer release()
	if got := rules.Get(); got.Text != nil || !strings.Contains(got.Cause, "does not parse: line 1, column 5: ") {
		t.Errorf("got %s", showRules(got))
	}
}

// What cannot be read is said, and an API server that is away is not once there are rules.
func TestConfigMapFailed(t *testing.T) {
	c, _ := newConfigMaps()
	m := c.all[shopRules]
	rules, release := c.Rules(of("dtab"))
	defer release()
	forbidden := apierrors.NewForbidden(corev1.Resource("configmaps"), "rules", nil)
	away := apierrors.NewServiceUnavailable("away")
	for _, s := range []struct {
		do   func()
		want string
	}{
		{func() { m.tried(t.Context(), away) }, "none: the controller cannot read ConfigMap shop/rules: away; it tries again"},
		{func() { m.tried(t.Context(), errors.New("no route")) }, "none: the controller cannot read ConfigMap shop/rules: no route; it tries again"},
		{func() { m.tried(t.Context(), errors.New("refused")) }, "none: the controller cannot read ConfigMap shop/rules: no route; it tries again"},
		{func() { m.tried(t.Context(), forbidden) }, "none: the controller may not read ConfigMap shop/rules: " + forbidden.Error() + "; give"},
		{func() { m.tried(t.Context(), apierrors.NewForbidden(corev1.Resource("configmaps"), "otherwise", nil)) }, "none: the controller may not read ConfigMap shop/rules: " + forbidden.Error() + "; give"},
		{func() {
			m.tried(t.Context(), nil)
			m.apply(true, map[string]string{"dtab": "/a=>/b"}, nil)
			m.markRead()
		}, "/a=>/b"},
		{func() { m.tried(t.Context(), away) }, "/a=>/b"},
		{func() { m.tried(t.Context(), forbidden) }, "/a=>/b: the controller may not read"},
		{func() { m.tried(t.Context(), nil) }, "/a=>/b"},
		{func() {
			ended, cancel := context.WithCancel(t.Context())
			cancel()
			m.tried(ended, forbidden)
		}, "/a=>/b"},
	} {
		s.do()
		if got := showRules(rules.Get()); !strings.HasPrefix(got, s.want) || strings.HasSuffix(s.want, "b") && got != s.want {
			t.Errorf("got %s, want %s", got, s.want)
		}
	}
	for _, m := range []api.ConfigMap{{Namespace: "shop", Name: "other", Key: "dtab"}, {Namespace: "x", Name: "rules", Key: "dtab"}, {}} {
		refused, release := c.Rules(m)
		if got := refused.Get(); got.Text != nil || !strings.Contains(got.Cause, "add "+m.Namespace+"/"+m.Name+" to the chart's value namer.configMaps") {
			t.Errorf("%s: got %s", m, showRules(got))
		}
		release()
	}
}

// Whatever becomes of a ConfigMap, the rules are those of the last value that parsed.
func TestConfigMapIsTheLastThatParsed(t *testing.T) {
	texts := []string{"", "/a=>/b", "/a=>/c;", "/a=>", "/svc", "# nothing"}
	rapid.Check(t, func(t *rapid.T) {
		c, _ := newConfigMaps()
		m := c.all[shopRules]
		m.markRead()
		want := ""
		v, release := c.Rules(of("k"))
		defer release()
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			data := map[string]string{"other": rapid.SampledFrom(texts).Draw(t, "other")}
			if rapid.Bool().Draw(t, "there") {
				data["k"] = rapid.SampledFrom(texts).Draw(t, "text")
			}
			if d, err := naming.ParseDtab(data["k"]); err == nil {
				want = d.Exact()
			}
			m.apply(rapid.Bool().Draw(t, "exists"), data, nil)
			if got := *v.Get().Text; got != want {
				t.Fatalf("got %q, want %q", got, want)
			}
		}
	})
}

func TestParseConfigMap(t *testing.T) {
	if m, err := ParseConfigMap("shop/rules.v1"); err != nil || m.Namespace != "shop" || m.Name != "rules.v1" {
		t.Errorf("got %v, %v", m, err)
	}
	for _, s := range []string{"", "/", "shop", "shop/", "/rules", "Shop/rules", "shop/rules/dtab", "sh.op/rules", "shop/rules_1"} {
		if _, err := ParseConfigMap(s); err == nil || !strings.Contains(err.Error(), "must be <namespace>/<name>, such as shop/rules") {
			t.Errorf("%q: %v", s, err)
		}
	}
}
