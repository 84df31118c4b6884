package file

import (
	"math"
	"net/netip"
	"strings"
	"testing"
)

func TestParseErrors(t *testing.T) {
	for content, want := range map[string]string{
		"10.0.0.1":                      "f:1: \"10.0.0.1\" is not of the form",
		"a 1 2":                         "is not of the form",
		"a 1 x 2":                       "is not of the form",
		"\n\na 65536":                   `f:3: "65536" is no port from 1 to 65535`,
		"a -1":                          `"-1" is no port`,
		"a http":                        `"http" is no port`,
		"a 1 * -1":                      `"-1" is no weight`,
		"a 1 * inf":                     `"inf" is no weight`,
		"a 1 * nan":                     `"nan" is no weight`,
		"10.0.0 1":                      `"10.0.0" is no IP address and no host name`,
		"10.0.0.1:80 1":                 "host and port are two words",
		"a/b 1":                         "no host name",
		"a 0\nb 1\nc 0":                 "f:3: ",
		strings.Repeat("a", 254) + " 1": "no host name",
	} {
		if lines, err := parse("f", content); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v, want %s", content, lines, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("10.0.0.1 80\n::ffff:1.2.3.4 1 * .5 # x\na.b-c_d. 65535\n")
	f.Add("a. 1\n.. 2\n. 3\n0x1 4")
	f.Fuzz(func(t *testing.T, content string) {
		lines, err := parse("f", content)
		if err != nil {
			return
		}
		for _, l := range lines {
			w := l.endpoint.Weight
			if w < 0 || math.IsInf(w, 0) || math.IsNaN(w) {
				t.Errorf("weight %v", w)
			}
			if a, err := netip.ParseAddrPort(l.endpoint.Address); l.host == "" && (err != nil || a.Port() == 0) {
				t.Errorf("address %q", l.endpoint.Address)
			}
			if l.host != "" && (l.port == 0 || strings.ContainsAny(l.host, "/ ")) {
				t.Errorf("host %q, port %d", l.host, l.port)
			}
		}
	})
}
