package dtab

import (
	"encoding/json"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// cluster is two controllers, of which the second one alone knows that /svc/world is in use.
func cluster(t *testing.T, wrap func(http.Handler) http.Handler) (one, two *mesh, run func(stdin string, args ...string) result) {
	same := func(h http.Handler) http.Handler { return h }
	if wrap == nil {
		wrap = same
	}
	two = newMeshOf(t, map[string]string{"shop": rules}, wrap)
	two.use("/svc/world")
	one = newMeshOf(t, map[string]string{"shop": rules}, same)
	config := controllers(t, map[string]string{"one": one.url, "two": two.url})
	return one, two, func(stdin string, args ...string) result {
		return one.run(stdin, append(args, "--namer", "", "--kubeconfig", config)...)
	}
}

// controllers is a cluster of the pods one and two; one that has no address cannot be reached.
func controllers(t *testing.T, at map[string]string) (kubeconfig string) {
	kubeconfig, _ = apiServer(t, []corev1.Pod{controller("one", corev1.ConditionTrue, 4180), controller("two", corev1.ConditionTrue, 4180)},
		func(pod string) string { return strings.TrimPrefix(at[pod], "http://") })
	return kubeconfig
}

// Every replica knows the names of its own proxies; a plan is made of all of them.
func TestPlanOfAllReplicas(t *testing.T) {
	one, _, run := cluster(t, nil)
	got := run("/svc/world => $", "plan", "shop", "-", "-o", "json")
	want := "shop: 2 names, 0 changed, 2 lost; names seen by all 2 controllers\nerror: 2 names would be lost\nhint: apply refuses this without --force\n"
	var p plan
	if err := json.Unmarshal([]byte(got.stdout), &p); err != nil || got.code != 2 || got.stderr != want || p.Partial || len(p.Names) != 2 || p.Names[0].Path != "/svc/both" || p.Names[1].Path != "/svc/world" {
		t.Errorf("%+v, %v", got, err)
	}
	// It is the other one's name that is lost.
	const only = rules + "/svc/world => $"
	if got := run(only, "apply", "shop", "-"); got.code != 2 || !strings.Contains(got.stderr, "/svc/world") || strings.Contains(got.stderr, "/svc/both") {
		t.Errorf("%+v", got)
	}
	if got := one.run(only, "plan", "shop", "-"); got.code != 0 || got.stderr != "shop: 1 name, 0 changed, 0 lost; names seen by http://namer\n" {
		t.Errorf("%+v", got)
	}
}

// A replica that cannot be asked is named, and the others are asked.
func TestPartialPlan(t *testing.T) {
	m := newMesh(t)
	for _, c := range []struct {
		at   map[string]string
		want string // the beginning of the warning
	}{
		{map[string]string{"one": m.url}, "warning: names that only pod two knows are missing: forward a port to pod two: "},
		{map[string]string{"one": m.url, "two": "127.0.0.1:1"}, "warning: names that only pod two knows are missing: ask the namer in pod two: "},
		{map[string]string{"two": m.url}, "warning: names that only pod one knows are missing: forward a port to pod one: "},
		{map[string]string{"one": "127.0.0.1:1", "two": m.url}, "warning: names that only pod one knows are missing: ask the namer in pod one: "},
	} {
		config := controllers(t, c.at)
		got := m.run(rules, "plan", "shop", "-", "--namer", "", "--kubeconfig", config)
		warning, rest, _ := strings.Cut(got.stderr, "\n")
		if got.code != 0 || !strings.HasPrefix(warning, c.want) || rest != "shop: 1 name, 0 changed, 0 lost; partial: names seen by 1 of 2 controllers\n" || !strings.Contains(got.stdout, "/svc/both") {
			t.Errorf("%v: %+v", c.at, got)
		}
		got = m.run(rules, "plan", "shop", "-", "--namer", "", "--kubeconfig", config, "-o", "json")
		if !strings.Contains(got.stdout, `"partial": true`) {
			t.Errorf("%v: %+v", c.at, got)
		}
	}
	// Nobody is there.
	got := m.run(rules, "plan", "shop", "-", "--namer", "", "--kubeconfig", controllers(t, map[string]string{"one": "127.0.0.1:1", "two": "127.0.0.1:1"}))
	if got.code != 1 || !strings.HasPrefix(got.stderr, "error: ask the namer in pod one: ") {
		t.Errorf("%+v", got)
	}
}

// Replicas plan from one version. One that has another is asked again, and left out in the end.
func TestReplicasDisagree(t *testing.T) {
	for _, c := range []struct {
		behind int32 // so often the second one says another version
		want   string
	}{
		{2, "shop: 2 names, 0 changed, 0 lost; names seen by all 2 controllers\n"},
		{9, "warning: names that only pod two knows are missing: it plans from version old of shop, not from AAAAAAAAAAE=\n" +
			"shop: 1 name, 0 changed, 0 lost; partial: names seen by 1 of 2 controllers\n"},
	} {
		var asked atomic.Int32
		_, _, run := cluster(t, func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasPrefix(r.URL.Path, "/api/1/plan/") && asked.Add(1) <= c.behind {
					w.Write([]byte(`{"version":"old","names":[{"path":"/svc/old"}]}`))
					return
				}
				h.ServeHTTP(w, r)
			})
		})
		if got := run(rules, "plan", "shop", "-"); got.code != 0 || got.stderr != c.want {
			t.Errorf("behind %d times: %+v", c.behind, got)
		}
	}
}

// Of what replicas say of one name, the worst counts.
func TestMerge(t *testing.T) {
	here := []leaf{{"/#/x", 1}}
	got := merge([]planned{
		{Path: "/svc/b", Before: here, After: here},
		{Path: "/svc/a", Reason: "a namer has not answered yet"},
		{Path: "/svc/b", Caller: "shop", Before: here, After: []leaf{{"/#/y", 1}}, Changed: true},
		{Path: "/svc/a", Before: here, After: here},
		{Path: "/svc/b", Before: here, Lost: true, Changed: true},
		{Path: "/svc/b", Caller: "shop", Before: here, After: here},
	})
	if len(got) != 3 || got[0].Path != "/svc/a" || len(got[0].Before) != 1 || got[1].Caller != "" || !got[1].Lost || got[2].Caller != "shop" || !got[2].Changed {
		t.Errorf("%+v", got)
	}
}
