package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic/fake"
	clienttesting "k8s.io/client-go/testing"
	"pgregory.net/rapid"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/namer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errAway = errors.New("there is no API server")

// newStore returns a store without an API server, to be fed by hand.
func newStore(t testing.TB) *Store {
	t.Helper()
	client := fake.NewSimpleDynamicClient(runtime.NewScheme())
	client.PrependReactor("get", "dtabs", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, errAway
	})
	s, err := New(Config{Client: client, Namespace: "tulle"})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// at is an object at a generation; rules are "prefix=>dst". edit may change it.
func at(generation int64, rules string, edit ...func(*unstructured.Unstructured)) *object {
	var dentries []any
	for rule := range strings.SplitSeq(rules, ";") {
		if prefix, dst, ok := strings.Cut(rule, "=>"); ok {
			dentries = append(dentries, map[string]any{"prefix": prefix, "dst": dst})
		}
	}
	u := &unstructured.Unstructured{Object: map[string]any{"dentries": dentries}}
	u.SetName("web")
	u.SetUID("u1")
	u.SetGeneration(generation)
	u.SetCreationTimestamp(metav1.Unix(1000, 0))
	for _, f := range edit {
		f(u)
	}
	return decode(u)
}

func uid(id string) func(*unstructured.Unstructured) {
	return func(u *unstructured.Unstructured) { u.Object["metadata"].(map[string]any)["uid"] = id }
}

// status gives an object the status that a store would write.
func withStatus(t *testing.T, s *Store) func(*unstructured.Unstructured) {
	return func(u *unstructured.Unstructured) {
		t.Helper()
		text, err := json.Marshal(s.entries["web"].state.status(metav1.Unix(5000, 0)))
		if err != nil {
			t.Fatal(err)
		}
		var status map[string]any
		if err := json.Unmarshal(text, &status); err != nil {
			t.Fatal(err)
		}
		u.Object["status"] = status
	}
}

func show(v *namer.Versioned) string {
	switch {
	case v == nil:
		return "unknown"
	case v.Version == "":
		return "none"
	}
	return v.Version + " " + v.Dtab.Exact()
}

// What is served, for each thing that can become of an object.
func TestServed(t *testing.T) {
	s := newStore(t)
	v, release := s.Watch("web")
	defer release()
	published := 0
	v.Notify(func() { published++ })
	step := func(what, want string, f func()) {
		t.Helper()
		before, old := published, show(v.Get())
		f()
		if got := show(v.Get()); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
		if n := published - before; n > 1 || n == 1 && old == want {
			t.Errorf("%s: published %d times", what, n)
		}
	}
	if s.Names().Get() != nil {
		t.Error("names are known before anything was read")
	}
	step("before all is read", "unknown", func() { s.apply(at(1, "/a=>/b")) })
	step("all is read", "1.u1 /a=>/b", s.markRead)
	step("the status is written", "1.u1 /a=>/b", func() { s.apply(at(1, "/a=>/b", withStatus(t, s))) })
	step("changed", "2.u1 /a=>/b | /c;/d=>~", func() { s.apply(at(2, "/a=>/b|/c;/d=>~")) })
	step("it does not parse", "2.u1 /a=>/b | /c;/d=>~", func() { s.apply(at(3, "/a=>/b|")) })
	step("nor does it now", "2.u1 /a=>/b | /c;/d=>~", func() { s.apply(at(4, "/a=>/b|")) })
	if got := s.Names().Get(); !slices.Equal(got, []string{"web"}) {
		t.Errorf("names are %q", got)
	}
	step("repaired", "5.u1 /a=>/c", func() { s.apply(at(5, "/a=>/c")) })
	step("emptied", "6.u1 ", func() { s.apply(at(6, "")) })
	step("deleted", "none", func() { s.remove("web") })
	step("deleted again", "none", func() { s.remove("web") })
	step("made anew", "1.u2 /a=>/b", func() { s.apply(at(1, "/a=>/b", uid("u2"))) })
	step("made anew unseen, and wrong", "1.u3 ", func() { s.apply(at(1, "/a=>(/b", uid("u3"))) })
	step("deleted", "none", func() { s.remove("web") })
	if len(s.entries) != 1 {
		t.Errorf("%d entries", len(s.entries))
	}
	release()
	release()
	if len(s.entries) != 0 {
		t.Errorf("%d entries are left", len(s.entries))
	}
}

