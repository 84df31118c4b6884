package schema_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/tulle-mesh/tulle/internal/document"
	"github.com/tulle-mesh/tulle/internal/schema"
)

// server is a value with a key of each sort.
type server struct {
	Port    int
	Timeout time.Duration
	Clear   bool
	Share   float64
	Label   string
	Cert    string
	Ciphers string
	Pool    pool
	Shape   shape
}

type pool struct{ Min, Max int }

type shape struct {
	Kind   string
	Radius int
}

var unset = server{Port: 80, Share: 0.5, Pool: pool{Min: 1, Max: 9}, Shape: shape{Kind: "point"}}

func fields() []schema.Field[server] {
	return []schema.Field[server]{
		schema.Integer("port", 1, 1, 65535, unset.Port, func(s *server) *int { return &s.Port }),
		schema.Millis("timeoutMs", 0, func(s *server) *time.Duration { return &s.Timeout }),
		schema.Flag("clear", false, func(s *server) *bool { return &s.Clear }),
		schema.Number("share", 0, 1, unset.Share, func(s *server) *float64 { return &s.Share }),
		schema.Text("label", "", func(s *server) *string { return &s.Label }, func(s string) (string, error) {
			if s == "" {
				return "", errors.New("it is empty")
			}
			return strings.ToUpper(s), nil
		}),
		schema.Group("tls",
			schema.File("cert", func(s *server) *string { return &s.Cert }),
			schema.Lines("ciphers", false, func(s *server) *string { return &s.Ciphers })),
		schema.Required(schema.Object("pool", unset.Pool, func(s *server) *pool { return &s.Pool }, func(p *pool) error {
			if p.Min > p.Max {
				return fmt.Errorf("min %d is more than max %d", p.Min, p.Max)
			}
			return nil
		},
			schema.Integer("min", 1, 0, 99, unset.Pool.Min, func(p *pool) *int { return &p.Min }),
			schema.Integer("max", 1, 0, 99, unset.Pool.Max, func(p *pool) *int { return &p.Max })), "max"),
		schema.Kinded("shape", "point", func(s *server) *shape { return &s.Shape }, func(s shape) string { return s.Kind },
			map[string]string{"far.": "far shapes are not drawn", "far.cube": "it has no corners here"},
			schema.Kind[shape]{Name: "point", Base: shape{Kind: "point"}},
			schema.Kind[shape]{Name: "circle", Base: shape{Kind: "circle"}, Required: []string{"radius"},
				Fields: []schema.Field[shape]{schema.Integer("radius", 1, 1, 99, 0, func(s *shape) *int { return &s.Radius })},
				Check: func(s *shape) error {
					if s.Radius%2 == 1 {
						return errors.New("the radius is odd")
					}
					return nil
				}},
			schema.Kind[shape]{Name: "blob", Base: shape{Kind: "blob"}, Experimental: true, Idle: "it has no outline"}),
		schema.Idle(schema.Flag("threads", false, schema.Nowhere[server, bool]), "they are the runtime's"),
		schema.IdleUnless(schema.Flag("delay", false, schema.Nowhere[server, bool]), "there is none", schema.Is("false")),
		schema.Deferred(schema.Group("later", schema.Flag("on", false, schema.Nowhere[server, bool]))),
		schema.Refused[server]("announce", "there is nobody to hear it"),
	}
}

// read reads a document; said are its faults or, without any, its warnings.
func read(t *testing.T, text string) (s server, said []string, r *document.Reader) {
	t.Helper()
	r = &document.Reader{File: "f", Of: "a test"}
	sets, ok := schema.Read(r, "", r.Root([]byte(text)), fields(), map[string]string{"host": "it is of clients"})
	for _, err := range r.Errors() {
		said = append(said, err.Error())
	}
	if ok != (len(said) == 0) {
		t.Errorf("%q: it is right: %v, but\n%s", text, ok, strings.Join(said, "\n"))
	}
	if !ok {
		return unset, said, r
	}
	for _, w := range r.Warnings() {
		said = append(said, w.String())
	}
	return schema.Apply(unset, sets), said, r
}

