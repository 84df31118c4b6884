package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/cli"
)

func TestValidate(t *testing.T) {
	policy := filepath.Join(t.TempDir(), "policy.yaml")
	for name, c := range map[string]struct {
		policy string
		args   []string
		want   string // part of the error, empty for none
	}{
		"right":          {policy: "server: {maxHeadersKB: 8}"},
		"without policy": {},
		"wrong policy":   {policy: "server: {maxHeaderKB: 8}", want: policy + ":1: server.maxHeaderKB is not a key of a policy; did you mean maxHeadersKB?"},
		"wrong setting":  {args: []string{"--outgoing", "4140"}, want: `outgoing is "4140"`},
		"wrong dtab":     {args: []string{"--dtab", "/svc => a"}, want: "found at '/svc => [a]'"},
		"wrong level":    {args: []string{"--log-level", "loud"}, want: "log-level"},
	} {
		t.Run(name, func(t *testing.T) {
			args := []string{"--validate", "--mode", "standalone", "--dtab", "/svc => /#/io.l5d.fs", "--fs-root", t.TempDir()}
			if c.policy != "" {
				if err := os.WriteFile(policy, []byte(c.policy), 0o600); err != nil {
					t.Fatal(err)
				}
				args = append(args, "--policy", policy)
			}
			cmd := command()
			cmd.SetArgs(append(args, c.args...))
			err := cmd.Execute()
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// start runs the program with these arguments, written as its users write them, and
// returns what it prints.
func start(t *testing.T, args ...string) (printed string, err error) {
	t.Helper()
	cmd := command()
	var out strings.Builder
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetArgs(cli.Hyphens(cmd.Flags(), args))
	err = cmd.Execute()
	return out.String(), err
}

func TestValidateLinkerdConfiguration(t *testing.T) {
	file := func(content string) string {
		path := filepath.Join(t.TempDir(), "linkerd.yaml")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := file("usage: {enabled: true}\nrouters:\n- protocol: http\n  servers: [{port: 4140}]\n- protocol: h2\n  servers: [{port: 4142}]\n")
	for _, args := range [][]string{
		{"-config", good, "-validate"}, {"--config", good, "--validate"}, {"-validate", "-config=" + good}, {"-validate", good}, {good, "-validate"},
	} {
		printed, err := start(t, args...)
		lines := strings.Split(printed, "\n")
		if err != nil || len(lines) != 4 || !strings.HasPrefix(lines[0], good+":1: warning: ") || !strings.HasPrefix(lines[1], good+":5: missing: ") ||
			lines[2] != "1 of 2 routers can be served" {
			t.Errorf("%v: %v\n%s", args, err, printed)
		}
	}
	if printed, err := start(t, "-help"); err != nil || !strings.Contains(printed, "--validate") {
		t.Errorf("%v\n%s", err, printed)
	}
	if _, err := start(t, "-validate", "--log-level", "debug"); cli.ExitCode(err) != cli.ExitUsage || !strings.Contains(err.Error(), "\nhint: tulle-proxy -validate linkerd.yaml") {
		t.Errorf("without a file: %v", err)
	}
	for _, args := range [][]string{nil, {"--log-level", "debug"}, {"--serving"}} {
		if _, err := start(t, args...); cli.ExitCode(err) != cli.ExitUsage || strings.Count(err.Error(), "\n") != 1 || !strings.Contains(err.Error(), "\nhint: tulle-proxy linkerd.yaml runs ") {
			t.Errorf("%v: %v", args, err)
		}
	}
	if _, err := start(t, "-validate", "--node", "n1"); cli.ExitCode(err) != 1 || !strings.Contains(err.Error(), "pod-ip") {
		t.Errorf("with a setting: %v", err)
	}
	wrong := file("routers:\n- protocol: htp\n  servers: [{prot: 4140}]\n")
	if printed, err := start(t, "-validate", wrong); err != cli.ErrReported || !strings.Contains(printed, wrong+":2: ") || !strings.Contains(printed, "\n"+wrong+":3: ") ||
		!strings.Contains(printed, "did you mean port?") {
		t.Errorf("%v\n%s", err, printed)
	}
	later := file("routers:\n- protocol: h2\n  servers: [{port: 4140}]\n")
	if printed, err := start(t, "-validate", later); err != cli.ErrReported || !strings.HasSuffix(printed, "0 of 1 routers can be served\n") {
		t.Errorf("%v\n%s", err, printed)
	}
	if _, err := start(t, later); err == nil || !strings.Contains(err.Error(), "there is no router that can be served") {
		t.Error(err)
	}
	// Certificates come with the pod, and whoever checks a file elsewhere has none.
	const tls = "../../manifests/examples/linkerd/tls.yaml"
	if printed, err := start(t, "-validate", tls); err != cli.ErrAbsent || !strings.HasSuffix(printed, "1 of 2 routers can be served\n") ||
		!strings.Contains(printed, tls+":21: absent: routers[0].client.tls.trustCertsBundle: open /io.buoyant/linkerd/certs/ca.crt: no such file or directory; it must be there where the proxy runs\n") ||
		strings.Count(printed, ": absent: ") != 3 {
		t.Errorf("%v\n%s", err, printed)
	}
	if _, err := start(t, "-config", good, wrong); err == nil || !strings.Contains(err.Error(), "two configurations") {
		t.Error(err)
	}
	if _, err := start(t, "-validate", good+"x"); err != cli.ErrReported {
		t.Error(err)
	}
}

func TestValidateStandardInput(t *testing.T) {
	content, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stdin := os.Stdin
	os.Stdin = content
	defer func() { os.Stdin = stdin }()
	if _, err := in.WriteString(`{"routers": [{"protocol": "http", "servers": [{"port": 4140}]}]}`); err != nil {
		t.Fatal(err)
	}
	_ = in.Close()
	if printed, err := start(t, "-validate", "-"); err != nil || printed != "1 of 1 routers can be served\n" {
		t.Errorf("%v %q", err, printed)
	}
}