// A replica that starts when an object does not parse finds the last rules that did in the status.
func TestServedAfterRestart(t *testing.T) {
	old, s := newStore(t), newStore(t)
	old.markRead()
	old.apply(at(1, "/a=>/b"))
	old.apply(at(2, "/a=>/c"))
	old.apply(at(3, "/a=>"))
	broken := at(3, "/a=>", withStatus(t, old))
	s.apply(broken)
	s.markRead()
	if v, err := s.Get(t.Context(), "web"); err != nil || show(v) != "2.u1 /a=>/c" {
		t.Errorf("got %s, %v", show(v), err)
	}
	a, err := old.History(t.Context(), "web")
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.History(t.Context(), "web")
	if err != nil || len(a) != 2 || fmt.Sprint(a) != fmt.Sprint(b) {
		t.Errorf("the histories are\n%v and\n%v, %v", a, b, err)
	}
	if u, err := s.entries["web"].state.outdated(metav1.Now()); u != nil || err != nil {
		t.Errorf("the status is to be written again: %s, %v", u, err)
	}
}

// Who wrote what, and when.
func TestRevision(t *testing.T) {
	owner := func(manager string, at int64, fields string) metav1.ManagedFieldsEntry {
		return metav1.ManagedFieldsEntry{Manager: manager, Time: new(metav1.Unix(at, 0)), FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(fields)}
	}
	note := func(text string) func(*unstructured.Unstructured) {
		return func(u *unstructured.Unstructured) { u.SetAnnotations(map[string]string{annotationChange: text}) }
	}
	owned := func(u *unstructured.Unstructured) {
		u.SetManagedFields([]metav1.ManagedFieldsEntry{
			owner("kubectl-create", 1500, `{"f:dentries":{}}`), owner("kubectl-edit", 2000, `{"f:dentries":{}}`), owner("kubectl-label", 3000, `{"f:metadata":{}}`),
		})
	}
	const ours = `{"generation":2,"time":"1970-01-01T00:50:00Z","by":"ada"}`
	for _, c := range []struct {
		name string
		edit []func(*unstructured.Unstructured)
		by   string
		at   int64
	}{
		{"nothing is known", nil, "", 1000},
		{"ours", []func(*unstructured.Unstructured){note(ours), owned}, "ada", 3000},
		{"edited since", []func(*unstructured.Unstructured){note(strings.Replace(ours, "2", "1", 1)), owned}, "kubectl-edit", 2000},
		{"a note that is none", []func(*unstructured.Unstructured){note("ada"), owned}, "kubectl-edit", 2000},
	} {
		if r := at(2, "/a=>/b", c.edit...).revision(); r.By != c.by || r.Time.Unix() != c.at {
			t.Errorf("%s: by %q at %d, want %q at %d", c.name, r.By, r.Time.Unix(), c.by, c.at)
		}
	}
}

// The history stays small enough for an object, and where it is cut does not depend on who cuts it.
func TestHistoryIsBounded(t *testing.T) {
	s := newStore(t)
	s.markRead()
	large := "/" + strings.Repeat("a", 100<<10)
	for g := range int64(20) {
		s.apply(at(g+1, fmt.Sprintf("/a=>%s;/b=>/%d", large, g)))
	}
	history, err := s.History(t.Context(), "web")
	if err != nil || len(history) != 5 || history[0].Version != "20.u1" {
		t.Errorf("%d revisions, %v", len(history), err)
	}
	status, err := json.Marshal(s.entries["web"].state.status(metav1.Now()))
	if err != nil || len(status) > 600<<10 {
		t.Errorf("the status has %d bytes, %v", len(status), err)
	}
	for g := range int64(20) {
		s.apply(at(g+21, fmt.Sprintf("/b=>/%d", g)))
	}
	if history, err = s.History(t.Context(), "web"); err != nil || len(history) != namer.MaxHistory || history[9].Version != "31.u1" {
		t.Errorf("%d revisions, %v", len(history), err)
	}
}