func TestRead(t *testing.T) {
	got, said, r := read(t, `
port: 8080
timeoutMs: 1500
clear: true
share: 1
label: edge
tls: {cert: /etc/cert.pem, ciphers: [a, b]}
pool: {max: 20}
shape: {kind: circle, radius: 4}
delay: false
later: {on: true}
`)
	want := server{
		Port: 8080, Timeout: 1500 * time.Millisecond, Clear: true, Share: 1, Label: "EDGE", Cert: "/etc/cert.pem", Ciphers: "a\nb",
		Pool: pool{Min: 1, Max: 20}, Shape: shape{Kind: "circle", Radius: 4},
	}
	if diff := cmp.Diff(want, got); diff != "" || said != nil {
		t.Errorf("%q\n%s", said, diff)
	}
	mentioned := []document.Mention{{File: "f", Line: 7, Key: "tls.cert", Path: "/etc/cert.pem"}}
	if diff := cmp.Diff(mentioned, r.Mentioned()); diff != "" {
		t.Error(diff)
	}
}

// What is wrong is said with its line, its key and what would be right, all at once, and
// nothing of it is used.
func TestFaults(t *testing.T) {
	for text, want := range map[string]string{
		"prt: 80":                          "f:1: prt is not a key of a test; did you mean port?",
		"host: a":                          "f:1: host is not known here: it is of clients",
		"port: '80'":                       `f:1: port: "80" is not a whole number`,
		"port: 0":                          "f:1: port: 0 is out of range: 1 to 65535",
		"port: [80]":                       "f:1: port: it must be a single value",
		"port:":                            "f:1: port: it has no value; leave it out for the default",
		"timeoutMs: 2592000001":            "f:1: timeoutMs: 2592000001 is out of range: 1 to 2592000000",
		"clear: yes please":                `f:1: clear: "yes please" is not true or false`,
		"share: 1.5":                       "f:1: share: 1.5 is out of range: 0 to 1",
		"share: .nan":                      "f:1: share: .nan is out of range: 0 to 1",
		"label: 7":                         "f:1: label: 7 is not text but read as a number; quotes make it text",
		"label: true":                      "f:1: label: true is not text but read as true or false; quotes make it text",
		"label: 2020-01-01":                "f:1: label: 2020-01-01 is not text but read as a date; quotes make it text",
		"label: !!binary aGk=":             "f:1: label: aGk= is not text",
		"? &a {port: 0}\n: 1\n<<: *a":      "f:1: a key must be plain text; f:3: merge keys (<<) are not taken: write the keys themselves, or an alias for the whole value",
		"label: ''":                        "f:1: label: it is empty",
		"tls: {cert: ''}":                  "f:1: tls.cert: it is empty, and must be the path of a file",
		"tls: {ciphers: a}":                "f:1: tls.ciphers: it must be a list of texts",
		"tls:\n  ciphers:\n  - a\n  - ''":  "f:4: tls.ciphers[1]: it must be a line of text",
		"tls: a":                           "f:1: tls: it must hold keys and values",
		"pool: {min: 5}":                   "f:1: pool.max is not set",
		"pool: {min: 5, max: 4}":           "f:1: pool: min 5 is more than max 4",
		"shape: {}":                        "f:1: shape.kind is not set, allowed: point, circle, blob",
		"shape: circle":                    "f:1: shape: it must hold keys and values",
		"shape: {kind: cirle}":             `f:1: shape.kind: "cirle" is none; did you mean circle? Allowed: point, circle, blob`,
		"shape: {kind: far.cube}":          "f:1: shape.kind: far.cube is not here: it has no corners here",
		"shape: {kind: far.cone}":          "f:1: shape.kind: far.cone is not here: far shapes are not drawn",
		"shape: {kind: circle}":            "f:1: shape.radius is not set, which kind circle needs",
		"shape: {kind: circle, radius: 3}": "f:1: shape: the radius is odd",
		"shape: {kind: point, radius: 3}":  "f:1: shape.radius is not known here: it is of kind circle, and this is point",
		"shape: {kind: blob}":              "f:1: shape.kind: blob is experimental and must be enabled: experimental: true",
		"announce: [a]":                    "f:1: announce is refused: there is nobody to hear it",
		"later: {on: maybe}":               `f:1: later.on: "maybe" is not true or false`,
		"threads: 4":                       "f:1: threads: 4 is not true or false",
		"port: 0\nshare: 2":                "f:1: port: 0 is out of range: 1 to 65535; f:2: share: 2 is out of range: 0 to 1",
	} {
		got, said, _ := read(t, text)
		if all := strings.Join(said, "; "); all != want {
			t.Errorf("%q\n got %s\nwant %s", text, all, want)
		}
		if diff := cmp.Diff(unset, got); diff != "" {
			t.Errorf("%q was used: %s", text, diff)
		}
	}
}

