package dtab

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
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
		{Path: "/svc/a", Dtab: "/host=>/x", Before: here, After: here},
		{Path: "/svc/b", Caller: "shop", Before: here, Unknown: []string{"after"}, Changed: true},
		{Path: "/svc/b", Before: here, After: here},
		{Path: "/svc/a", Reason: "a namer has not answered yet"},
		{Path: "/svc/b", Caller: "shop", Before: here, After: []leaf{{"/#/y", 1}}, Changed: true},
		{Path: "/svc/a", Before: here, After: here},
		{Path: "/svc/b", Before: here, Lost: true, Changed: true},
		{Path: "/svc/b", Caller: "shop", Before: here, After: here},
	})
	if len(got) != 4 || got[0].Path != "/svc/a" || len(got[0].Before) != 1 || got[1].Dtab == "" || got[2].Caller != "" || !got[2].Lost || got[3].Caller != "shop" || !got[3].Changed || got[3].Unknown != nil {
		t.Errorf("%+v", got)
	}
}

// A proxy with rules of its own uses a name by these, too, and a plan says which.
func TestPlanOfRulesOfProxies(t *testing.T) {
	m := newMesh(t)
	m.use("/svc/x&dtab=" + url.QueryEscape("/srv/x=>/srv/world"))
	m.use("/svc/y&dtab=" + url.QueryEscape("/srv/x=>/srv/world"))
	m.use("/svc/y&dtab=" + url.QueryEscape("/srv/y=>/srv/world-v2; /srv/y=>\t~"))
	const next = "/srv=>/#/io.l5d.k8s/shop/http; /svc/both=>/srv/world"
	got := m.run(next, "plan", "shop", "-")
	want := result{
		code: 2,
		stdout: "NAME        CALLER   WITH   NOW                                                                        THEN                            RESULT\n" +
			"/svc/both   -        -      90% /#/io.l5d.k8s/shop/http/world + 10% /#/io.l5d.k8s/shop/http/world-v2   /#/io.l5d.k8s/shop/http/world   changed\n" +
			"/svc/x      -        [1]    /#/io.l5d.k8s/shop/http/world                                              -                               LOST: no rule and no namer answers it\n" +
			"/svc/y      -        [1]    -                                                                          =                               same: no rule and no namer answers it\n" +
			"/svc/y      -        [2]    /#/io.l5d.k8s/shop/http/world-v2                                           -                               LOST: no rule and no namer answers it\n" +
			"[1] rules of who uses it, after those of the dtab: /srv/x=>/srv/world\n" +
			"[2] rules of who uses it, after those of the dtab: /srv/y=>/srv/world-v2;/srv/y=>~\n",
		stderr: "shop: 4 names, 1 changed, 2 lost; names seen by http://namer\nerror: 2 names would be lost\nhint: apply refuses this without --force\n",
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(result{})); diff != "" {
		t.Error(diff)
	}
	got = m.run(next, "plan", "shop", "-", "-o", "json")
	if strings.Count(got.stdout, `"dtab": "/srv/x=>/srv/world",`) != 2 || strings.Contains(got.stdout, `"unknown"`) || strings.Contains(got.stdout, `"omitted"`) {
		t.Errorf("%+v", got)
	}
	if got := m.run(next, "plan", "shop", "-", "-o", "name"); got.stdout != "/svc/both\n/svc/x\n/svc/y\n" {
		t.Errorf("%+v", got)
	}
}

