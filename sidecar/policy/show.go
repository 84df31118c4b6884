package policy

import (
	"encoding/json"

	"github.com/tulle-mesh/tulle/internal/schema"
)

// Leaf is a key that a policy may have, with all keys around it.
type Leaf = schema.Leaf

// MarshalJSON prints s in the words of a file.
func (s Server) MarshalJSON() ([]byte, error) { return json.Marshal(showServer(s)) }

// MarshalJSON prints c in the words of a file.
func (c Client) MarshalJSON() ([]byte, error) { return json.Marshal(showClient(c)) }

// MarshalJSON prints s in the words of a file.
func (s Service) MarshalJSON() ([]byte, error) { return json.Marshal(showService(s)) }

func showServer(s Server) map[string]any { return schema.Show(s, serverFields(defaultServer())) }

func showClient(c Client) map[string]any {
	return schema.Show(c, append(clientFields(defaultClient()), tlsField()))
}

func showService(s Service) map[string]any { return schema.Show(s, serviceFields(defaultService())) }

// MarshalJSON prints p as a file that says the same: the server with all its
// values, of clients and services what the file says. Parse reads it, unless it
// is of a Linkerd 1.x configuration with words that only these have.
func (p *Policy) MarshalJSON() ([]byte, error) {
	words := map[string]any{
		"server":  p.Server,
		"client":  showRules(p.clients, p.client, defaultClient(), showClient),
		"service": showRules(p.services, p.service, defaultService(), showService),
	}
	if p.Egress != nil {
		words["egress"] = map[string]any{"allow": append([]string{}, p.Egress.Allow...)}
	}
	return json.Marshal(words)
}

func showRules[T comparable](rules []rule[T], base, usual T, show func(T) map[string]any) map[string]any {
	configs := []any{}
	if base != usual {
		words := show(base)
		words["prefix"] = "/"
		configs = append(configs, words)
	}
	for _, r := range rules {
		all := show(schema.Apply(base, r.says))
		entry := map[string]any{"prefix": r.prefix.String()}
		for _, s := range r.says {
			if words, ok := all[s.Key]; ok {
				entry[s.Key] = words
			}
		}
		configs = append(configs, entry)
	}
	return map[string]any{"kind": static, "configs": configs}
}

// String is MarshalJSON, indented.
func (p *Policy) String() string {
	text, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return err.Error() // words are text and finite numbers, which all have a form
	}
	return string(text)
}

// Leaves returns every key that a policy may have, with its default.
func Leaves() []Leaf { return schema.Leaves("", fields()) }
