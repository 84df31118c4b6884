package naming_test

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/naming"
)

func TestParsePath(t *testing.T) {
	for _, c := range []struct {
		in    string
		want  naming.Path
		print string // "" means as in
	}{
		{"/", nil, ""},
		{"/a", naming.Path{"a"}, ""},
		{" \n/a/b\t", naming.Path{"a", "b"}, "/a/b"},
		{"/a # note", naming.Path{"a"}, "/a"},
		{"/#/io.l5d.k8s/shop/http/cart", naming.Path{"#", "io.l5d.k8s", "shop", "http", "cart"}, ""},
		{"/$/inet/127.0.0.1/80", naming.Path{"$", "inet", "127.0.0.1", "80"}, ""},
		{"/%/a_b:c-D", naming.Path{"%", "a_b:c-D"}, ""},
		{`/\x63\x61t`, naming.Path{"cat"}, "/cat"},
		{`/\x4A\x4a/x\x00`, naming.Path{"JJ", "x\x00"}, `/JJ/\x78\x00`},
		{`/ok/a\x20b`, naming.Path{"ok", "a b"}, `/ok/\x61\x20\x62`},
		{`/\x2a`, naming.Path{"*"}, `/\x2a`},
	} {
		got, err := naming.ParsePath(c.in)
		if err != nil || !got.Equal(c.want) {
			t.Errorf("ParsePath(%q) = %q, %v; want %q", c.in, []string(got), err, []string(c.want))
			continue
		}
		want := c.print
		if want == "" {
			want = c.in
		}
		if got.String() != want {
			t.Errorf("ParsePath(%q) prints %s, want %s", c.in, got, want)
		}
	}
}

func TestPathPrinting(t *testing.T) {
	for want, p := range map[string]naming.Path{
		`/svc/\x5b\x3a\x3a\x31\x5d\x3a\x38\x30`: {"svc", "[::1]:80"},
		`/\xc3\xa9`:                             {"é"},
	} {
		if got := p.String(); got != want {
			t.Errorf("%q prints %s, want %s", []string(p), got, want)
		}
	}
}

func TestParseErrors(t *testing.T) {
	path := func(s string) error { _, err := naming.ParsePath(s); return err }
	tree := func(s string) error { _, err := naming.ParseTree(s); return err }
	dtab := func(s string) error { _, err := naming.ParseDtab(s); return err }
	const simple = "a path, '(', '~', '!' or '$'"
	for _, c := range []struct {
		parse func(string) error
		in    string
		want  string
	}{
		{path, "", "'/' expected but end of input found at '[]'"},
		{path, "cart", "'/' expected but 'c' found at '[c]art'"},
		{path, "/a/", "label character expected but end of input found at '/a/[]'"},
		{path, "/a//b", "label character expected but '/' found at '/a/[/]b'"},
		{path, "//b", "label character expected but '/' found at '/[/]b'"},
		{path, "/a^b", "end of input expected but '^' found at '/a[^]b'"},
		{path, "/{x}", "label character expected but '{' found at '/[{]x}'"},
		{path, "/*", "label character expected but '*' found at '/[*]'"},
		{path, `/\?`, `'x' expected but '?' found at '/\[?]'`},
		{path, `/\x1`, `hex digit expected but end of input found at '/\x1[]'`},
		{path, `/\xzz`, `hex digit expected but 'z' found at '/\x[z]z'`},
		{path, "/\\x\x10", "hex digit expected but '\x10' found at '/\\x[\x10]'"},
		{path, "/é", "label character expected but 'é' found at '/[é]'"},
		{path, "/\xff", `label character expected but '\xff' found at '/[` + "\xff]'"},
		{path, "/a\x00", "end of input expected but '\x00' found at '/a[\x00]'"},
		{tree, "", simple + " expected but end of input found at '[]'"},
		{tree, "/a |", simple + " expected but end of input found at '/a |[]'"},
		{tree, "(/a", "')' expected but end of input found at '(/a[]'"},
		{tree, "/a)", "end of input expected but ')' found at '/a[)]'"},
		{tree, "3 /a", "'*' expected but '/' found at '3 [/]a'"},
		{tree, ". * /a", "digit expected but ' ' found at '.[ ]* /a'"},
		{tree, "1.2.3 * /a", "digit expected but '.' found at '1.2[.]3 * /a'"},
		{tree, "-1 * /a", simple + " expected but '-' found at '[-]1 * /a'"},
		{tree, "1e3 * /a", "'*' expected but 'e' found at '1[e]3 * /a'"},
		{dtab, ";", "'/' expected but ';' found at '[;]'"},
		{dtab, "/a=>/b;;", "'/' expected but ';' found at '/a=>/b;[;]'"},
		{dtab, "/a=/b", "'>' expected but '/' found at '/a=[/]b'"},
		{dtab, "/a /b", "'=>' expected but '/' found at '/a [/]b'"},
		{dtab, "/a => /b# c", "';' expected but 'c' found at '/a => /b# [c]'"},
		{dtab, "/*.io => /b", "'=>' expected but '.' found at '/*[.]io => /b'"},
		{dtab, "/a* => /b", "'=>' expected but '*' found at '/a[*] => /b'"},
		{dtab, "/a", "'=>' expected but end of input found at '/a[]'"},
	} {
		err := c.parse(c.in)
		var pe *naming.ParseError
		if !errors.As(err, &pe) {
			t.Errorf("parse(%q) = %v, want a *ParseError", c.in, err)
		} else if got := err.Error(); got != c.want {
			t.Errorf("parse(%q):\n got %s\nwant %s", c.in, got, c.want)
		}
	}
	if err := tree("1" + strings.Repeat("0", 400) + " * /a & /b"); err == nil {
		t.Error("an infinite weight is accepted")
	}
	if err := tree(strings.Repeat("(", 1<<20)); err == nil || len(err.Error()) < 1<<20 {
		t.Error("endless parentheses are accepted")
	}
}

