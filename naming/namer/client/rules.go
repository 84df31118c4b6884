package client

import (
	"fmt"
	"log/slog"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/namer/api"
)

// rules are those of one ConfigMap, as the namer last told.
type rules struct {
	dtab  watch.Value[*naming.Dtab]
	cause watch.Value[string]
}

// take takes in what the namer says. What was known stays if it knows less.
func (r *rules) take(m *api.Rules, log *slog.Logger) {
	cause, taken := m.Cause, false
	if m.Text != nil {
		dtab, err := naming.ParseDtab(*m.Text)
		if err != nil { // a namer of a later version might know more words
			cause = fmt.Sprintf("the rules that the namer sent are not understood: %v", err)
		} else if old := r.dtab.Get(); old == nil || old.Exact() != dtab.Exact() {
			r.dtab.Set(&dtab)
			taken = true
			log.Info("rules taken", "configMap", m.ConfigMap.String(), "rules", len(dtab))
		}
	}
	if cause == r.cause.Get() {
		return
	}
	r.cause.Set(cause)
	switch {
	case cause == "" && taken:
	case cause == "":
		log.Info("the rules are what the ConfigMap says again", "configMap", m.ConfigMap.String())
	case r.dtab.Get() == nil:
		log.Error("rules not known, names wait for them", "configMap", m.ConfigMap.String(), "error", cause)
	default:
		log.Error("rules not taken, the old ones stay", "configMap", m.ConfigMap.String(), "error", cause)
	}
}

// Rules returns the dtab of a ConfigMap, live; nil inside as long as it is not known. m must be one of
// those that Config.Hello names.
func (c *Client) Rules(m api.ConfigMap) *watch.Value[*naming.Dtab] { return &c.rules[m].dtab }

// RulesCause returns why the rules of such a ConfigMap are not what it says, with what is to be done;
// empty if they are, or if the namer has said nothing yet.
func (c *Client) RulesCause(m api.ConfigMap) string { return c.rules[m].cause.Get() }