// What a namer has not said is not said to be so or so, and stops a write that could lose something by it.
func TestPlanOfPendingNames(t *testing.T) {
	const world, late = `[{"id":"/#/io.l5d.k8s/shop/http/world","share":1}]`, `"unknown":["after"],"reason":"a namer has not answered yet"`
	names := map[string]string{
		"now":  `{"path":"/svc/now","before":[],"after":` + world + `,"changed":true,"unknown":["before"],"reason":"a namer has not answered yet where requests go now"}`,
		"then": `{"path":"/svc/then","before":` + world + `,"after":[],"changed":true,` + late + `}`,
		"both": `{"path":"/svc/both","before":[],"after":[],"unknown":["before","after"],"reason":"a namer has not answered yet"}`,
		"new":  `{"path":"/svc/new","before":[],"after":[],` + late + `}`,
		"lost": `{"path":"/svc/lost","before":` + world + `,"after":[],"changed":true,"lost":true,"reason":"no rule and no namer answers it"}`,
	}
	var answer string
	m := newMeshOf(t, map[string]string{"shop": rules}, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, "/api/1/plan/") {
				io.WriteString(w, `{"version":"AAAAAAAAAAE=","names":[`+answer+`],"omitted":2}`)
				return
			}
			h.ServeHTTP(w, r)
		})
	})
	const omitted = "warning: up to 2 names in use are missing: a namer takes no note of very long ones, nor of more than 1000 with rules of their own\n"
	answer = names["now"] + "," + names["then"] + "," + names["both"] + "," + names["new"]
	got, want := m.run("/svc => ~", "plan", "shop", "-"), result{
		code: 2,
		stdout: "NAME        CALLER   NOW                             THEN                            RESULT\n" +
			"/svc/both   -        ?                               ?                               not known: a namer has not answered yet\n" +
			"/svc/new    -        -                               ?                               not known: a namer has not answered yet\n" +
			"/svc/now    -        ?                               /#/io.l5d.k8s/shop/http/world   not known: a namer has not answered yet where requests go now\n" +
			"/svc/then   -        /#/io.l5d.k8s/shop/http/world   ?                               not known: a namer has not answered yet\n",
		stderr: omitted + "shop: 4 names, 0 changed, 0 lost, 4 not known; names seen by http://namer\n" +
			"error: 1 name might be lost\nhint: a namer has not answered within two seconds, so try again; apply refuses this without --force\n",
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(result{})); diff != "" {
		t.Error(diff)
	}
	got = m.run("/svc => ~", "apply", "shop", "-")
	if got.code != 2 || !strings.HasSuffix(got.stderr, "error: 1 name in use might be lost, so shop is not written\n"+
		"hint: a namer has not answered within two seconds, so try again; --force writes it nevertheless; tulle dtab plan shows everything that would change\n") ||
		!strings.Contains(got.stderr, "/svc/then") || strings.Contains(got.stderr, "/svc/now") {
		t.Errorf("%+v", got)
	}
	if got := m.run("", "delete", "shop", "--yes"); got.code != 2 || !strings.Contains(got.stderr, "error: 1 name in use might be lost, so shop is not deleted\n") {
		t.Errorf("%+v", got)
	}
	answer = names["then"] + "," + names["lost"]
	if got := m.run("/svc => ~", "apply", "shop", "-"); got.code != 2 || !strings.Contains(got.stderr, "error: 1 name in use would be lost, and 1 more might be, so shop is not written\n") {
		t.Errorf("%+v", got)
	}
	// Proxies may hold endpoints of what the namer does not know now: all or a part of the requests would lose them.
	const gone = `{"path":"/svc/gone","before":[],"after":[],"unknown":["before"],"reason":"no rule and no namer answers it"}`
	const half = `{"path":"/svc/half","before":[],"after":[{"id":"/#/x","share":0.5}],"unknown":["before"],"changed":true,"reason":"a branch of a union has no endpoints: $"}`
	for _, answer = range []string{gone, half} {
		if got := m.run("/svc => ~", "plan", "shop", "-"); got.code != 2 || !strings.Contains(got.stderr, "error: 1 name might be lost\n") {
			t.Errorf("%+v", got)
		}
		if got := m.run("/svc => ~", "apply", "shop", "-"); got.code != 2 || !strings.Contains(got.stderr, "error: 1 name in use might be lost, so shop is not written\n") {
			t.Errorf("%+v", got)
		}
	}
	// What has somewhere to go afterwards, or waits before and after, is written.
	answer = names["now"] + "," + names["both"]
	if got := m.run("/svc => ~", "apply", "shop", "-"); got != (result{0, "", omitted + "shop: written, 1 rule; 2 names, 0 changed, 0 lost, 2 not known; names seen by http://namer\n"}) {
		t.Errorf("%+v", got)
	}
}
