package delegator

import (
	"embed"
	"fmt"
	"net/http"
	"path"
	"strings"

	"github.com/tulle-mesh/tulle/naming"
)

//go:embed delegator.html delegator.css delegator.js
var files embed.FS

// File serves the page of a proxy, at an address that ends in delegator, and delegator.css and
// delegator.js, which a namer's pages load too. Pages load delegator.json from where they are
// themselves, and those of a proxy config.json. A page that is about the rules of one dtab has them
// in the field dtab, whose data-name says what they are stored as.
func File(w http.ResponseWriter, r *http.Request) {
	name := path.Base(r.URL.Path)
	if path.Ext(name) == "" {
		name += ".html"
	}
	Secure(w.Header())
	http.ServeFileFS(w, r, files, name)
}

// Secure sets the headers of a page that loads nothing from elsewhere, and of which nothing
// that it shows can run.
func Secure(h http.Header) {
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer") // its address may say what is tried
}

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
