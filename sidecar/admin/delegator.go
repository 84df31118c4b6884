package admin

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/tulle-mesh/tulle/naming/delegator"
)

// Question is what /delegator.json is asked. If it names no router only the namers of the process
// count, unless there is but one router; if it names no caller, that is in the proxy's own
// namespace. Its Dtab is put after what the router's interpreter keeps itself; for the default
// one it takes the place of the router's. Nil is the router's own.
type Question = delegator.Question

// Elsewhere is returned by Config.Delegate if names are another's business, who did not
// explain this one.
type Elsewhere struct {
	Who string
	Err error
}

func (e *Elsewhere) Error() string { return fmt.Sprintf("names are bound by %s: %v", e.Who, e.Err) }
func (e *Elsewhere) Unwrap() error { return e.Err }

// StatusCode is the HTTP status to answer with.
func (e *Elsewhere) StatusCode() int { return http.StatusBadGateway }

// NoRouter is returned by Config.Delegate if no router has the label that it was asked
// for.
type NoRouter struct {
	Label   string
	Routers []string // labels of those that there are
}

func (e *NoRouter) Error() string {
	return fmt.Sprintf("no router has the label %q; there are: %s", e.Label, strings.Join(e.Routers, ", "))
}

// StatusCode is the HTTP status to answer with.
func (e *NoRouter) StatusCode() int { return http.StatusBadRequest }
