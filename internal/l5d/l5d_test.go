package l5d_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/tulle-mesh/tulle/internal/document"
	"github.com/tulle-mesh/tulle/internal/l5d"
	"github.com/tulle-mesh/tulle/internal/schema"
)

// words is what these tests read.
type words struct {
	Admin l5d.Admin
	IP    string
	TLS   l5d.TLS
}

func fields() []schema.Field[words] {
	return []schema.Field[words]{
		schema.Lift(l5d.AdminField(7), func(w *words) *l5d.Admin { return &w.Admin }),
		l5d.Telemetry[words](map[string]string{"io.l5d.zipkin": "there are no spans"}),
		l5d.IP("", func(w *words) *string { return &w.IP }),
		l5d.ServerTLS(true, func(w *words) *l5d.TLS { return &w.TLS }),
		schema.Group("kubernetes", l5d.KubernetesFields[words]("host", "port")...),
	}
}

// read returns what a text means, and all that is said of it.
func read(text string) (w words, said string, r *document.Reader) {
	r = &document.Reader{File: "f", Of: "a test"}
	sets, _ := schema.Read(r, "", l5d.Root(r, []byte(text)), fields(), nil)
	var lines []string
	for _, err := range r.Errors() {
		lines = append(lines, err.Error())
	}
	for _, w := range r.Warnings() {
		lines = append(lines, w.String())
	}
	return schema.Apply(words{Admin: l5d.DefaultAdmin(7)}, sets), strings.Join(lines, "\n"), r
}

func TestWords(t *testing.T) {
	admin := l5d.Admin{IP: "127.0.0.1", Port: 7, Grace: 10 * time.Second}
	for text, want := range map[string]words{
		"{}": {Admin: admin},
		"admin: {ip: '::', port: 0, shutdownGraceMs: 0}": {Admin: l5d.Admin{IP: "::"}},
		"admin: {security: {uiEnabled: true}}":           {Admin: admin},
		"ip: localhost":                                  {Admin: admin, IP: "127.0.0.1"},
		"ip: 0:0:0::1":                                   {Admin: admin, IP: "::1"},
		"tls: {certPath: a, keyPath: b}":                 {Admin: admin, TLS: l5d.TLS{Cert: "a", Key: "b"}},
		"tls: {certPath: a, keyPath: b, intermediateCertsPath: c, caCertPath: d, requireClientAuth: true}": {Admin: admin, TLS: l5d.TLS{Cert: "a", Key: "b", Intermediates: "c", CA: "d", RequireClient: true}},
		"{\n\t\"ip\":\t\"1.2.3.4\"\n}":                               {Admin: admin, IP: "1.2.3.4"},
		`{"tls": {"certPath": "\/a\\\/b\\/c", "keyPath": "\u002f"}}`: {Admin: admin, TLS: l5d.TLS{Cert: `/a\/b\/c`, Key: "/"}},
		`tls: {certPath: '\/a', keyPath: b}`:                         {Admin: admin, TLS: l5d.TLS{Cert: `\/a`, Key: "b"}},
	} {
		if got, said, _ := read(text); said != "" || got != want {
			t.Errorf("%s: %+v %s", text, got, said)
		}
	}
	if got := l5d.DefaultAdmin(9).Address(); got != "127.0.0.1:9" {
		t.Error(got)
	}
}

func TestSaid(t *testing.T) {
	for text, want := range map[string]string{
		"ip: 127.1": `f:1: ip: "127.1" is no IP address, such as 127.0.0.1 or 0.0.0.0`,
		"ip: here":  `f:1: ip: "here" is no IP address, such as 127.0.0.1 or 0.0.0.0`,
		"admin: {security: {uiEnabled: false, pathBlacklist: [a]}}": "f:1: admin.security.uiEnabled: false is refused: the administration port hides no page; keep it on loopback by admin.ip\n" +
			"f:1: admin.security.pathBlacklist is refused: the administration port hides no page; keep it on loopback by admin.ip",
		"admin: {workerThreads: 2}": "f:1: admin.workerThreads has no effect: threads are the runtime's",
		"telemetry:\n- kind: io.l5d.zipkin\n- kind: io.l5d.tracelog\n": "f:2: telemetry[0].kind io.l5d.zipkin has no effect: there are no spans\n" +
			"f:3: telemetry[1].kind io.l5d.tracelog has no effect: traces are not logged; the headers of a trace are read and passed on",
		"telemetry: [{kind: io.l5d.statsd}]":           "f:1: telemetry[0].kind: io.l5d.statsd is experimental and must be enabled: experimental: true",
		"telemetry: [{kind: io.l5d.recentRequests}]":   "f:1: telemetry[0].sampleRate is not set, which kind io.l5d.recentRequests needs",
		"tls: {certPath: a}":                           "f:1: tls.keyPath is not set",
		"tls: {certPath: a, keyPath: b, ciphers: [c]}": "f:1: tls.ciphers has no effect: versions and ciphers of TLS are those that Go holds to be safe",
		"kubernetes: {host: 'a:80'}":                   `f:1: kubernetes.host: "a:80" is no host: a name or an IP address, without a port`,
		"kubernetes: {host: '', port: 0}":              "f:1: kubernetes.host: it is empty, and must be a host, such as localhost\nf:1: kubernetes.port: 0 is out of range: 1 to 65535",
	} {
		if _, said, _ := read(text); said != want {
			t.Errorf("%s\n got %s\nwant %s", text, said, want)
		}
	}
}

