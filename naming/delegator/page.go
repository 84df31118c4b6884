package delegator

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"net/http"
	"path"
	"strings"

	"github.com/tulle-mesh/tulle/naming"
)

//go:embed delegator.html delegator.css delegator.js
var files embed.FS

var playground = template.Must(template.ParseFS(files, "delegator.html"))

// Page is the page on which people try names. It loads delegator.css, delegator.js and
// delegator.json from where it is itself.
type Page struct {
	Title string
	// Routers lets people choose a router of a proxy, whose rules are tried; the page reads
	// what there is from config.json. Without, Dtab is tried.
	Routers bool
	// Dtab is the rules to begin with, and Name what those are stored as.
	Dtab naming.Dtab
	Name string
	// Up is the address of the page above this one, and Above what that is called.
	Up, Above string
	Notes     []string // what is known of the rules
	Names     []Name   // to choose from
	Past      []Past   // what the rules were, newest first
	Caller    string   // what is said of the field for the caller
}

// Name is a name to try.
type Name struct{ Path, Caller string }

// Past is rules of some time before.
type Past struct {
	When, By string
	Dtab     naming.Dtab
}

// maxChips is how many names are shown at once; all can be chosen.
const maxChips = 12

// Chips returns the names that are shown at once.
func (p Page) Chips() []Name { return p.Names[:min(len(p.Names), maxChips)] }

// Further returns how many names are not.
func (p Page) Further() int { return max(0, len(p.Names)-maxChips) }

// Rows returns how many lines the field for the rules has at first.
func (p Page) Rows() int { return min(max(len(p.Dtab)+1, 5), 20) }

// Rules returns the rules to begin with, one a line.
func (p Page) Rules() string { return Lines(p.Dtab) }

// Rules returns the rules, one a line.
func (p Past) Rules() string { return Lines(p.Dtab) }

// Lines prints rules for people to read and edit: one a line, the arrows one below the other.
// ParseDtab reads back the very same rules.
func Lines(d naming.Dtab) string {
	width := 0
	for _, rule := range d {
		width = max(width, len(rule.Prefix.String()))
	}
	var b strings.Builder
	for i, rule := range d {
		if i > 0 {
			b.WriteString(" ;\n")
		}
		prefix := rule.Prefix.String()
		dst := strings.TrimPrefix(naming.Dtab{rule}.Exact(), prefix+"=>")
		fmt.Fprintf(&b, "%-*s => %s", width, prefix, dst)
	}
	return b.String()
}

// ServeHTTP serves the page.
func (p Page) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	Write(w, http.StatusOK, playground, p)
}

// Write answers with a page that t makes of what it shows, with the headers of [Secure].
func Write(w http.ResponseWriter, status int, t *template.Template, shown any) {
	var text bytes.Buffer
	if err := t.Execute(&text, shown); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	Secure(w.Header())
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(text.Bytes())
}

// File serves delegator.css and delegator.js, by the last element of the path.
func File(w http.ResponseWriter, r *http.Request) {
	Secure(w.Header())
	http.ServeFileFS(w, r, files, path.Base(r.URL.Path))
}

// Secure sets the headers of a page that loads nothing from elsewhere, and of which nothing
// that it shows can run.
func Secure(h http.Header) {
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer") // its address may say what is tried
}