func TestWarnings(t *testing.T) {
	for text, want := range map[string]string{
		"threads: false":    "f:1: threads has no effect: they are the runtime's",
		"delay: true":       "f:1: delay has no effect: there is none",
		"delay: false":      "",
		"later: {on: true}": "",
		"shape: {kind: blob, experimental: true}": "f:1: shape.kind blob has no effect: it has no outline",
	} {
		if _, said, _ := read(t, text); strings.Join(said, "; ") != want {
			t.Errorf("%q: %q, want %q", text, said, want)
		}
	}
}

// What is shown is read as what it was.
func TestShow(t *testing.T) {
	for _, text := range []string{"port: 1", "timeoutMs: 7\nclear: true\nshare: 0.25\nlabel: A\npool: {min: 0, max: 3}\nshape: {kind: circle, radius: 2}"} {
		want, _, _ := read(t, text)
		printed, err := yaml.Marshal(schema.Show(want, fields()))
		if err != nil {
			t.Fatal(err)
		}
		got, said, _ := read(t, string(printed))
		if diff := cmp.Diff(want, got); diff != "" || said != nil {
			t.Errorf("%s %q %s", printed, said, diff)
		}
	}
}

func TestLeaves(t *testing.T) {
	want := []schema.Leaf{
		{Path: "s.port", Default: "80"}, {Path: "s.timeoutMs", Default: "none"}, {Path: "s.clear", Default: "false"}, {Path: "s.share", Default: "0.5"},
		{Path: "s.label", Default: "none"}, {Path: "s.tls.cert", Default: "none"}, {Path: "s.tls.ciphers", Default: "none"},
		{Path: "s.pool.min", Default: "1"}, {Path: "s.pool.max", Default: "required"},
		{Path: "s.shape.kind", Default: "point"}, {Path: "s.shape.radius", Default: "required"},
		{Path: "s.threads", Default: schema.NoEffect}, {Path: "s.delay", Default: schema.NoEffect}, {Path: "s.later.on", Default: schema.Later},
		{Path: "s.announce", Default: schema.Refusal},
	}
	if diff := cmp.Diff(want, schema.Leaves("s", fields())); diff != "" {
		t.Error(diff)
	}
}

// Lift gives a key of a part to the whole.
func TestLift(t *testing.T) {
	type node struct{ Server server }
	f := schema.Lift(fields()[0], func(n *node) *server { return &n.Server })
	r := &document.Reader{File: "f"}
	sets, ok := schema.Read(r, "", r.Root([]byte("port: 7")), []schema.Field[node]{f}, nil)
	if got := schema.Apply(node{unset}, sets); !ok || got.Server.Port != 7 || f.Show(got) != int64(7) {
		t.Errorf("%v %+v", r.Err(), got)
	}
}

// Aliases and the like are read as what they stand for, wherever they are.
func TestAliases(t *testing.T) {
	r := &document.Reader{File: "f"}
	root := r.Root([]byte("a: &a {port: 7}\nb: *a\nc: [*a]"))
	b, c := schema.Child(root, "b"), schema.Items(r, "c", schema.Child(root, "c"), "things")
	if schema.Child(b, "port").Value != "7" || len(c) != 1 || schema.Child(c[0], "port").Value != "7" || schema.Child(root, "d") != nil || schema.Child(c[0].Content[0], "x") != nil {
		t.Errorf("%v %v", b, c)
	}
	if schema.Items(r, "b", b, "things") != nil || r.Err() == nil || r.Err().Error() != "f:1: b: it must be a list of things" {
		t.Error(r.Err())
	}
}
