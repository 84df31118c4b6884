//go:build e2e

package names

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/tulle-mesh/tulle/e2e/cluster"
	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/kubernetes/store"
	"github.com/tulle-mesh/tulle/naming/namer"
	"github.com/tulle-mesh/tulle/naming/namer/storetest"
)

// newStore returns a store that runs until the test ends.
func newStore(t *testing.T, ns string, config *rest.Config) *store.Store {
	t.Helper()
	s, err := store.New(store.Config{Client: dynamicClient(t, config), Namespace: ns, Logger: logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	run(t, s.Run)
	return s
}

func dtab(t testing.TB, text string) naming.Dtab {
	t.Helper()
	d, err := naming.ParseDtab(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func by(t testing.TB, who, text string) namer.Change {
	return namer.Change{Dtab: dtab(t, text), By: who}
}

// await waits until a store serves a text, and returns it.
func await(t *testing.T, s *store.Store, name, text string) *namer.Versioned {
	t.Helper()
	v, release := s.Watch(name)
	defer release()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	got, err := v.Wait(ctx, func(v *namer.Versioned) bool { return v != nil && v.Version != "" && v.Dtab.Exact() == text })
	if err != nil {
		t.Fatalf("%s is still %+v, want %s", name, got, text)
	}
	return got
}

func awaitValue[T any](t *testing.T, v *watch.Value[T], ok func(T) bool) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	got, err := v.Wait(ctx, ok)
	if err != nil {
		t.Fatalf("still %+v", got)
	}
	return got
}

// must returns a version that a write made.
func must(t *testing.T) func(version string, err error) string {
	return func(version string, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return version
	}
}

func refused(t *testing.T, want error) func(version string, err error) {
	return func(version string, err error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Errorf("got %q, %v; want %v", version, err, want)
		}
	}
}

// kubectl runs kubectl in a namespace; edit is its standard input.
func kubectl(t *testing.T, ns, edit string, args ...string) string {
	t.Helper()
	out, err := api.Kubectl(t.Context(), strings.NewReader(edit), append([]string{"-n", ns}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// It does what the stores in memory and in files do.
func TestStoreLikeTheOthers(t *testing.T) {
	storetest.Test(t, newStore(t, namespace(t, api), api.RESTConfig()), false)
}

// What namerd's clients may do: the life of a namespace, and who is refused.
func TestStoreWrites(t *testing.T) {
	ctx, ns := t.Context(), namespace(t, api)
	s, must, refused := newStore(t, ns, api.RESTConfig()), must(t), func(e error) func(string, error) { return refused(t, e) }
	awaitValue(t, s.Names(), func(n []string) bool { return n != nil && len(n) == 0 })
	if _, err := s.Get(ctx, "web"); !errors.Is(err, namer.ErrNotFound) {
		t.Errorf("got %v", err)
	}
	if err := s.Delete(ctx, "web", "ada"); !errors.Is(err, namer.ErrNotFound) {
		t.Errorf("deleted: %v", err)
	}
	refused(namer.ErrNotFound)(s.Update(ctx, "web", by(t, "ada", "/a=>/b"), "1.x"))
	one := must(s.Create(ctx, "web", by(t, "ada", "/a=>/b")))
	// Who has written reads it, without waiting.
	if v, err := s.Get(ctx, "web"); err != nil || v.Version != one || v.Dtab.String() != "/a=>/b" {
		t.Errorf("after Create it is %+v, %v", v, err)
	}
	if got := s.Names().Get(); !slices.Equal(got, []string{"web"}) {
		t.Errorf("names are %q", got)
	}
	// Elsewhere too, and where nothing has been read yet.
	other, err := store.New(store.Config{Client: dynamicClient(t, api.RESTConfig()), Namespace: ns})
	if err != nil {
		t.Fatal(err)
	}
	if v, err := other.Get(ctx, "web"); err != nil || v.Version != one {
		t.Errorf("another replica has %+v, %v", v, err)
	}
	refused(namer.ErrExists)(s.Create(ctx, "web", by(t, "bob", "/a=>/c")))
	two := must(s.Update(ctx, "web", by(t, "bob", "/svc=>/c|!"), one))
	refused(namer.ErrVersion)(s.Update(ctx, "web", by(t, "eve", "/a=>/e"), one))
	three := must(s.Put(ctx, "web", by(t, "", "/a => 0.001 * /x & /y")))
	if v, _ := s.Get(ctx, "web"); v.Dtab.Exact() != "/a=>0.001*/x & /y" {
		t.Errorf("the weight is stored as %s", v.Dtab.Exact())
	}
	if same := must(s.Put(ctx, "web", by(t, "eve", "/a => 0.001*/x & /y"))); same != three {
		t.Errorf("writing what is there makes version %s of %s", same, three)
	}
	empty := must(s.Put(ctx, "web", by(t, "bob", "")))
	if v, err := s.Get(ctx, "web"); err != nil || len(v.Dtab) != 0 || v.Version != empty {
		t.Errorf("the empty dtab is %+v, %v", v, err)
	}
	history, err := s.History(ctx, "web")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range history {
		got = append(got, r.By+" "+r.Dtab.Exact())
		if since := time.Since(r.Time); since < -time.Minute || since > time.Minute {
			t.Errorf("written %s ago", since)
		}
	}
	if want := []string{"bob ", " /a=>0.001*/x & /y", "bob /svc=>/c | !", "ada /a=>/b"}; !slices.Equal(got, want) {
		t.Errorf("the history is\n%q, want\n%q", got, want)
	}
	if history[3].Version != one || history[2].Version != two {
		t.Errorf("versions are %q and %q, want %q and %q", history[3].Version, history[2].Version, one, two)
	}
	if err := s.Delete(ctx, "web", "ada"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(ctx, "web"); !errors.Is(err, namer.ErrNotFound) || len(s.Names().Get()) != 0 {
		t.Errorf("deleted, it is %v, %v", err, s.Names().Get())
	}
	if again := must(s.Create(ctx, "web", by(t, "ada", "/a=>/b"))); again == one {
		t.Errorf("version %s is used again", again)
	}
	refused(namer.ErrForbidden)(s.Create(ctx, "No-Name", by(t, "ada", "/a=>/b")))
}

// The history ends with the tenth, in the object and here, and a restart does not lose it.
func TestStoreHistory(t *testing.T) {
	ctx, ns := t.Context(), namespace(t, api)
	s := newStore(t, ns, api.RESTConfig())
	for i := range 13 {
		must(t)(s.Put(ctx, "web", by(t, fmt.Sprint("w", i), fmt.Sprintf("/a=>/v%d", i))))
	}
	awaitStatus(t, ns, "web", "{.status.history[*].by}", "w12 w11 w10 w9 w8 w7 w6 w5 w4 w3")
	later := newStore(t, ns, api.RESTConfig())
	first, err := s.History(ctx, "web")
	if err != nil {
		t.Fatal(err)
	}
	second, err := later.History(ctx, "web")
	if err != nil || len(first) != namer.MaxHistory || len(second) != len(first) {
		t.Fatalf("%d and %d revisions, %v", len(first), len(second), err)
	}
	for i := range first {
		if a, b := first[i], second[i]; a.Version != b.Version || a.By != b.By || !a.Time.Equal(b.Time) || a.Dtab.Exact() != b.Dtab.Exact() {
			t.Errorf("revision %d differs: %+v, %+v", i, a, b)
		}
	}
}

// awaitStatus waits until a JSONPath of the object gives a text.
func awaitStatus(t *testing.T, ns, name, path, want string) {
	t.Helper()
	got := ""
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if got = kubectl(t, ns, "", "get", "dtab", name, "-o", "jsonpath="+path); got == want {
			return
		}
	}
	t.Fatalf("%s of %s is %q, want %q", path, name, got, want)
}

const edited = `
apiVersion: l5d.io/v1alpha1
kind: DTab
metadata: {name: web}
dentries:
- {prefix: /a, dst: /b}
- {prefix: /k, dst: "/#/io.l5d.k8s/shop/http"}
`

// Kubectl may write too; all replicas see it, one of them notes it, and what does not parse is not served.
func TestStoreKubectl(t *testing.T) {
	ctx, ns := t.Context(), namespace(t, api)
	a, b := newStore(t, ns, api.RESTConfig()), newStore(t, ns, api.RESTConfig())
	kubectl(t, ns, edited, "apply", "-f", "-")
	const text = "/a=>/b;/k=>/#/io.l5d.k8s/shop/http"
	if va, vb := await(t, a, "web", text), await(t, b, "web", text); va.Version != vb.Version {
		t.Errorf("two replicas have versions %q and %q", va.Version, vb.Version)
	}
	must(t)(a.Put(ctx, "web", by(t, "ada", "/a=>/c")))
	await(t, b, "web", "/a=>/c")
	kubectl(t, ns, "", "patch", "dtab", "web", "--type=json", "-p", `[{"op":"replace","path":"/dentries/0/dst","value":"/d"}]`)
	good := await(t, b, "web", "/a=>/d")
	await(t, a, "web", "/a=>/d")
	awaitStatus(t, ns, "web", "{.status.history[*].by}", "kubectl-patch ada kubectl-client-side-apply")
	history, err := b.History(ctx, "web")
	if err != nil || len(history) != 3 || history[0].By != "kubectl-patch" || history[1].By != "ada" {
		t.Errorf("the history is %+v, %v", history, err)
	}

	// More parentheses than the schema can count.
	kubectl(t, ns, "", "patch", "dtab", "web", "--type=json", "-p", `[{"op":"replace","path":"/dentries/0/dst","value":"(/e | /f"}]`)
	awaitStatus(t, ns, "web", "{.status.conditions[0].status} {.status.rules} {.status.conditions[0].message}",
		"False 1 dentries[0].dst: ')' expected but end of input found at '(/e | /f[]'; the rules of generation 3 are served")
	for _, s := range []*store.Store{a, b, newStore(t, ns, api.RESTConfig())} {
		if v := await(t, s, "web", "/a=>/d"); v.Version != good.Version {
			t.Errorf("what does not parse has changed the version from %q to %q", good.Version, v.Version)
		}
	}
	columns := strings.Fields(kubectl(t, ns, "", "get", "dtabs", "--no-headers"))
	if len(columns) != 6 || !slices.Equal(columns[:4], []string{"web", "1", "False", "kubectl-patch"}) {
		t.Errorf("kubectl get shows %q", columns)
	}
	// Who has read what is served repairs it.
	must(t)(b.Update(ctx, "web", by(t, "bob", "/a=>/g"), good.Version))
	await(t, a, "web", "/a=>/g")
	awaitStatus(t, ns, "web", "{.status.conditions[0].status} {.status.rules} {.status.observedGeneration}", "True 1 5")

	kubectl(t, ns, "", "delete", "dtab", "web")
	for _, s := range []*store.Store{a, b} {
		awaitValue(t, s.Names(), func(n []string) bool { return len(n) == 0 })
	}
	kubectl(t, ns, edited, "apply", "-f", "-")
	if v := await(t, a, "web", text); v.Version == good.Version {
		t.Error("an old version is back")
	}
}

// An object that never parsed exists, and has no rules.
func TestStoreNeverParsed(t *testing.T) {
	ns := namespace(t, api)
	s := newStore(t, ns, api.RESTConfig())
	kubectl(t, ns, strings.Replace(edited, "dst: /b", "dst: (/b", 1), "apply", "-f", "-")
	v := await(t, s, "web", "")
	if got := s.Names().Get(); !slices.Equal(got, []string{"web"}) {
		t.Errorf("names are %q", got)
	}
	awaitStatus(t, ns, "web", "{.status.conditions[0].status} {.status.rules}", "False 0")
	must(t)(s.Update(t.Context(), "web", by(t, "ada", "/a=>/b"), v.Version))
}

// What the API server itself refuses, and what it lets pass.
func TestDefinition(t *testing.T) {
	ns := namespace(t, api)
	object := func(name, prefix, dst string) string {
		return fmt.Sprintf("{apiVersion: l5d.io/v1alpha1, kind: DTab, metadata: {name: %s}, dentries: [{prefix: %q, dst: %q}]}", name, prefix, dst)
	}
	for _, c := range []struct{ name, prefix, dst, refused string }{
		{"a", "/svc", "/b", ""},
		{"b", "/", "/", ""},
		{"c", "/svc/*/x", "~ | $ | !", ""},
		{"d", `/\x61b`, "1 * /a & .5*/b & 2.*(/c | /d)", ""},
		{"e", " /a # note", "\n/a#b | # (note\n /b\n", ""},
		{"f", "/#/io.l5d.k8s", "/$/inet/db.test/5432", ""},
		{"g", "svc", "/b", "prefix"},
		{"h", "/svc/", "/b", "prefix"},
		{"i", "/svc", "", "dst"},
		{"j", "/svc", "/a |", "dst"},
		{"k", "/svc", "/a /b", "dst"},
		{"l", "/svc", "/a^b", "dst"},
		{"m", "/a*", "/b", "prefix"},
		{"nn", "/a", "/b//c", "dst"},
		{"o", "/a", "1.2.3*/b", "dst"},
		{"a.b", "/a", "/b", "63 characters"},
	} {
		_, err := api.Kubectl(t.Context(), strings.NewReader(object(c.name, c.prefix, c.dst)), "-n", ns, "apply", "-f", "-")
		if (err != nil) != (c.refused != "") || err != nil && !strings.Contains(err.Error(), c.refused) {
			t.Errorf("%q => %q: %v", c.prefix, c.dst, err)
		}
		if checked := store.Check(fmt.Appendf(nil, `{"dentries":[{"prefix":%q,"dst":%q}]}`, c.prefix, c.dst)); (checked != nil) != (c.refused == "dst" || c.refused == "prefix") {
			t.Errorf("%q => %q: the store says %v", c.prefix, c.dst, checked)
		}
	}
	s := newStore(t, ns, api.RESTConfig())
	awaitValue(t, s.Names(), func(n []string) bool { return slices.Equal(n, []string{"a", "b", "c", "d", "e", "f"}) })
	kubectl(t, ns, "{apiVersion: l5d.io/v1alpha1, kind: DTab, metadata: {name: none}}", "apply", "-f", "-")
	await(t, s, "none", "")
	if out := kubectl(t, ns, "", "explain", "dtab.dentries.dst"); !strings.Contains(out, "takes the place of the prefix") {
		t.Errorf("kubectl explain says\n%s", out)
	}
}

// The rights that the chart gives are enough, and without them the store says so.
func TestStoreRights(t *testing.T) {
	ctx, ns := t.Context(), namespace(t, api)
	config := api.RESTConfig()
	config.Impersonate.UserName = "somebody"
	s, err := store.New(store.Config{Client: dynamicClient(t, config), Namespace: ns})
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Put(ctx, "web", by(t, "ada", "/a=>/b"))
	if !errors.Is(err, namer.ErrForbidden) || !strings.Contains(err.Error(), "somebody") {
		t.Errorf("without rights it is %v", err)
	}
	rights := api.Client().RbacV1()
	if _, err := rights.Roles(ns).Create(ctx, &authorizationv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "r"}, Rules: []authorizationv1.PolicyRule{
		{APIGroups: []string{"l5d.io"}, Resources: []string{"dtabs"}, Verbs: []string{"get", "list", "watch", "create", "update", "delete"}},
		{APIGroups: []string{"l5d.io"}, Resources: []string{"dtabs/status"}, Verbs: []string{"patch"}},
	}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := rights.RoleBindings(ns).Create(ctx, &authorizationv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "r"},
		RoleRef:  authorizationv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "Role", Name: "r"},
		Subjects: []authorizationv1.Subject{{Kind: "User", APIGroup: "rbac.authorization.k8s.io", Name: "somebody"}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	run(t, s.Run)
	for end := time.Now().Add(patience); ; { // until the authorizer has heard of it
		if _, err = s.Put(ctx, "web", by(t, "ada", "/a=>/b")); err == nil || time.Now().After(end) {
			break
		}
	}
	await(t, s, "web", "/a=>/b")
	awaitStatus(t, ns, "web", "{.status.history[0].by}", "ada")
	if err := s.Delete(ctx, "web", "ada"); err != nil {
		t.Error(err)
	}
}

// interfere does something before the n-th request that a test picks out.
type interfere struct {
	next   http.RoundTripper
	before func(*http.Request)
}

func (i *interfere) RoundTrip(r *http.Request) (*http.Response, error) {
	i.before(r)
	return i.next.RoundTrip(r)
}

// Others write between the read and the write of a write.
func TestStoreRaces(t *testing.T) {
	ctx, ns := t.Context(), namespace(t, api)
	other := newStore(t, ns, api.RESTConfig())
	var before atomic.Pointer[func()]
	nothing := func() {}
	before.Store(&nothing)
	config := api.RESTConfig()
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return &interfere{next, func(r *http.Request) {
			if r.Method == http.MethodPut && !strings.HasSuffix(r.URL.Path, "/status") || r.Method == http.MethodPost {
				(*before.Load())()
			}
		}}
	})
	s := newStore(t, ns, config)
	one := must(t)(s.Create(ctx, "web", by(t, "ada", "/a=>/b")))
	n := 0
	times := func(count int, what func()) {
		n = 0
		f := func() {
			if n++; n <= count {
				what()
			}
		}
		before.Store(&f)
	}
	annotate := func() {
		kubectl(t, ns, "", "annotate", "--overwrite", "dtab", "web", fmt.Sprint("x=", time.Now().UnixNano()))
	}
	change := func() { must(t)(other.Put(ctx, "web", by(t, "bob", fmt.Sprint("/a=>/", time.Now().UnixNano())))) }

	times(4, annotate) // as a status is written
	two := must(t)(s.Update(ctx, "web", by(t, "ada", "/a=>/c"), one))
	times(1, change)
	refused(t, namer.ErrVersion)(s.Update(ctx, "web", by(t, "ada", "/a=>/d"), two))
	times(1, change)
	must(t)(s.Put(ctx, "web", by(t, "ada", "/a=>/e")))
	times(100, change)
	refused(t, namer.ErrConflict)(s.Put(ctx, "web", by(t, "ada", "/a=>/f")))
	times(1, func() {
		if err := other.Delete(ctx, "web", "bob"); err != nil {
			t.Error(err)
		}
	})
	must(t)(s.Put(ctx, "web", by(t, "ada", "/a=>/g")))
	times(1, func() {
		if err := other.Delete(ctx, "web", "bob"); err != nil {
			t.Error(err)
		}
	})
	v, err := s.Get(ctx, "web")
	if err != nil {
		t.Fatal(err)
	}
	refused(t, namer.ErrNotFound)(s.Update(ctx, "web", by(t, "ada", "/a=>/h"), v.Version))
	times(1, func() { must(t)(other.Create(ctx, "web", by(t, "bob", "/a=>/i"))) })
	refused(t, namer.ErrExists)(s.Create(ctx, "web", by(t, "ada", "/a=>/j")))
}

// Many replicas write at once, each guarded by what it has read: no update is lost, and all agree in the end.
func TestStoreGuarded(t *testing.T) {
	ctx, ns := t.Context(), namespace(t, api)
	const replicas, each = 3, 8
	var stores []*store.Store
	for range replicas {
		stores = append(stores, newStore(t, ns, api.RESTConfig()))
	}
	must(t)(stores[0].Create(ctx, "web", by(t, "ada", "/n=>/0")))
	var all sync.WaitGroup
	for i, s := range stores {
		all.Go(func() {
			for range each {
				for {
					v, err := s.Get(ctx, "web")
					if err != nil {
						t.Error(err)
						return
					}
					next := append(v.Dtab[:len(v.Dtab):len(v.Dtab)], dtab(t, fmt.Sprintf("/n=>/%d", len(v.Dtab)))...)
					_, err = s.Update(ctx, "web", namer.Change{Dtab: next, By: fmt.Sprint("w", i)}, v.Version)
					if err == nil {
						break
					}
					if !errors.Is(err, namer.ErrVersion) {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	all.Wait()
	want := "/n=>/0"
	for i := range replicas * each {
		want += fmt.Sprintf(";/n=>/%d", i+1)
	}
	v := await(t, stores[0], "web", want)
	for _, s := range stores[1:] {
		if got := await(t, s, "web", want); got.Version != v.Version {
			t.Errorf("versions differ: %q, %q", got.Version, v.Version)
		}
	}
	// Nobody was skipped in the history either.
	history, err := stores[1].History(ctx, "web")
	if err != nil || len(history) != namer.MaxHistory {
		t.Fatalf("%d revisions, %v", len(history), err)
	}
	for i, r := range history {
		if len(r.Dtab) != replicas*each+1-i || !strings.HasPrefix(r.By, "w") {
			t.Errorf("revision %d has %d rules, by %q", i, len(r.Dtab), r.By)
		}
	}
}

// Before the kind is defined nothing is known, and the hint is there; afterwards no restart is needed.
func TestStoreUndefined(t *testing.T) {
	ctx := t.Context()
	a, err := cluster.StartAPI(ctx, cluster.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = a.Close() }()
	s := newStore(t, "default", a.RESTConfig())
	if _, err := s.Put(ctx, "web", by(t, "ada", "/a=>/b")); err == nil || !strings.Contains(err.Error(), "apply the chart") {
		t.Errorf("without a definition it is %v", err)
	}
	if s.Names().Get() != nil {
		t.Error("names are known")
	}
	if err := define(ctx, a); err != nil {
		t.Fatal(err)
	}
	awaitValue(t, s.Names(), func(n []string) bool { return n != nil })
	must(t)(s.Put(ctx, "web", by(t, "ada", "/a=>/b")))
	await(t, s, "web", "/a=>/b")
	// It can be applied again, as every upgrade does.
	if err := define(ctx, a); err != nil {
		t.Fatal(err)
	}
}
