package admin

import (
	"cmp"
	"fmt"
	"log/slog"
	"net/http"
	"strings"

	"github.com/tulle-mesh/tulle/naming/delegator"
	"github.com/tulle-mesh/tulle/naming/namer"
)

// rootLogger is the name of the one logger that there is, as in Linkerd 1.x.
const rootLogger = "root"

// maxForm bounds the body of what sets a level.
const maxForm = 4 << 10

var levels = []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError}

// levelOf reads the name of a level, also those of Linkerd 1.x that mean one of ours.
func levelOf(name string) (slog.Level, error) {
	switch strings.ToUpper(name) {
	case "DEBUG", "TRACE", "ALL":
		return slog.LevelDebug, nil
	case "INFO":
		return slog.LevelInfo, nil
	case "WARN", "WARNING":
		return slog.LevelWarn, nil
	case "ERROR", "CRITICAL", "FATAL":
		return slog.LevelError, nil
	}
	return 0, fmt.Errorf("the level is %q, allowed: DEBUG, INFO, WARN, ERROR", name)
}

// set sets the level that a request says, or answers why not.
func (p *pages) set(w http.ResponseWriter, r *http.Request) (ok bool) {
	if !namer.PlainHost(r.Host) {
		// Who asks may be a browser on this machine, by an address other than loopback.
		http.Error(w, fmt.Sprintf("the level is set at localhost or at an address, not at %q", r.Host), http.StatusForbidden)
		return false
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		http.Error(w, "the form cannot be read: "+err.Error(), http.StatusBadRequest)
		return false
	}
	if name := cmp.Or(r.Form.Get("logger"), rootLogger); name != rootLogger {
		http.Error(w, fmt.Sprintf("there is no logger %q; there is one: %s", name, rootLogger), http.StatusBadRequest)
		return false
	}
	level, err := levelOf(r.Form.Get("level"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return false
	}
	before := p.Level.Level()
	if before == level {
		return true
	}
	said := func() {
		if p.Logger != nil {
			p.Logger.Warn("the log level is set", "before", before, "after", level, "from", r.RemoteAddr)
		}
	}
	if level > before { // said while it can be heard
		said()
	}
	p.Level.Set(level)
	if level < before {
		said()
	}
	return true
}

// logging is the page; its buttons come back to it.
func (p *pages) logging(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost {
		if p.set(w, r) {
			http.Redirect(w, r, "logging", http.StatusSeeOther)
		}
		return
	}
	p.showLogging(w)
}

// loggers serves the page as JSON.
func (p *pages) loggers(w http.ResponseWriter, _ *http.Request) {
	type logger struct {
		Name  string     `json:"name"`
		Level slog.Level `json:"level"`
	}
	delegator.Show(w, []logger{{rootLogger, p.Level.Level()}})
}

func (p *pages) setLogger(w http.ResponseWriter, r *http.Request) {
	if p.set(w, r) {
		w.WriteHeader(http.StatusNoContent)
	}
}
