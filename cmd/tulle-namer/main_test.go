package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/internal/cli"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs the program with these arguments, written as its users write them, and returns what it prints.
func start(t *testing.T, args ...string) (printed string, err error) {
	t.Helper()
	cmd, err := command()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetArgs(cli.Hyphens(cmd.Flags(), args))
	err = cmd.ExecuteContext(t.Context())
	return out.String(), err
}

// write makes a file in a directory of the test.
func write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const article = `admin: {ip: 0.0.0.0, port: 9991}
storage: {kind: io.l5d.k8s, host: localhost, port: 8001, namespace: default}
namers:
- {kind: io.l5d.k8s, host: localhost, port: 8001}
interfaces:
- {kind: io.l5d.thriftNameInterpreter, ip: 0.0.0.0, port: 4100}
- {kind: io.l5d.httpController, ip: 0.0.0.0, port: 4180}
`

func TestValidate(t *testing.T) {
	good := write(t, "namerd.yaml", article)
	for _, args := range [][]string{
		{"-config", good, "-validate"}, {"--config", good, "--validate"}, {"-validate", "-config=" + good}, {"-validate", good}, {good, "-validate"},
	} {
		printed, err := start(t, args...)
		lines := strings.Split(printed, "\n")
		if err != nil || len(lines) != 5 || !strings.HasPrefix(lines[1], good+":6: warning: interfaces[0].kind io.l5d.thriftNameInterpreter has no effect: ") ||
			!strings.HasPrefix(lines[0], good+":1: warning: whoever reaches 0.0.0.0:9991 reads all rules and may set the log level; ") ||
			!strings.HasPrefix(lines[2], good+":7: warning: whoever reaches 0.0.0.0:4180 may change routes, as with namerd; ") || lines[3] != "1 interface can be served" {
			t.Errorf("%v: %v\n%s", args, err, printed)
		}
	}
	for name, tt := range map[string]struct {
		file string
		err  error
		says string // parts, by line
	}{
		"meant": {file: strings.Replace(article, "port: 4180", "port: 4180, access: open", 1), says: "1 interface can be served"},
		"two":   {file: article + "- {kind: io.l5d.httpController, port: 4181}\n", says: "2 interfaces can be served"},
		"whoever has a certificate": {
			file: strings.Replace(article, "port: 4180", "port: 4180, tls: {certPath: /a.pem, keyPath: /a.key, caCertPath: /ca.pem, requireClientAuth: true}", 1),
			err:  cli.ErrAbsent, says: ":7: absent: interfaces[1].tls.certPath: open /a.pem: no such file or directory; it must be there where the namer runs\n",
		},
		"a variable": {file: strings.Replace(article, "io.l5d.k8s, host: localhost, port: 8001}", "io.l5d.k8s.ns, envVar: NO_SUCH_VARIABLE}", 1),
			says: "warning: NO_SUCH_VARIABLE is not set here; where the namer runs it must be, if names depend on it\n1 interface"},
		"JSON": {file: `{"storage": {"kind": "io.l5d.inMemory", "namespaces": {"a": "\/svc=>\/srv"}},` + "\n\t" + `"interfaces": [{"kind": "io.l5d.httpController"}]}`,
			says: "1 interface can be served"},
		"wrong": {file: "storage: {kind: io.l5d.inMemroy}\ninterfaces: [{kind: io.l5d.httpController}]\n", err: cli.ErrReported, says: "did you mean io.l5d.inMemory?"},
		"no directory": {file: "interfaces: [{kind: io.l5d.httpController}]\nstorage:\n  kind: io.l5d.fs\n  rootDir: /no/such\n", err: cli.ErrAbsent,
			says: ":4: absent: storage.rootDir: stat /no/such: no such file or directory; it must be there where the namer runs\n1 interface can be served\n"},
		"in JSON": {file: "{\n\t\"storage\": {\"kind\": \"io.l5d.inMemory\"},\n\t\"interfaces\": [{\"kind\": \"io.l5d.httpController\"}]\n}\n", says: "1 interface can be served"},
		"two in one line": {file: `{"storage": {"kind": "io.l5d.inMemory"}, "interfaces": [{"kind": "io.l5d.httpController", "ip": "0.0.0.0", "port": 1}, {"kind": "io.l5d.httpController", "ip": "::", "port": 2}]}`,
			says: ":1: warning: whoever reaches 0.0.0.0:1 may change routes, as with namerd; "},
		"the second in one line": {file: `{"storage": {"kind": "io.l5d.inMemory"}, "interfaces": [{"kind": "io.l5d.httpController", "ip": "0.0.0.0", "port": 1}, {"kind": "io.l5d.httpController", "ip": "::", "port": 2}]}`,
			says: ":1: warning: whoever reaches [::]:2 may change routes, as with namerd; "},
		"tokens in the clear": {file: "storage: {kind: io.l5d.inMemory}\ninterfaces:\n- {kind: io.l5d.httpController, ip: 0.0.0.0, access: rbac}\n",
			says: ":3: warning: tokens go to 0.0.0.0:4180 in the clear, "},
		"tokens on loopback": {file: "storage: {kind: io.l5d.inMemory}\ninterfaces:\n- {kind: io.l5d.httpController, access: rbac}\n", says: "1 interface can be served\n"},
		"no directory of a namer": {file: "interfaces: [{kind: io.l5d.httpController}]\nstorage: {kind: io.l5d.inMemory}\nnamers:\n- kind: io.l5d.fs\n  rootDir: /no/such\n", err: cli.ErrAbsent,
			says: ":5: absent: namers[0].rootDir: stat /no/such: no such file or directory; it must be there where the namer runs\n1 interface can be served\n"},
		"no file": {err: cli.ErrReported, says: "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "none")
			if tt.file != "" {
				path = write(t, "namerd.yaml", tt.file)
			}
			if printed, err := start(t, "-validate", path); err != tt.err || !strings.Contains(printed, tt.says) {
				t.Errorf("%v\n%s", err, printed)
			}
		})
	}
}

func TestUsage(t *testing.T) {
	good := write(t, "namerd.yaml", article)
	for _, tt := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"-help"}, 0, ""},
		{nil, 64, "no configuration is given\nhint: tulle-namer namerd.yaml"},
		{[]string{"-validate"}, 64, "no configuration is given"},
		{[]string{"-config", good, good}, 64, "two configurations"},
		{[]string{good, good}, 64, "accepts at most 1 arg"},
		{[]string{"-no-such-flag"}, 64, "unknown"},
		{[]string{"-log-level", "loud", good}, 1, `log-level is "loud", allowed: debug, info, warn, error`},
		{[]string{write(t, "a.yaml", "storage: {kind: io.l5d.fs, rootDir: /dev/null}\ninterfaces: [{kind: io.l5d.httpController}]\n")}, 1, ":1: storage.rootDir: /dev/null is no directory"},
		{[]string{good + "x"}, 1, "no such file"},
		{[]string{"-kubeconfig", "/no/such/file", good}, 1, "read the kubeconfig: "},
		{[]string{write(t, "a.yaml", strings.Replace(article, "4180", "4180, tls: {certPath: /a.pem, keyPath: /a.key}", 1))}, 1, ":7: interfaces[1].tls.certPath: open /a.pem: "},
	} {
		if _, err := start(t, tt.args...); cli.ExitCode(err) != tt.code || !strings.Contains(fmt.Sprint(err), tt.says) {
			t.Errorf("%v: exits with %d: %v", tt.args, cli.ExitCode(err), err)
		}
	}
}
