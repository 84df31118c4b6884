// Package http1test holds a corpus of messages that were published as ways to
// make two HTTP/1 parsers disagree, each with what must become of it here.
//
// It is not a fuzzer's corpus and sends nothing. The bytes are our own; Note
// says who made the trick known. Each file of corpus/ is a txtar archive with a
// case per section: a note, what is expected, and the bytes as Go strings.
//
// Invariant: a case that says "reads" is one that no conforming parser can read
// otherwise.
//
//	for _, c := range http1test.Corpus(t) {
//		send(c.Input)
//		check(c.Want)
//	}
package http1test

import (
	"embed"
	"io/fs"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
)

//go:embed corpus/*.txtar
var files embed.FS

// Case is what one peer sends on one connection.
type Case struct {
	Name string // family/case
	Note string // who published it, and the trick
	// Response is the method of the request that Input answers; empty if Input is
	// what a client sends.
	Response string
	Input    []byte
	// Want is what must become of Input, in order:
	//
	//	reads METHOD AUTHORITY PATH BODY   (of a response: STATUS BODY)
	//	refused STATUS                     the head is not accepted
	//	broken STATUS METHOD AUTHORITY PATH   the head is, the body is not
	//	end                                the input ends inside a message
	//
	// BODY is a Go string. Input that ends between messages needs no word.
	Want []string
}

// Corpus returns all cases.
func Corpus(t testing.TB) []Case {
	t.Helper()
	names, err := fs.Glob(files, "corpus/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	var all []Case
	for _, name := range names {
		data, err := files.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		family := strings.TrimSuffix(strings.TrimPrefix(name, "corpus/"), ".txtar")
		for _, f := range txtar.Parse(data).Files {
			all = append(all, parse(t, family+"/"+f.Name, string(f.Data)))
		}
	}
	return all
}

func parse(t testing.TB, name, text string) Case {
	t.Helper()
	c := Case{Name: name}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		word, rest, _ := strings.Cut(line, " ")
		switch {
		case line == "":
		case line[0] == '"':
			repeat := 1
			if quoted, times, ok := strings.Cut(line, `" x `); ok {
				line = quoted + `"`
				repeat, _ = strconv.Atoi(times)
			}
			bytes, err := strconv.Unquote(line)
			if err != nil {
				t.Fatalf("%s: %s: %v", name, line, err)
			}
			c.Input = append(c.Input, strings.Repeat(bytes, repeat)...)
		case word == "note":
			c.Note = rest
		case word == "answers":
			c.Response = rest
		case word == "reads" || word == "refused" || word == "broken" || word == "end":
			c.Want = append(c.Want, line)
		default:
			t.Fatalf("%s: %q is no word of a case", name, line)
		}
	}
	if c.Note == "" || len(c.Want) == 0 {
		t.Fatalf("%s: a case needs a note and what is wanted", name)
	}
	return c
}
