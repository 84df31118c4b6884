package dtab

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spf13/cobra"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/tulle-mesh/tulle/cmd/tulle/fault"
	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/namer"
	"github.com/tulle-mesh/tulle/naming/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var update = flag.Bool("update", false, "write testdata/session.txt")

// services are the Services of a cluster; others do not exist.
type services map[string]naming.Replicas

func (s services) Replicas(id string) (*watch.Value[naming.Replicas], func()) {
	r, ok := s[id]
	if !ok {
		r = naming.Replicas{State: naming.StateNeg}
	}
	return watch.New(r), func() {}
}

const rules = `# the shop
/srv        => /#/io.l5d.k8s/shop/http ;
/svc        => /srv ;
/svc/both   => 9 * /srv/world & 1 * /srv/world-v2 ;
`

// mesh is a namer with a dtab "shop", for which a proxy uses /svc/both.
type mesh struct {
	t     *testing.T
	url   string
	store *namer.Memory
	dir   string
}

func newMesh(t *testing.T) *mesh {
	return newMeshOf(t, map[string]string{"shop": rules}, func(h http.Handler) http.Handler { return h })
}

func newMeshOf(t *testing.T, seed map[string]string, wrap func(http.Handler) http.Handler) *mesh {
	t.Helper()
	store, err := namer.NewMemory(seed)
	if err != nil {
		t.Fatal(err)
	}
	cluster := services{
		"/#/io.l5d.k8s/shop/http/world": naming.Of(
			naming.Endpoint{Address: "10.0.0.1:80", Node: "n1", Hop: naming.HopHost, Via: "10.1.0.1:4141", Weight: 1},
			naming.Endpoint{Address: "10.0.0.2:80", Weight: 1}),
		"/#/io.l5d.k8s/shop/http/world-v2": naming.Of(naming.Endpoint{Address: "10.0.0.3:80", Weight: 1}),
		"/#/io.l5d.k8s/shop/80/world":      naming.Of(naming.Endpoint{Address: "10.0.0.1:80", Weight: 1}),
	}
	known, err := registry.New(registry.Config{Namers: registry.Default(), Source: cluster})
	if err != nil {
		t.Fatal(err)
	}
	api := namer.NewAPI(namer.APIConfig{Store: store, Registry: known, Seen: &namer.Seen{}, Logger: slog.New(slog.DiscardHandler),
		Authorize: func(r *http.Request, _, _ string) (string, error) {
			switch r.Header.Get("Authorization") {
			case "", "Bearer good":
				return "ann", nil
			}
			return "", unknownToken{}
		}})
	server := httptest.NewServer(wrap(api))
	t.Cleanup(server.Close)
	for _, env := range []string{"TULLE_NAMER", "NAMERCTL_BASE_URL", "TULLE_TOKEN", "TULLE_NAMER_CA"} {
		t.Setenv(env, "")
	}
	m := &mesh{t: t, url: server.URL, store: store, dir: t.TempDir()}
	t.Chdir(m.dir)
	m.use("/svc/both")
	return m
}

// use is a proxy that uses a name of shop until the test ends.
func (m *mesh) use(path string) {
	// Who follows a name uses it.
	ctx, cancel := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.url+"/api/1/bind/shop?watch=true&path="+path, nil)
	if err != nil {
		m.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { cancel(); resp.Body.Close(); http.DefaultClient.CloseIdleConnections() })
}

type unknownToken struct{}

func (unknownToken) Error() string   { return "the token is not valid" }
func (unknownToken) StatusCode() int { return http.StatusUnauthorized }

