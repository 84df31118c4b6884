package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
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