func TestStatus(t *testing.T) {
	s := newStore(t)
	s.apply(at(1, "/a=>/b;/c=>/d"))
	condition := func() metav1.Condition { return s.entries["web"].state.status(metav1.Unix(7000, 0)).Conditions[0] }
	if c := condition(); c.Status != metav1.ConditionTrue || c.LastTransitionTime.Unix() != 7000 {
		t.Errorf("it is %+v", c)
	}
	s.apply(at(2, "/a=>/b", withStatus(t, s)))
	if c := condition(); c.LastTransitionTime.Unix() != 5000 || c.ObservedGeneration != 2 {
		t.Errorf("the condition, which is as it was, is %+v", c)
	}
	s.apply(at(3, "/a=>"+strings.Repeat("/a ", 10_000)+";b=>/c"))
	c := condition()
	if c.Status != metav1.ConditionFalse || c.LastTransitionTime.Unix() != 7000 || len(c.Message) > 5000 ||
		!strings.HasPrefix(c.Message, "dentries[0].dst: ") || !strings.HasSuffix(c.Message, "; the rules of generation 2 are served") {
		t.Errorf("it is %+v", c)
	}
}

// Under a definition that is not ours, objects can be anything.
func TestMalformed(t *testing.T) {
	s := newStore(t)
	s.markRead()
	s.apply(at(1, "/a=>/b"))
	for g, content := range []map[string]any{
		{"dentries": "/a=>/b"},
		{"dentries": []any{"/a=>/b"}},
		{"dentries": []any{map[string]any{"prefix": int64(1)}}},
		{"dentries": map[string]any{}, "status": "fine"},
		{"dentries": []any{nil}},
	} {
		s.apply(at(int64(g+2), "", func(u *unstructured.Unstructured) {
			for k, v := range content {
				u.Object[k] = v
			}
		}))
		if v, err := s.Get(t.Context(), "web"); err != nil || show(v) != "1.u1 /a=>/b" {
			t.Errorf("%v is served as %s, %v", content, show(v), err)
		}
		u, err := s.entries["web"].state.outdated(metav1.Now())
		if foreign := content["status"] != nil; err != nil || (u == nil) != foreign {
			t.Errorf("%v: the status is to become %s, %v", content, u, err)
		}
	}
}

func TestCheck(t *testing.T) {
	for object, want := range map[string]string{
		`{"dentries":[{"prefix":"/a","dst":"/b | /c"}]}`: "",
		`{}`:                "",
		`{"dentries":null}`: "",
		`{"dentries":[{}]}`: "dentries[0].prefix: '/' expected but end of input found at '[]'\ndentries[0].dst: a path",
		`{"dentries":"/a"}`: "read the DTab: json",
		`{"dentries":[null`: "read the DTab: unexpected end",
		`{"dentries":[{"prefix":"/a","dst":"/b"},{"prefix":"/a","dst":"/b^"}]}`: "dentries[1].dst: end of input expected but '^' found at '/b[^]'",
	} {
		err := Check([]byte(object))
		if (err == nil) != (want == "") || err != nil && !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v", object, err)
		}
	}
}

func TestNotReadYet(t *testing.T) {
	s := newStore(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := s.Get(ctx, "web"); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, errAway) || errors.Is(err, namer.ErrNotFound) {
		t.Errorf("got %v", err)
	}
	if _, err := New(Config{Namespace: "tulle"}); err == nil {
		t.Error("a store without a client is made")
	}
}