// file writes a file in the folder that commands run in.
func (m *mesh) file(name, content string) {
	if err := os.WriteFile(filepath.Join(m.dir, name), []byte(content), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

// result is what a command line did.
type result struct {
	code           int
	stdout, stderr string
}

var stamps = regexp.MustCompile(`\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?Z`)

// run runs a command line as main does.
func (m *mesh) run(stdin string, args ...string) result {
	root := Command()
	var stdout, stderr bytes.Buffer
	tulle := &cobra.Command{Use: "tulle", SilenceErrors: true, SilenceUsage: true}
	tulle.AddCommand(root)
	root = tulle
	root.SetArgs(append([]string{"dtab", "--namer", m.url}, args...))
	root.SetIn(strings.NewReader(stdin))
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	code := 0
	if err := root.ExecuteContext(context.Background()); err != nil {
		e := (*fault.Error)(nil)
		if !errors.As(err, &e) {
			m.t.Errorf("%q: not a *fault.Error: %v", args, err)
			return result{}
		}
		code = e.ExitCode()
		fmt.Fprintf(&stderr, "error: %s\n", e)
		if e.Hint() != "" {
			fmt.Fprintf(&stderr, "hint: %s\n", e.Hint())
		}
	}
	tidy := func(s string) string {
		return strings.ReplaceAll(stamps.ReplaceAllString(s, "2026-11-23 11:12:13Z"), m.url, "http://namer")
	}
	return result{code, tidy(stdout.String()), tidy(stderr.String())}
}

// TestSession holds what command lines say, in this order, against testdata/session.txt; with
// -update it writes that.
func TestSession(t *testing.T) {
	golden, err := filepath.Abs("testdata/session.txt")
	if err != nil {
		t.Fatal(err)
	}
	m := newMesh(t)
	m.file("same.dtab", rules)
	m.file("lost.dtab", "/svc => $ ;\n")
	m.file("moved.dtab", "# version AAAAAAAAAAE=\n/srv=>/#/io.l5d.k8s/shop/http;/svc=>/srv;/svc/both=>/srv/world-v2")
	m.file("bad.dtab", "/svc => /srv ;\n/svc/both =>\t/srv |\u00e9 x ;\n")
	m.file("bad.json", `{"version":"","dtab":[
  {"prefix":"/svc","dst":"/srv"},
  {"prefix":"/svc","dst":"srv"}]}`)
	m.file("object.yaml", "apiVersion: l5d.io/v1alpha1\nkind: DTab\nmetadata: {name: other}\ndentries:\n- {prefix: /svc, dst: /srv}\n")
	m.file("key.yaml", "version: a\nrules: []\n")
	m.file("list.json", `[{"prefix":"/svc","dst":"/srv & 0.001*/b"}]`)
	var out strings.Builder
	for _, args := range [][]string{
		{"ls"}, {"ls", "-o", "json"}, {"ls", "-o", "name"},
		{"get", "shop"}, {"get", "shop", "-o", "json"}, {"get", "shop", "-o", "yaml"}, {"get", "shop", "-o", "name"}, {"get", "nobody"},
		{"resolve", "shop", "both"}, {"resolve", "shop", "/svc/both", "-o", "name"}, {"resolve", "shop", "/svc/world/a/b"}, {"resolve", "shop", "gone"}, {"resolve", "nobody", "gone"},
		{"resolve", "shop", "x", "--dtab", "/svc/x => /caller/world | !", "--caller", "shop"},
		{"resolve", "shop", "x", "--dtab", "/svc/x => $"}, {"resolve", "shop", "x", "--dtab", "/svc/x => /svc/x"}, {"resolve", "shop", "x", "--dtab", "/svc/x => x"},
		{"resolve", "shop", "//x"}, {"resolve", "shop", "svc/x"}, {"resolve", "shop", "http://x"}, {"resolve", "shop", "x", "-o", "json"},
		{"plan", "shop", "same.dtab"}, {"plan", "shop", "lost.dtab", "--path", "/svc/world", "--path", "/x"}, {"plan", "shop", "moved.dtab"}, {"plan", "shop", "moved.dtab", "-o", "json"},
		{"delete", "shop", "--yes"}, {"plan", "other", "same.dtab"}, {"plan", "shop", "same.dtab", "--path", "world"}, {"plan", "shop", "same.dtab", "--path", "svc/world"},
		{"apply", "shop", "same.dtab"}, {"up", "shop", "same.dtab"}, {"apply", "shop", "lost.dtab"}, {"apply", "shop", "bad.dtab"}, {"apply", "shop", "bad.json"}, {"apply", "shop", "key.yaml"}, {"apply", "shop", "none.dtab"},
		{"apply", "shop", "moved.dtab"}, {"apply", "shop", "moved.dtab"}, {"apply", "shop", "lost.dtab", "--force", "-o", "json"},
		{"history", "shop"}, {"rollback", "shop", "nothing"}, {"rollback", "shop", "AAAAAAAAAAE="}, {"rollback", "shop"}, {"rollback", "shop", "--force", "-o", "name"}, {"history", "shop", "-o", "name"},
		{"create", "shop", "same.dtab"}, {"create", "other", "object.yaml"}, {"history", "other", "-o", "yaml"}, {"rollback", "other"}, {"apply", "third", "moved.dtab"}, {"apply", "third", "list.json"}, {"get", "third"},
		{"delete", "other"}, {"delete", "other", "--yes"}, {"delete", "other", "-y"}, {"ls"},
		{}, {"get"}, {"get", "A"}, {"ls", "x"}, {"wibble"}, {"histroy"}, {"ls", "-o", "x"}, {"ls", "--token", "bad"}, {"ls", "--namer", "namer:4180"}, {"ls", "--ca", "none.pem"},
	} {
		if len(args) == 0 {
			continue
		}
		r := m.run("", args...)
		fmt.Fprintf(&out, "$ tulle dtab %s\n%s", strings.Join(args, " "), r.stdout)
		for line := range strings.Lines(r.stderr) {
			fmt.Fprintf(&out, "2> %s", line)
		}
		if r.code != 0 {
			fmt.Fprintf(&out, "exit code %d\n", r.code)
		}
		out.WriteString("\n")
	}
	if *update {
		if err := os.WriteFile(golden, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(out.String(), "\n")); diff != "" {
		t.Error(diff)
	}
}

// What get prints in any form is what apply reads, and so is a plain list.
func TestRoundTrip(t *testing.T) {
	m := newMesh(t)
	for _, form := range []string{"table", "json", "yaml"} {
		got := m.run("", "get", "shop", "-o", form)
		next := strings.ReplaceAll(got.stdout, "9.00", "8.00")
		if form != "table" {
			next = strings.ReplaceAll(got.stdout, "8.00", "9.00")
		}
		if r := m.run(next, "apply", "shop", "-"); r.code != 0 || form == "table" && r.stderr != "shop: written, 3 rules; 1 name, 1 changed, 0 lost; names seen by http://namer\n" {
			t.Errorf("%s: %+v", form, r)
		}
		if again := m.run("", "get", "shop", "-o", form); m.run(again.stdout, "apply", "shop", "-").stderr != "shop: unchanged\n" {
			t.Errorf("%s does not come back", form)
		}
	}
}

// Whoever writes between the plan and the write of another one is not overwritten.
func TestSomebodyElseWrites(t *testing.T) {
	for _, at := range []string{"GET /api/1/dtabs/shop", "POST /api/1/plan/shop"} {
		var m *mesh
		m = newMeshOf(t, map[string]string{"shop": rules}, func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				h.ServeHTTP(w, r)
				if r.Method+" "+r.URL.Path == at {
					if _, err := m.store.Put(r.Context(), "shop", namer.Change{}); err != nil {
						t.Error(err)
					}
				}
			})
		})
		want := "error: somebody else has written shop: it no longer has the version AAAAAAAAAAE=\n"
		if got := m.run("/svc/both => /#/io.l5d.k8s/shop/http/world", "apply", "shop", "-"); got.code != 1 || !strings.HasPrefix(got.stderr, want) {
			t.Errorf("after %s: %+v", at, got)
		}
		if now, err := m.store.Get(t.Context(), "shop"); err != nil || len(now.Dtab) > 0 {
			t.Errorf("after %s: it is overwritten: %v, %v", at, now, err)
		}
	}
}

