package webhook

import (
	"encoding/json"
	"strings"
	"testing"
)

// What is admitted to be chained is what the proxy takes: of anything else it would refuse every request.
func TestCanChain(t *testing.T) {
	for value, want := range map[string]bool{
		"http://corp":                         true,
		"http://user:p%40ss@corp:3128/":       true,
		"http://[2001:db8::1]:3128":           true,
		"http://corp:65535":                   true,
		"http://corp:65536":                   false,
		"http://corp:0":                       false,
		"http://corp:http":                    false,
		"https://corp:3128":                   false,
		"corp:3128":                           false,
		"http://corp/path":                    false,
		"http://corp?q":                       false,
		"http://:3128":                        false,
		"http://$(CORP):3128":                 false,
		"http://bücher.example:3128":          false,
		"http://" + strings.Repeat("a", 2041): true,
		"http://" + strings.Repeat("a", 2042): false,
		"":                                    false,
	} {
		if got := canChain(envView{Name: "http_proxy", Value: value}); got != want {
			t.Errorf("%.60q: %v, want %v", value, got, want)
		}
	}
	if canChain(envView{Name: "http_proxy", ValueFrom: json.RawMessage(`{"secretKeyRef":{}}`)}) {
		t.Error("a value from elsewhere can be chained")
	}
}
