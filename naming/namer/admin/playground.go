package admin

import (
	"bytes"
	"embed"
	"html/template"
	"net/http"

	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/delegator"
	"github.com/tulle-mesh/tulle/naming/namer/api"
)

//go:embed index.html dtab.html logging.html
var files embed.FS

var templates = template.Must(template.ParseFS(files, "*.html"))

// show answers with the page that a template makes.
func show(w http.ResponseWriter, status int, page string, shown any) {
	var text bytes.Buffer
	if err := templates.ExecuteTemplate(&text, page, shown); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	delegator.Secure(w.Header())
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(text.Bytes())
}

// playground is the page on which people try the rules of a dtab, and others.
type playground struct {
	Name  string   // of the dtab
	Notes []string // what is known of it
	Dtab  naming.Dtab
	Names []api.Name // that proxies use
	Past  []past     // what the rules were, newest first
}

// past is rules of some time before.
type past struct {
	When, By string
	Dtab     naming.Dtab
}

// maxChips is how many names are shown at once; all can be chosen.
const maxChips = 12

// Chips returns the names that are shown at once.
func (p playground) Chips() []api.Name { return p.Names[:min(len(p.Names), maxChips)] }

// Further returns how many names are not.
func (p playground) Further() int { return max(0, len(p.Names)-maxChips) }

// Rows returns how many lines the field for the rules has at first.
func (p playground) Rows() int { return min(max(len(p.Dtab)+1, 5), 20) }

// Rules returns the rules to begin with, one a line.
func (p playground) Rules() string { return delegator.Lines(p.Dtab) }

// Rules returns the rules, one a line.
func (p past) Rules() string { return delegator.Lines(p.Dtab) }