// A namerd of Linkerd 1.x has neither plans nor a history.
func TestNamerd(t *testing.T) {
	m := newMeshOf(t, map[string]string{"shop": rules}, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, "/api/1/plan") || strings.HasSuffix(r.URL.Path, "/history") {
				http.NotFound(w, r)
				return
			}
			h.ServeHTTP(w, r)
		})
	})
	if got := m.run("", "ls"); got != (result{0, "NAME   RULES   CHANGED   BY\nshop   -       -         -\n", ""}) {
		t.Errorf("%+v", got)
	}
	if got := m.run("/svc => /x", "apply", "shop", "-"); got != (result{1, "", "error: this namer makes no plans\nhint: with --force, apply writes without one\n"}) {
		t.Errorf("%+v", got)
	}
	if got := m.run("/svc => /x", "apply", "shop", "-", "--force"); got != (result{0, "", "No plan: this namer makes no plans.\nshop: written, 1 rule; not planned\n"}) {
		t.Errorf("%+v", got)
	}
	if got := m.run("", "history", "shop"); got.code != 1 || got.stderr != "error: this namer keeps no history of shop\n" {
		t.Errorf("%+v", got)
	}
}

// Names of dtabs, versions and names in use are completed.
func TestCompletion(t *testing.T) {
	m := newMesh(t)
	m.run("/svc => /srv", "apply", "shop", "-", "--force")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"get", ""}, "shop\n:4\n"},
		{[]string{"apply", "s"}, "shop\n:4\n"},
		{[]string{"apply", "shop", ""}, ":0\n"},
		{[]string{"get", "shop", ""}, ":4\n"},
		{[]string{"resolve", "shop", "/"}, "/svc/both\n:4\n"},
		{[]string{"rollback", "shop", ""}, "AAAAAAAAAAE=\t2026-11-23 11:12:13Z by -\n:4\n"},
		{[]string{"get", "-o", "j"}, "table\njson\nyaml\nname\n:4\n"},
	} {
		root := &cobra.Command{Use: "tulle"}
		root.AddCommand(Command())
		var out bytes.Buffer
		t.Setenv("TULLE_NAMER", m.url)
		root.SetArgs(append([]string{cobra.ShellCompRequestCmd, "dtab"}, c.args...))
		root.SetOut(&out)
		root.SetErr(io.Discard)
		err := root.Execute()
		if got := stamps.ReplaceAllString(out.String(), "2026-11-23 11:12:13Z"); err != nil || got != c.want {
			t.Errorf("%q: %q, %v; want %q", c.args, got, err, c.want)
		}
	}
}

