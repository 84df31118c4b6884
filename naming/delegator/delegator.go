// Package delegator explains names to people: the page on which they try rules, and the JSON of
// it that Linkerd 1.x and namerd have as delegator.json. The administration ports of proxies and
// of namers share it.
//
// It does not know what names mean: it reads questions, and whoever serves it answers them.
//
// Invariant: what it shows cannot run in a browser, whatever a question, a rule or an answer says.
package delegator

import (
	"bytes"
	"encoding/json"
	"net/http"
)

// Show answers with v as JSON that people can read.
func Show(w http.ResponseWriter, v any) {
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false) // rules are full of >
	if err := e.Encode(v); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write(text.Bytes())
}
