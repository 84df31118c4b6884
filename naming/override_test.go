package naming_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/naming"
)

func TestAppendOverride(t *testing.T) {
	name := func(n int) string { return strings.Repeat("x", n) }
	for _, c := range []struct {
		what  string
		texts []string
		want  string // the rules, or a part of the error
		ok    bool
	}{
		{"none", nil, "", true},
		{"empty", []string{""}, "", true},
		{"later ones are later", []string{"/a => /b", "/c=>/d; /e=>/f;"}, "/a=>/b;/c=>/d;/e=>/f", true},
		{"as many as may be", []string{strings.Repeat("/a=>/b;", 99), "/c=>/d"}, strings.Repeat("/a=>/b;", 99) + "/c=>/d", true},
		{"one more", []string{strings.Repeat("/a=>/b;", 99), "/c=>/d;/e=>/f"}, "they are 101, more than 100", false},
		{"as long as may be", []string{"/a=>/" + name(8192-5)}, "/a=>/" + name(8192-5), true},
		{"one byte more", []string{"/a=>/" + name(8192-4)}, "8193 bytes, more than 8192", false},
		{"too long together", []string{"/a=>/" + name(5000), "/a=>/" + name(5000)}, "10011 bytes when printed", false},
		{"too long when printed", []string{`/a=>/\x00` + name(8000)}, "32009 bytes when printed", false},
		{"too long, though it means little", []string{"#" + name(8192)}, "8193 bytes, more than 8192", false},
		{"no rules", []string{"/a=>/b", "nonsense"}, "'/' expected but 'n' found", false},
	} {
		var d naming.Dtab
		var err error
		for _, text := range c.texts {
			if d, err = naming.AppendOverride(d, text); err != nil {
				break
			}
		}
		switch {
		case c.ok && (err != nil || d.String() != c.want):
			t.Errorf("%s: %s, %v", c.what, d, err)
		case !c.ok && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: the error is %v, want %s", c.what, err, c.want)
		}
	}
	var parse *naming.ParseError
	if _, err := naming.AppendOverride(nil, "nonsense"); !errors.As(err, &parse) {
		t.Errorf("nonsense gives %v", err)
	}
	// What is taken and printed is taken again, for the next proxy is sent it so.
	d, err := naming.AppendOverride(nil, "/x=>.125*/"+name(8000)+"&2*/b|(/c|~)")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := naming.AppendOverride(nil, d.String()); err != nil {
		t.Error(err)
	}
	// Requests may share rules: appending leaves those of the other alone.
	base := append(make(naming.Dtab, 0, 8), d...)
	one, _ := naming.AppendOverride(base, "/one=>/a")
	two, _ := naming.AppendOverride(base, "/two=>/a")
	if one[1].Prefix.String() != "/one" || two[1].Prefix.String() != "/two" {
		t.Errorf("rules of requests got mixed: %s, %s", one[1], two[1])
	}
}