// The help of what ends with more than 0 and 1 says what its exit codes mean.
func TestHelpSaysExitCodes(t *testing.T) {
	m := newMesh(t)
	for _, args := range [][]string{{}, {"plan"}, {"apply"}, {"rollback"}, {"delete"}, {"resolve"}} {
		got := m.run("", append(args, "--help")...)
		for _, want := range []string{"Exit codes: 0 ", "1 something failed", "64 the command"} {
			if got.code != 0 || !strings.Contains(got.stdout, want) {
				t.Errorf("%q: %q is missing in %+v", args, want, got)
			}
		}
	}
}

// What is no namer is not taken for one.
func TestNoNamer(t *testing.T) {
	m := newMesh(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html;charset=utf-8")
		w.WriteHeader(http.StatusNotFound)
		io.WriteString(w, "<html>\n<p>Not here.</p></html>")
	}))
	defer server.Close()
	for _, args := range [][]string{{"ls"}, {"get", "shop"}, {"history", "shop"}, {"apply", "shop", "-"}, {"plan", "shop", "-"}, {"delete", "shop", "-y"}, {"rollback", "shop"}, {"resolve", "shop", "x"}} {
		got := m.run(rules, append(args, "--namer", server.URL)...)
		if want := (result{1, "", "error: what answers at " + server.URL + " is no namer: it says 404 Not Found with a web page\nhint: the port of the namer is 4180\n"}); got != want {
			t.Errorf("%q: %+v", args, got)
		}
	}
}

// Whoever interrupts is told so, and nothing about addresses.
func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	asked := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
	}))
	defer server.Close()
	go func() {
		<-asked
		cancel(errors.New("interrupted"))
	}()
	root := Command()
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetArgs([]string{"ls", "--namer", server.URL})
	err := root.ExecuteContext(ctx)
	e := (*fault.Error)(nil)
	if !errors.As(err, &e) || e.Error() != "ask the namer at "+server.URL+": interrupted" || e.Hint() != "" || e.ExitCode() != 1 {
		t.Errorf("%v", err)
	}
}

// An https namer is verified by the CA that is given.
func TestCA(t *testing.T) {
	m := newMesh(t)
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "[%q]", strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
	}))
	defer server.Close()
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	m.file("ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})))
	t.Setenv("TULLE_TOKEN", "good")
	if got := m.run("", "ls", "-o", "name", "--namer", server.URL, "--ca", "ca.pem"); got != (result{0, "good\n", ""}) {
		t.Errorf("%+v", got)
	}
	if got := m.run("", "ls", "--namer", server.URL); got.code != 1 || !strings.Contains(got.stderr, "certificate") {
		t.Errorf("%+v", got)
	}
}