// Whatever is written, it passes the patterns of the definition and is read again as it was.
func TestPatterns(t *testing.T) {
	prefix, dst := patterns(t)
	label := rapid.Custom(func(t *rapid.T) string {
		return rapid.OneOf(rapid.StringMatching(`[0-9A-Za-z_:.#$%-]{1,4}`), rapid.StringN(1, 3, -1)).Draw(t, "label")
	})
	var tree func(depth int) *rapid.Generator[naming.Tree]
	tree = func(depth int) *rapid.Generator[naming.Tree] {
		return rapid.Custom(func(t *rapid.T) naming.Tree {
			kind := rapid.IntRange(0, 3).Draw(t, "kind")
			if depth == 0 {
				kind %= 2
			}
			switch kind {
			case 0:
				return naming.Leaf(rapid.SliceOfN(label, 0, 3).Draw(t, "path"))
			case 1:
				return rapid.SampledFrom([]naming.Tree{naming.Neg, naming.Fail, naming.Empty}).Draw(t, "token")
			case 2:
				return naming.Alt(rapid.SliceOfN(tree(depth-1), 2, 3).Draw(t, "alt"))
			}
			var u naming.Union
			for range rapid.IntRange(2, 3).Draw(t, "branches") {
				u = append(u, naming.Weighted{Weight: rapid.Float64Range(0, 1e6).Draw(t, "weight"), Tree: tree(depth-1).Draw(t, "branch")})
			}
			return u
		})
	}
	rapid.Check(t, func(t *rapid.T) {
		d := naming.Dtab{{Prefix: naming.Prefix(rapid.SliceOfN(label, 0, 3).Draw(t, "prefix")), Dst: tree(2).Draw(t, "dst")}}
		if rapid.Bool().Draw(t, "any") {
			d[0].Prefix = append(d[0].Prefix, naming.Any)
		}
		dentries := encode(d)
		if e := dentries[0]; !prefix.MatchString(e.Prefix) || !dst.MatchString(e.Dst) {
			t.Fatalf("the definition refuses %q => %q", e.Prefix, e.Dst)
		}
		again, err := parse(dentries)
		if err != nil || again.Exact() != d.Exact() {
			t.Fatalf("%s is read as %s, %v", d.Exact(), again.Exact(), err)
		}
	})
}

// FuzzPattern holds the patterns of the definition against the parser: what parses passes.
func FuzzPattern(f *testing.F) {
	for _, s := range []string{"/a", "~", "1 * /a & .5*/b | !", "(/a | (/b))", " # c\n /a#b # d", `/\x2f`, "/", "2*(/a&/b)", "/a |", "1.2.3*/b"} {
		f.Add(s)
	}
	prefix, dst := patterns(f)
	f.Fuzz(func(t *testing.T, s string) {
		if _, err := naming.ParseTree(s); err == nil && !dst.MatchString(s) {
			t.Errorf("the definition refuses the tree %q", s)
		}
		if _, err := naming.ParsePrefix(s); err == nil && !prefix.MatchString(s) {
			t.Errorf("the definition refuses the prefix %q", s)
		}
	})
}

// patterns reads those of a dentry from the chart.
func patterns(t testing.TB) (prefix, dst *regexp.Regexp) {
	t.Helper()
	text, err := os.ReadFile("../../../manifests/chart/templates/dtabs.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var definition struct {
		Spec struct {
			Versions []struct {
				Schema struct {
					OpenAPIV3Schema struct {
						Properties struct {
							Dentries struct {
								Items struct {
									Properties map[string]struct{ Pattern string }
								}
							}
						}
					}
				}
			}
		}
	}
	plain := regexp.MustCompile(`(?m)^.*\{\{.*$`).ReplaceAllString(string(text), "")
	if err := yaml.Unmarshal([]byte(plain), &definition); err != nil {
		t.Fatal(err)
	}
	fields := definition.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties.Dentries.Items.Properties
	if fields["prefix"].Pattern == "" || fields["dst"].Pattern == "" {
		t.Fatal("the definition has no patterns")
	}
	return regexp.MustCompile(fields["prefix"].Pattern), regexp.MustCompile(fields["dst"].Pattern)
}