func TestParseTree(t *testing.T) {
	leaf := func(e ...string) naming.Leaf { return naming.Leaf(e) }
	for _, c := range []struct {
		in    string
		want  naming.Tree
		print string
	}{
		{"/a", leaf("a"), "/a"},
		{"~", naming.Neg, "~"},
		{"!", naming.Fail, "!"},
		{"$", naming.Empty, "$"},
		{"((/a))", leaf("a"), "/a"},
		{"4 * /a", leaf("a"), "/a"},
		{"/", naming.Leaf(nil), "/"},
		{"/|/", naming.Alt{naming.Leaf(nil), naming.Leaf(nil)}, "/ | /"},
		{
			"/a & /b | /c",
			naming.Alt{naming.Union{{1, leaf("a")}, {1, leaf("b")}}, leaf("c")},
			"/a & /b | /c",
		},
		{
			"/a&(/b|/c)",
			naming.Union{{1, leaf("a")}, {1, naming.Alt{leaf("b"), leaf("c")}}},
			"/a & (/b | /c)",
		},
		{
			"(/a | /b) | /c",
			naming.Alt{naming.Alt{leaf("a"), leaf("b")}, leaf("c")},
			"(/a | /b) | /c",
		},
		{
			"1 * /a & 9 * /b",
			naming.Union{{1, leaf("a")}, {9, leaf("b")}},
			"/a & 9.00*/b",
		},
		{
			".5*/a & 2.*/b & 0.001 * (/c & ~)",
			naming.Union{{.5, leaf("a")}, {2, leaf("b")}, {.001, naming.Union{{1, leaf("c")}, {1, naming.Neg}}}},
			"0.50*/a & 2.00*/b & 0.00*(/c & ~)",
		},
		{"1.001*/a & /b", naming.Union{{1.001, leaf("a")}, {1, leaf("b")}}, "1.00*/a & /b"},
		{
			"/a # first\n | # then\n /b#c",
			naming.Alt{leaf("a"), leaf("b#c")},
			"/a | /b#c",
		},
	} {
		got, err := naming.ParseTree(c.in)
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("ParseTree(%q) = %#v, %v; want %#v", c.in, got, err, c.want)
		} else if got.String() != c.print {
			t.Errorf("ParseTree(%q) prints %s, want %s", c.in, got, c.print)
		}
	}
}

func TestParseDtab(t *testing.T) {
	for in, want := range map[string]string{
		"":                               "",
		" \n# only a note":               "",
		"/svc=>/k":                       "/svc=>/k",
		"/svc => /k ; /k => /x ;\n":      "/svc=>/k;/k=>/x",
		"/a => /b#c":                     "/a=>/b#c",
		"/a => /b # note\n;/c=>~":        "/a=>/b;/c=>~",
		"/#team => /#/io.l5d.fs":         "/#team=>/#/io.l5d.fs",
		"/svc/*/x => ! | $":              "/svc/*/x=>! | $",
		"/ => /a":                        "/=>/a",
		"/=>/":                           "/=>/",
		`/\x2a => /x`:                    `/\x2a=>/x`,
		"/host/world=>1*/tmp & 9 * /srv": "/host/world=>/tmp & 9.00*/srv",
	} {
		d, err := naming.ParseDtab(in)
		if err != nil || d.String() != want {
			t.Errorf("ParseDtab(%q) = %q, %v; want %q", in, d, err, want)
		}
	}
}

// The forms of printing: for headers, for our own programs, and for namerd's clients.
func TestExact(t *testing.T) {
	for in, want := range map[string][3]string{
		"/a=>0.001*/b & 0.999*/c":      {"/a=>0.00*/b & 1.00*/c", "/a=>0.001*/b & 0.999*/c", "/a=>0.001*/b & 0.999*/c"},
		"/a=>1.*/b & 9*/c;/d=>.5*/e&$": {"/a=>/b & 9.00*/c;/d=>0.50*/e & $", "/a=>/b & 9*/c;/d=>0.5*/e & $", "/a=>/b & 9.00*/c;/d=>0.50*/e & $"},
		"/a=>(~|/b&2*(!|/c))|/d|1.004*/e & 0*/f": {
			"/a=>(~ | /b & 2.00*(! | /c)) | /d | 1.00*/e & 0.00*/f",
			"/a=>(~ | /b & 2*(! | /c)) | /d | 1.004*/e & 0*/f",
			"/a=>(~ | /b & 2.00*(! | /c)) | /d | 1.004*/e & 0.00*/f",
		},
		`/*/\x2a=>/`: {`/*/\x2a=>/`, `/*/\x2a=>/`, `/*/\x2a=>/`},
		"":           {"", "", ""},
	} {
		d, err := naming.ParseDtab(in)
		if got := [3]string{d.String(), d.Exact(), d.Lossless()}; err != nil || got != want {
			t.Errorf("ParseDtab(%q) prints\n%q, %v; want\n%q", in, got, err, want)
		}
	}
}

// Brief is no longer, whatever the text is.
func TestBrief(t *testing.T) {
	for in, want := range map[string]string{
		"/a=>/b\n  x" + strings.Repeat("y", 1000): "line 2, column 3: ",
		"/a=>": "line 1, column 5: ",
		"x":    "line 1, column 1: ",
	} {
		_, err := naming.ParseDtab(in)
		if got := naming.Brief(fmt.Errorf("read: %w", err)); !strings.HasPrefix(got, want) || len(got) > 100 {
			t.Errorf("%.20q: %s", in, got)
		}
	}
	if got := naming.Brief(errors.New("other")); got != "other" {
		t.Error(got)
	}
}