func TestListeners(t *testing.T) {
	r := &document.Reader{File: "f"}
	var all l5d.Listeners
	for i, l := range []struct {
		ip   string
		port int
	}{{"127.0.0.1", 1}, {"127.0.0.2", 1}, {"0.0.0.0", 2}, {"127.0.0.1", 0}, {"0.0.0.0", 0}, {"::", 2}, {"10.0.0.1", 2}, {"127.0.0.2", 1}} {
		all.Add(r, &yaml.Node{Line: i + 1}, fmt.Sprintf("l%d", i+1), l.ip, l.port)
	}
	want := "f:6: l6: Server conflict on port 2: l3 listens at 0.0.0.0:2\n" +
		"f:7: l7: Server conflict on port 2: l3 listens at 0.0.0.0:2\n" +
		"f:8: l8: Server conflict on port 1: l2 listens at 127.0.0.2:1"
	if got := fmt.Sprint(r.Err()); got != want {
		t.Error(got)
	}
}

func TestKubernetesAt(t *testing.T) {
	for text, want := range map[string]string{
		"{}": l5d.DefaultKubernetes, "kubernetes: {host: kube.test}": "kube.test:8001", "kubernetes: {port: 80}": "localhost:80",
		"kubernetes: {host: '2001:db8::1', port: 443}": "[2001:db8::1]:443",
	} {
		r := &document.Reader{File: "f"}
		root := r.Root([]byte(text))
		if n := schema.Child(root, "kubernetes"); n != nil {
			root = n
		}
		if _, said, _ := read(text); said != "" {
			t.Error(said)
		}
		if got := l5d.KubernetesAt("p", root, "host", "port"); got.Address != want || got.Path != "p" || got.Node != root {
			t.Errorf("%s: %+v", text, got)
		}
	}
}

// A rule is pointed at in the line of the file where it stands.
func TestDtab(t *testing.T) {
	for text, want := range map[string]string{
		"a: /x=>/y": "/x=>/y",
		"a: |\n  /x => /y ;\n  /z => w ;\n  /v => /u\n": "f:3: a: a path, '(', '~', '!' or '$' expected but 'w' found at '/z => [w] ;'",
		"a: >\n  /x => /y ;\n  z => /w ;\n":             "f:1: a: '/' expected but 'z' found at '/x => /y ; [z] => /w ;'",
	} {
		r := &document.Reader{File: "f"}
		d, ok := l5d.Dtab(r, "a", schema.Child(r.Root([]byte(text)), "a"))
		got := d.String()
		if !ok {
			got = r.Err().Error()
		}
		if got != want {
			t.Errorf("%s\n got %s\nwant %s", text, got, want)
		}
	}
}

func TestAbsent(t *testing.T) {
	dir := t.TempDir()
	there := filepath.Join(dir, "cert.pem")
	if err := os.WriteFile(there, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, said, r := read(fmt.Sprintf("tls:\n  certPath: %s\n  keyPath: /nowhere/key\n  caCertPath: %s\n", there, dir))
	var got []string
	for _, w := range l5d.Absent(r.Mentioned()) {
		got = append(got, w.String())
	}
	want := []string{"f:3: tls.keyPath: open /nowhere/key: no such file or directory", "f:4: tls.caCertPath: " + dir + " is no file"}
	if diff := cmp.Diff(want, got); diff != "" || said != "" {
		t.Error(diff, said)
	}
}

// What was said is shown as it was written, and always becomes JSON.
func TestShown(t *testing.T) {
	for text, want := range map[string]string{
		"{1: a, null: 2, 2020-01-01: 2020-01-02, true: [x, 1.5, ~, yes, false]}": `{"1":"a","2020-01-01":"2020-01-02","null":2,"true":["x",1.5,null,"yes",false]}`,
		"a: &b {c: '1'}\nd: *b": `{"a":{"c":"1"},"d":{"c":"1"}}`,
		"[.inf, 0x1F, 1e3]":     "null",
		"a: [.inf, .nan, 0x1F, 1e3, 18446744073709551615, !!binary aGk=]": `{"a":[".inf",".nan",31,1000,18446744073709551615,"aGk="]}`,
		"": "null",
	} {
		root := l5d.Root(&document.Reader{}, []byte(text))
		if got, err := json.Marshal(l5d.Said(root)); err != nil || string(got) != want {
			t.Errorf("%s: %s %v", text, got, err)
		}
	}
	if got, err := json.Marshal(l5d.Said(l5d.Root(&document.Reader{}, []byte("a: &a [*a]")))); err != nil {
		t.Errorf("what holds itself: %s %v", got, err)
	}
}
