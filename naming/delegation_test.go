package naming_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tulle-mesh/tulle/naming"
)

func mustPath(t testing.TB, s string) naming.Path {
	t.Helper()
	p, err := naming.ParsePath(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// replicas are what every leaf of the tests has.
func replicas(naming.Path) naming.Replicas {
	return naming.Of(naming.Endpoint{Address: "127.0.0.1:9000", Weight: 1})
}

// inet answers for /$/inet/host/port, /$/nil and /$/fail, and resolve for others.
func inet(p naming.Path) naming.Resolution {
	switch {
	case len(p) >= 4 && p[0] == "$" && p[1] == "inet":
		return naming.Resolution{Bound: &naming.Bound{ID: p[:4], Residual: p[4:]}}
	case len(p) >= 2 && p[0] == "$" && p[1] == "fail":
		return naming.Resolution{Tree: naming.Fail}
	case len(p) >= 2 && p[0] == "$" && p[1] == "nil":
		return naming.Resolution{Tree: naming.Empty}
	case len(p) >= 1 && p[0] == "$":
		return naming.Resolution{Err: errResolve}
	}
	return resolve(p)
}

// The form, byte by byte.
func TestDelegationJSON(t *testing.T) {
	const addr = `"addr":{"type":"bound","addrs":[{"ip":"127.0.0.1","port":9000,"meta":{}}],"meta":{}}`
	leaf := func(path, dentry, id, residual string) string {
		return `{"type":"leaf","path":"` + path + `",` + dentry + `"bound":{` + addr + `,"id":"` + id + `","path":"` + residual + `"}}`
	}
	dentry := func(prefix, dst string) string { return `"dentry":{"prefix":"` + prefix + `","dst":"` + dst + `"}` }
	for _, c := range []struct{ name, dtab, path, want string }{
		{"the example of the specification", "/svc=>/a|/b; /a=>~; /b=>/$/inet/127.0.0.1/9000", "/svc/x",
			`{"type":"alt","path":"/svc/x","alt":[` +
				`{"type":"delegate","path":"/a/x",` + dentry("/svc", "/a | /b") + `,"delegate":{"type":"neg","path":"~",` + dentry("/a", "~") + `}},` +
				`{"type":"delegate","path":"/b/x",` + dentry("/svc", "/a | /b") + `,"delegate":` +
				leaf("/$/inet/127.0.0.1/9000/x", dentry("/b", "/$/inet/127.0.0.1/9000")+",", "/$/inet/127.0.0.1/9000", "/x") + `}]}`},
		{"rules, alternatives, a failing namer, a failing rule",
			"/bad=>/$/none; /near/you=>/$/inet/127.1/8080; /to=>/near | /bad | /$/fail; /to=>/far; /from=>/to", "/from/you",
			`{"type":"delegate","path":"/from/you","delegate":{"type":"alt","path":"/to/you",` + dentry("/from", "/to") + `,"alt":[` +
				`{"type":"neg","path":"/far/you",` + dentry("/to", "/far") + `},` +
				`{"type":"delegate","path":"/near/you",` + dentry("/to", "/near | /bad | /$/fail") + `,"delegate":` +
				leaf("/$/inet/127.1/8080", dentry("/near/you", "/$/inet/127.1/8080")+",", "/$/inet/127.1/8080", "/") + `},` +
				`{"type":"delegate","path":"/bad/you",` + dentry("/to", "/near | /bad | /$/fail") + `,"delegate":` +
				`{"type":"exception","path":"/$/none/you",` + dentry("/bad", "/$/none") + `,"message":"namer is broken"}},` +
				`{"type":"fail","path":"/$/fail/you",` + dentry("/to", "/near | /bad | /$/fail") + `}]}}`},
		{"nothing", "", "/svc/x", `{"type":"neg","path":"/svc/x"}`},
		{"a namer alone", "", "/ok1/x", leaf("/ok1/x", "", "/ok1", "/x")},
		{"the empty path", "", "/", `{"type":"neg","path":"/"}`},
		{"not known yet", "/svc=>/wait", "/svc", `{"type":"delegate","path":"/svc","delegate":{"type":"pending","path":"/wait",` + dentry("/svc", "/wait") + `}}`},
		{"tokens", "/svc=>!", "/svc/x", `{"type":"delegate","path":"/svc/x","delegate":{"type":"fail","path":"!",` + dentry("/svc", "!") + `}}`},
		{"an empty answer", "/svc=>$ | /$/nil", "/svc/x", `{"type":"alt","path":"/svc/x","alt":[` +
			`{"type":"empty","path":"/svc/x",` + dentry("/svc", "$ | /$/nil") + `},{"type":"empty","path":"/$/nil/x",` + dentry("/svc", "$ | /$/nil") + `}]}`},
		{"a union", "/svc=>/ok1 & 9*(~ | /no)", "/svc", `{"type":"union","path":"/svc","union":[` +
			`{"weight":1.0,"tree":` + leaf("/ok1", dentry("/svc", "/ok1 & 9.00*(~ | /no)")+",", "/ok1", "/") + `},` +
			`{"weight":9.0,"tree":{"type":"alt","path":"/svc",` + dentry("/svc", "/ok1 & 9.00*(~ | /no)") + `,"alt":[` +
			`{"type":"neg","path":"~",` + dentry("/svc", "/ok1 & 9.00*(~ | /no)") + `},` +
			`{"type":"neg","path":"/no",` + dentry("/svc", "/ok1 & 9.00*(~ | /no)") + `}]}}]}`},
		{"a namer that rewrites", "/svc=>/to/b; /b=>/ok1", "/svc", `{"type":"delegate","path":"/svc","delegate":` +
			`{"type":"delegate","path":"/to/b",` + dentry("/svc", "/to/b") + `,"delegate":{"type":"delegate","path":"/b","delegate":` +
			leaf("/ok1", dentry("/b", "/ok1")+",", "/ok1", "/") + `}}}`},
		{"a rule that leaves the name to the namer", "/ok1=>~", "/ok1", `{"type":"alt","path":"/ok1","alt":[{"type":"neg","path":"~",` + dentry("/ok1", "~") + `},` + leaf("/ok1", "", "/ok1", "/") + `]}`},
		{"a name that means itself", "/a=>/a", "/a", `{"type":"exception","path":"/a","message":"Max recursion level reached."}`},
		{"bytes", `/\x3c=>/\x26`, `/\x3c/\x3e`, `{"type":"delegate","path":"/\\x3c/\\x3e","delegate":{"type":"neg","path":"/\\x26/\\x3e",` + dentry(`/\\x3c`, `/\\x26`) + `}}`},
	} {
		got := naming.Delegate(mustDtab(t, c.dtab), mustPath(t, c.path), inet).JSON(replicas)
		if diff := cmp.Diff(strings.Split(c.want+"\n", ","), strings.Split(string(got), ",")); diff != "" {
			t.Errorf("%s: want (-), got (+):\n%s", c.name, diff)
		}
		checkReadsBack(t, got)
	}
}

// checkReadsBack reads a tree and writes it again.
func checkReadsBack(t testing.TB, text []byte) {
	t.Helper()
	var d naming.Delegation
	if err := json.Unmarshal(text, &d); err != nil {
		t.Errorf("%s: %v", text, err)
		return
	}
	if again := d.JSON(replicas); !bytes.Equal(again, text) {
		t.Errorf("read back\n%s, want\n%s", again, text)
	}
}

func TestBoundTreeJSON(t *testing.T) {
	const leaf = `{"type":"leaf","bound":{"addr":{"type":"bound","addrs":[{"ip":"127.0.0.1","port":9000,"meta":{}}],"meta":{}},"id":"/ok1","path":"/x"}}`
	for dst, want := range map[string]string{
		"/ok1":  leaf,
		"~":     `{"type":"neg"}`,
		"!":     `{"type":"fail"}`,
		"$":     `{"type":"empty"}`,
		"/wait": `{"type":"pending"}`,
		"/ok1 & 0.125*($ & /ok1)": `{"type":"union","union":[{"weight":1.0,"tree":` + leaf + `},{"weight":0.125,"tree":{"type":"union","union":[` +
			`{"weight":1.0,"tree":{"type":"empty"}},{"weight":1.0,"tree":` + leaf + `}]}}]}`,
	} {
		tree, err := naming.Bind(mustDtab(t, "/t=>"+dst), naming.Path{"t", "x"}, resolve)
		if err != nil {
			t.Fatal(err)
		}
		got := tree.JSON(replicas)
		if string(got) != want+"\n" {
			t.Errorf("%s:\n%s, want\n%s", dst, got, want)
		}
		checkReadsBack(t, got)
		var d naming.Delegation
		if err := json.Unmarshal(got, &d); err != nil {
			t.Error(err)
		}
		if back, err := d.BoundTree(); err != nil || show(back) != show(tree) {
			t.Errorf("%s is read as %s, %v", got, show(back), err)
		}
	}
	// What others may send.
	for text, want := range map[string]string{
		`{"type":"alt","alt":[{"type":"neg"},{"type":"empty"},` + leaf + `]}`: "$",
		`{"type":"alt","alt":[]}`:     "~",
		`{"type":"union","union":[]}`: "~",
		`{"type":"leaf"}`:             `read a delegation: there is nothing in a node of type "leaf"`,
		`{"type":"delegate"}`:         `read a delegation: there is nothing in a node of type "delegate"`,
		`{"type":"what"}`:             `read a delegation: the type "what" is unknown`,
		`{}`:                          `read a delegation: the type "" is unknown`,
		`{"type":"exception","message":"no luck"}`: "no luck",
	} {
		var d naming.Delegation
		if err := json.Unmarshal([]byte(text), &d); err != nil {
			t.Errorf("%s: %v", text, err)
		}
		tree, err := d.BoundTree()
		got := show(tree)
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s is read as %s, want %s", text, got, want)
		}
	}
}

func TestDentryJSON(t *testing.T) {
	d := mustDtab(t, "/svc/*=>/a & 9*/b | $")[0]
	got, err := json.Marshal(d)
	if want := `{"prefix":"/svc/*","dst":"/a \u0026 9.00*/b | $"}`; err != nil || string(got) != want {
		t.Errorf("%s, %v; want %s", got, err, want)
	}
	var back naming.Dentry
	if err := json.Unmarshal(got, &back); err != nil || !reflect.DeepEqual(back, d) {
		t.Errorf("read back %v, %v", back, err)
	}
	for _, text := range []string{`{"prefix":"svc","dst":"/a"}`, `{"prefix":"/svc","dst":"a"}`, `{"prefix":"/svc"}`, `{"prefix":1}`, `[]`} {
		var parse *naming.ParseError
		if err := json.Unmarshal([]byte(text), &back); err == nil || strings.Contains(text, `"/`) && !errors.As(err, &parse) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// A transformer shows what it was given and what it made of it.
func TestTransform(t *testing.T) {
	port := func(b naming.Bound) naming.BoundTree {
		switch b.ID[0] {
		case "ok2":
			return naming.BoundTree{Kind: naming.BoundNeg}
		case "ok3":
			return naming.BoundTree{Kind: naming.BoundUnion, Branches: []naming.BoundBranch{
				{Weight: 1, Tree: naming.Bound{ID: naming.Path{"x"}}.Tree()}, {Weight: 1, Tree: naming.Bound{ID: naming.Path{"y"}}.Tree()}}}
		}
		return naming.Bound{ID: naming.Path{"%", "port"}.Join(b.ID...), Residual: b.Residual}.Tree()
	}
	d := naming.Delegate(mustDtab(t, "/svc=>/ok1"), naming.Path{"svc", "x"}, resolve)
	got := d.Transform("io.l5d.port", port)
	const addr = `{"addr":{"type":"bound","addrs":[{"ip":"127.0.0.1","port":9000,"meta":{}}],"meta":{}},`
	want := `{"type":"delegate","path":"/svc/x","delegate":{"type":"transformation","path":"/ok1/x","dentry":{"prefix":"/svc","dst":"/ok1"},` +
		`"name":"io.l5d.port","bound":` + addr + `"id":"/ok1","path":"/x"},` +
		`"tree":{"type":"leaf","path":"/%/port/ok1","dentry":{"prefix":"/svc","dst":"/ok1"},"bound":` + addr + `"id":"/%/port/ok1","path":"/x"}}}}`
	if text := string(got.JSON(replicas)); text != want+"\n" {
		t.Errorf("%s, want\n%s", text, want)
	}
	if text := string(d.JSON(replicas)); strings.Contains(text, "port/") {
		t.Errorf("the tree was changed: %s", text)
	}
	checkReadsBack(t, got.JSON(replicas))
	twice := got.Transform("again", port)
	if steps := twice.Steps(naming.Path{"%", "port", "%", "port", "ok1"}); len(steps) != 2 || steps[1].String() != "/ok1/x (/svc=>/ok1)" {
		t.Errorf("the steps are %v", steps)
	}
	// The meaning is that of BoundTree.Map.
	for _, dst := range []string{"/ok1", "/ok2", "/ok3", "/ok1 & 2*/ok2", "/ok3 & /ok1 & $", "/ok2 & /ok2", "~", "/wait"} {
		dtab := mustDtab(t, "/svc=>"+dst)
		tree, err := naming.Bind(dtab, naming.Path{"svc"}, resolve)
		if err != nil {
			t.Fatal(err)
		}
		got, err := naming.Delegate(dtab, naming.Path{"svc"}, resolve).Transform("x", port).BoundTree()
		if want := tree.Map(port); err != nil || show(got) != show(want) {
			t.Errorf("%s becomes %s, %v; want %s", dst, show(got), err, show(want))
		}
	}
}

func TestSteps(t *testing.T) {
	for _, test := range []struct{ dtab, path, id, want string }{
		{"/k=>/ok; /svc=>/k", "/svc/cart", "/ok", "/svc/cart; /k/cart (/svc=>/k); /ok/cart (/k=>/ok)"},
		{"", "/ok/cart", "/ok", "/ok/cart"},
		{"/a=>/none | /ok1; /svc=>/a", "/svc", "/ok1", "/svc; /a (/svc=>/a); /ok1 (/a=>/none | /ok1)"},
		{"/svc=>/ok1; /svc=>/none", "/svc", "/ok1", "/svc; /ok1 (/svc=>/ok1)"},
		{"/svc=>1*/ok1 & 3*/ok2", "/svc", "/ok2", "/svc; /ok2 (/svc=>/ok1 & 3.00*/ok2)"},
		{"/svc=>/none; /svc=>1*/ok1 & 3*(~ | /ok2)", "/svc", "/ok2", "/svc; /ok2 (/svc=>/ok1 & 3.00*(~ | /ok2))"},
		{"/svc=>/to/b; /b=>/ok", "/svc", "/ok", "/svc; /to/b (/svc=>/to/b); /b; /ok (/b=>/ok)"},
		{"/svc/*=>/ok", "/svc/x/y", "/ok", "/svc/x/y; /ok/y (/svc/*=>/ok)"},
		{"/ok=>~", "/ok", "/ok", "/ok"},
		{"/svc=>/ok1", "/svc", "/ok2", ""},
		{"/svc=>/svc/a", "/svc", "/ok", ""},
		{"/svc=>/svc/a | /svc/b & /svc/c", "/svc", "/ok", ""},
		{"/svc=>/ok | !; /svc=>/wait | /err | $", "/svc", "/ok", "/svc; /ok (/svc=>/ok | !)"},
	} {
		var got []string
		for _, s := range naming.Delegate(mustDtab(t, test.dtab), mustPath(t, test.path), resolve).Steps(mustPath(t, test.id)) {
			got = append(got, s.String())
		}
		if s := strings.Join(got, "; "); s != test.want {
			t.Errorf("%s by %s:\n%s, want\n%s", test.path, test.dtab, s, test.want)
		}
	}
}

// What Bind comes to, Delegate shows: the same tree, or a failure where that fails;
// pending where that is; and the steps to each of its leaves.
func TestDelegateIsBind(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d, p := rapid.OneOf(genDtab(), genChains()).Draw(t, "dtab"), rapid.OneOf(genPath(), rapid.Just(naming.Path{"svc"})).Draw(t, "path")
		want, wantErr := naming.Bind(d, p, resolve)
		explained := naming.Delegate(d, p, resolve)
		got, err := explained.BoundTree()
		if errors.Is(wantErr, naming.ErrWork) || strings.Contains(explained.Message, naming.ErrWork.Error()) {
			return // too much for the one or the other
		}
		if (err == nil) != (wantErr == nil) || show(got) != show(want) {
			t.Fatalf("%s, %v; want %s, %v", show(got), err, show(want), wantErr)
		}
		if err == nil && got.Kind == naming.BoundPending && !explained.Pending() {
			t.Fatalf("nothing is pending")
		}
		if leaf, ok := got.Pick(rapid.Float64Range(0, 0.999).Draw(t, "r")); ok {
			steps := explained.Steps(leaf.ID)
			if len(steps) == 0 || steps[0].Path != p.String() || steps[0].Dentry != nil {
				t.Fatalf("the steps to %s are %v", leaf.ID, steps)
			}
			last, err := naming.ParsePath(steps[len(steps)-1].Path)
			if err != nil {
				t.Fatal(err)
			}
			if r := resolve(last); r.Bound == nil || !r.Bound.ID.Equal(leaf.ID) {
				t.Fatalf("the steps to %s are %v", leaf.ID, steps)
			}
		}
	})
}

// genChains makes rules that lead to one another, which those of genDtab seldom do.
func genChains() *rapid.Generator[naming.Dtab] {
	return rapid.Custom(func(t *rapid.T) naming.Dtab {
		var dtab naming.Dtab
		leaf := rapid.SampledFrom([]string{"/a", "/b", "/c/d", "/ok1", "/ok2", "/none", "/to/b", "/wait", "/err", "~", "!", "$"})
		for range rapid.IntRange(0, 6).Draw(t, "rules") {
			dst := leaf.Draw(t, "first")
			if op := rapid.SampledFrom([]string{"", " | ", " & "}).Draw(t, "operator"); op != "" {
				dst += op + leaf.Draw(t, "second")
			}
			rule, err := naming.ParseDtab(rapid.SampledFrom([]string{"/svc", "/a", "/b", "/c", "/c/*", "/ok1"}).Draw(t, "prefix") + " => " + dst)
			if err != nil {
				t.Fatal(err)
			}
			dtab = append(dtab, rule...)
		}
		return dtab
	})
}

// Whatever the rules, an explanation comes to an end, asks little and prints little.
func TestDelegateIsBounded(t *testing.T) {
	for name, text := range hostile() {
		d := mustDtab(t, text)
		for _, p := range []naming.Path{{"a"}, {"a", "b", "c"}} {
			asked, bytes := 0, 0
			got := naming.Delegate(d, p, func(p naming.Path) naming.Resolution {
				asked++
				for _, e := range p {
					bytes += len(e)
				}
				return resolve(p)
			})
			size := len(got.JSON(replicas))
			if size > 8<<20 || asked > 1000 || bytes > 8<<20 {
				t.Errorf("%s: %d bytes of JSON, asked %d times with %d bytes", name, size, asked, bytes)
			}
			if _, err := got.BoundTree(); err == nil && strings.HasPrefix(name, "rules that match") {
				t.Errorf("%s: no failure is shown", name)
			}
			t.Logf("%s: %d bytes of JSON, asked %d times with %d bytes", name, size, asked, bytes)
		}
	}
	// And it has room for what people have.
	var b strings.Builder
	for range 300 {
		b.WriteString("/ok1 & ")
	}
	got, err := naming.Delegate(mustDtab(t, "/srv=>"+b.String()+"/ok2; /svc=>/srv"), naming.Path{"svc", "world"}, resolve).BoundTree()
	if err != nil || len(got.Branches) != 301 {
		t.Errorf("%d branches, %v", len(got.Branches), err)
	}
}

func TestAddrJSON(t *testing.T) {
	for want, r := range map[string]naming.Replicas{
		`{"type":"pending"}`:                    {},
		`{"type":"neg"}`:                        {State: naming.StateNeg},
		`{"type":"failed","cause":"a & b"}`:     {State: naming.StateFailed, Cause: "a & b"},
		`{"type":"failed","cause":""}`:          {State: naming.StateFailed},
		`{"type":"bound","addrs":[],"meta":{}}`: {State: naming.StateBound},
		`{"type":"bound","addrs":[{"ip":"10.0.0.4","port":80,"meta":{"nodeName":"n1"}},` +
			`{"ip":"10.0.0.5","port":80,"meta":{"endpoint_addr_weight":2.0,"hop":"sidecar","via":"10.0.0.5:4143","identity":"spiffe://x"}},` +
			`{"ip":"fe80::1%eth0","port":81,"meta":{"endpoint_addr_weight":0.5}}],"meta":{}}`: naming.Of(
			naming.Endpoint{Address: "10.0.0.4:80", Node: "n1", Weight: 1},
			naming.Endpoint{Address: "10.0.0.5:80", Hop: naming.HopSidecar, Via: "10.0.0.5:4143", Identity: "spiffe://x", Weight: 2},
			naming.Endpoint{Address: "[fe80::1%eth0]:81", Weight: .5}),
	} {
		if got := string(r.Addr().JSON()); got != want+"\n" {
			t.Errorf("%s, want\n%s", got, want)
		}
		var back naming.Addr
		if err := json.Unmarshal([]byte(want), &back); err != nil || !naming.Replicas(back).Equal(r) {
			t.Errorf("%s is read as %+v, %v", want, back, err)
		}
	}
	// What namerd and other programs may send.
	var a naming.Addr
	if err := json.Unmarshal([]byte(`{"type":"bound","addrs":[{"ip":"::1","port":2,"meta":{"authority":"x"}},{"ip":"1.2.3.4","port":1}],"meta":{"x":[1]},"more":1}`), &a); err != nil ||
		!naming.Replicas(a).Equal(naming.Of(naming.Endpoint{Address: "1.2.3.4:1", Weight: 1}, naming.Endpoint{Address: "[::1]:2", Weight: 1})) {
		t.Errorf("%+v, %v", a, err)
	}
	for _, text := range []string{`{"type":"gone"}`, `{}`, `[]`, `{"type":"bound","addrs":[{"ip":1}]}`, `{"type":"bound","addrs":[{"ip":"db.test","port":1}]}`,
		`{"type":"bound","addrs":[{"ip":"1.2.3.4","port":65536}]}`} {
		if err := json.Unmarshal([]byte(text), &a); err == nil {
			t.Errorf("%s is read as %+v", text, a)
		}
	}
	if got := string((naming.Replicas{State: naming.StateBound, Endpoints: []naming.Endpoint{{Address: "odd", Weight: 1}}}).Addr().JSON()); !strings.Contains(got, `"ip":"odd"`) {
		t.Errorf("an odd endpoint is written as %q", got)
	}
}

func BenchmarkDelegateHostile(b *testing.B) {
	for name, text := range hostile() {
		b.Run(strings.ReplaceAll(name, " ", "-"), func(b *testing.B) {
			d := mustDtab(b, text)
			b.ReportAllocs()
			for b.Loop() {
				naming.Delegate(d, naming.Path{"a", "b"}, resolve)
			}
		})
	}
}

func BenchmarkDelegate(b *testing.B) {
	d := mustDtab(b, "/srv => /to/ok1 ; /host => /srv ; /svc => /host ; /host/world => /srv/world-v1")
	b.ReportAllocs()
	for b.Loop() {
		naming.Delegate(d, naming.Path{"svc", "world"}, resolve)
	}
}

func TestDelegationPending(t *testing.T) {
	for dst, want := range map[string]bool{
		"/ok1": false, "/wait": true, "~": false, "/ok1 | /wait": true, "/ok1 & (~ | /to/wait)": true, "/ok1 & /err": false,
	} {
		if got := naming.Delegate(mustDtab(t, "/svc=>"+dst), naming.Path{"svc"}, resolve).Pending(); got != want {
			t.Errorf("%s is pending: %v, want %v", dst, got, want)
		}
	}
}

// Trees that cannot be written, but that a namer may answer with, are simplified.
func TestDelegateOddTrees(t *testing.T) {
	for want, tree := range map[string]naming.Tree{
		`{"type":"delegate","path":"/svc","delegate":{"type":"neg","path":"/svc"}}` + "\n":                        naming.Alt{},
		`{"type":"delegate","path":"/svc","delegate":{"type":"neg","path":"/svc"}}` + "\n ":                       naming.Union{},
		`{"type":"delegate","path":"/svc","delegate":{"type":"pending","path":"/wait"}}` + "\n":                   naming.Alt{naming.Leaf{"wait"}},
		`{"type":"delegate","path":"/svc","delegate":{"type":"pending","path":"/wait"}}` + "\n ":                  naming.Union{{Weight: 2, Tree: naming.Leaf{"wait"}}},
		`{"type":"neg","path":"/svc"}` + "\n":                                                                     naming.Neg,
		`{"type":"fail","path":"/svc"}` + "\n":                                                                    naming.Fail,
		`{"type":"alt","path":"/svc","alt":[{"type":"neg","path":"~"},{"type":"pending","path":"/wait"}]}` + "\n": naming.Alt{naming.Neg, naming.Leaf{"wait"}},
	} {
		namers := func(p naming.Path) naming.Resolution {
			if p[0] == "svc" {
				return naming.Resolution{Tree: tree}
			}
			return resolve(p)
		}
		d := naming.Delegate(nil, naming.Path{"svc"}, namers)
		if got := string(d.JSON(replicas)); got != strings.TrimSuffix(want, " ") {
			t.Errorf("%v:\n%s, want\n%s", tree, got, want)
		}
		bound, err := naming.Bind(nil, naming.Path{"svc"}, namers)
		if got, gotErr := d.BoundTree(); show(got) != show(bound) || (gotErr == nil) != (err == nil) {
			t.Errorf("%v: %s, want %s", tree, show(got), show(bound))
		}
	}
}
