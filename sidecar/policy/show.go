package policy

import "encoding/json"

// MarshalJSON prints s in the words of a file.
func (s Server) MarshalJSON() ([]byte, error) { return json.Marshal(show(s, serverFields())) }

// MarshalJSON prints c in the words of a file.
func (c Client) MarshalJSON() ([]byte, error) { return json.Marshal(show(c, clientFields())) }

// MarshalJSON prints s in the words of a file.
func (s Service) MarshalJSON() ([]byte, error) { return json.Marshal(show(s, serviceFields())) }

// MarshalJSON prints p as a file that says the same: the server with all its
// values, of clients and services what the file says. Parse reads it.
func (p *Policy) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]any{
		"server":  p.Server,
		"client":  showRules(p.clients, defaultClient(), clientFields()),
		"service": showRules(p.services, defaultService(), serviceFields()),
	})
}

func showRules[T any](rules []rule[T], unset T, fields []field[T]) map[string]any {
	configs := []any{}
	for _, r := range rules {
		all := show(apply(unset, r.says), fields)
		entry := map[string]any{"prefix": r.prefix.String()}
		for _, s := range r.says {
			if words, ok := all[s.key]; ok {
				entry[s.key] = words
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

// Leaves returns every key that a file may have, with its default.
func Leaves() []Leaf {
	all := leaves("server", serverFields())
	all = append(all, leaves("client", clientFields())...)
	return append(all, leaves("service", serviceFields())...)
}
