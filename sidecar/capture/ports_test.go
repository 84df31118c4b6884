package capture_test

import (
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/sidecar/capture"
)

func TestParsePorts(t *testing.T) {
	for list, want := range map[string]string{
		"": "", "  ": "", "80": "80", "8080, 80": "80,8080", "1-65535": "1-65535", "80,80,79-81": "79-81", "1-2,3-4": "1-4",
		"10000,80": "80,10000", "65535,1": "1,65535",
	} {
		if got, err := capture.ParsePorts(list); err != nil || got.String() != want {
			t.Errorf("%q: %v %v, want %s", list, got, err, want)
		}
	}
	for list, want := range map[string]string{
		"0": `"0" is no port`, "65536": "no port", "http": `"http" is no port`, "80,": `"" is no port`, "9-8": "ends before it begins",
		"-1": "no port", "1-": "no port", "+80": "no port", "80-90-100": "no port",
	} {
		if got, err := capture.ParsePorts(list); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v %v, want %s", list, got, err, want)
		}
	}
}

func FuzzParsePorts(f *testing.F) {
	f.Add("25,8000-8099, 3306")
	f.Fuzz(func(t *testing.T, list string) {
		p, err := capture.ParsePorts(list)
		if err != nil {
			return
		}
		again, err := capture.ParsePorts(p.String())
		if err != nil || again.String() != p.String() {
			t.Fatalf("%q is read as %s, and that as %s: %v", list, p, again, err)
		}
		for i, r := range p {
			if r.First == 0 || r.Last < r.First || i > 0 && int(p[i-1].Last)+1 >= int(r.First) {
				t.Fatalf("%q: %v", list, p)
			}
			if !p.Has(r.First) || !p.Has(r.Last) || i == 0 && p.Has(r.First-1) {
				t.Fatalf("%q: %v and Has differ", list, p)
			}
		}
	})
}
