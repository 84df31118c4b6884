package admin

import (
	"embed"
	"net/http"
	"path"
	"strings"
)

//go:embed delegator.html delegator.css delegator.js
var files embed.FS

// playground serves the page on which people try names, and what belongs to it. The
// page loads nothing from elsewhere, and what it shows cannot run.
func playground(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, "/")
	if path.Ext(name) == "" {
		name += ".html"
	}
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer") // its address may say what is tried
	http.ServeFileFS(w, r, files, name)
}