// Nothing that is read panics, and what is read is printed so that it is read again.
func FuzzReadSource(f *testing.F) {
	for _, seed := range []string{rules, "# version x\n", `[{"prefix":"/a","dst":"/b"}]`, "---\nversion: a\ndtab: [{prefix: /a, dst: ~}]\n", "[", "{}", "a: &a [*a]"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		cmd := &cobra.Command{}
		cmd.SetErr(io.Discard)
		cmd.SetIn(strings.NewReader(text))
		s, err := readSource(cmd, "-")
		if err != nil {
			return
		}
		again, err := readText(io.Discard, "", pretty("v", s.Dtab))
		if err != nil || again.Version != "v" || again.Dtab.Exact() != s.Dtab.Exact() {
			t.Errorf("%q was read as %q and then as %q, %v", text, s.Dtab, again.Dtab, err)
		}
	})
}

// What is marked, with its share, is what the name is bound to.
func TestChosenIsBound(t *testing.T) {
	ends := []string{"~", "!", "$", "/#/one", "/#/two", "/#/waits", "/#/breaks", "/#/gone"}
	rule := rapid.Custom(func(t *rapid.T) string {
		// A rule leads to names further down, so none is endless.
		n := rapid.IntRange(0, 2).Draw(t, "prefix")
		leaf := rapid.SampledFrom(append([]string{"/b", "/c", "/d"}[n:], ends...))
		weight := rapid.IntRange(0, 3)
		return fmt.Sprintf("%s => %d * %s & %d * %s | %s", []string{"/a", "/b", "/c"}[n],
			weight.Draw(t, "one"), leaf.Draw(t, "one"), weight.Draw(t, "two"), leaf.Draw(t, "two"), leaf.Draw(t, "last"))
	})
	resolve := func(p naming.Path) naming.Resolution {
		switch {
		case len(p) < 2 || p[0] != "#" || p[1] == "gone":
			return naming.Resolution{}
		case p[1] == "waits":
			return naming.Resolution{Pending: true}
		case p[1] == "breaks":
			return naming.Resolution{Err: errors.New("no luck")}
		}
		return naming.Resolution{Bound: &naming.Bound{ID: p[:2], Residual: p[2:]}}
	}
	rapid.Check(t, func(t *rapid.T) {
		dtab, err := naming.ParseDtab(strings.Join(rapid.SliceOfN(rule, 1, 5).Draw(t, "rules"), ";"))
		if err != nil {
			t.Fatal(err)
		}
		bound, err := naming.Bind(dtab, naming.Path{"a"}, resolve)
		want := map[string]float64{}
		if err == nil {
			shares(bound, 1, want)
		}
		d, got := naming.Delegate(dtab, naming.Path{"a"}, resolve), map[string]float64{}
		for leaf, share := range chosen(&d) {
			got[leaf.Bound.ID.String()] += share
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateApprox(0, 1e-9)); diff != "" {
			t.Errorf("%s: %s", dtab, diff)
		}
	})
}

// shares adds up the requests that each leaf of t gets.
func shares(t naming.BoundTree, of float64, among map[string]float64) {
	if t.Kind == naming.BoundLeaf {
		among[t.Leaf.ID.String()] += of
	}
	sum := 0.0
	for _, b := range t.Branches {
		sum += b.Weight
	}
	for _, b := range t.Branches {
		switch {
		case sum == 0:
			shares(b.Tree, of/float64(len(t.Branches)), among)
		case b.Weight > 0:
			shares(b.Tree, of*b.Weight/sum, among)
		}
	}
}

// Rules that cannot be explained whole are not said to lead nowhere.
func TestTooMuchToExplain(t *testing.T) {
	m := newMesh(t)
	got := m.run("", "resolve", "shop", "x", "--dtab", "/svc/x => /svc/x & /svc/x | /svc/x")
	if want := "error: /svc/x is explained in part only, and not where it leads: the rules take too much work"; got.code != 1 || !strings.HasPrefix(got.stderr, want) {
		t.Errorf("exit code %d, %s", got.code, got.stderr)
	}
}
