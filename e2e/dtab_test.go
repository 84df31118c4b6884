//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// dtabCommand runs "tulle dtab".
func dtabCommand(ctx context.Context, stdin string, args ...string) (code int, stdout, stderr string, err error) {
	return tulle(ctx, stdin, append([]string{"dtab"}, args...)...)
}

// tulle runs the command line by the kubeconfig alone, as a user does who has nothing else.
func tulle(ctx context.Context, stdin string, args ...string) (code int, stdout, stderr string, err error) {
	cmd := exec.CommandContext(ctx, filepath.Join(binDir, "tulle"), args...)
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "TULLE_") && !strings.HasPrefix(e, "NAMERCTL_") {
			cmd.Env = append(cmd.Env, e)
		}
	}
	cmd.Env = append(cmd.Env, "KUBECONFIG="+mesh.Kubeconfig())
	var out, talk bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &talk
	if err = cmd.Run(); errors.As(err, new(*exec.ExitError)) {
		err = nil
	}
	return cmd.ProcessState.ExitCode(), out.String(), talk.String(), err
}

// tulle dtab reaches the controllers through the API server and the kubelets, asks both for the names that real
// proxies use, and refuses what would lose one of them.
func TestDtabCommand(t *testing.T) {
	restoreDtab(t)
	kubectl(t, "rollout", "status", "-n", "tulle", "--timeout=120s", "deployment/tulle-controller")
	ns := namespace(t, "e2e-dtab", "host")
	world := app{namespace: ns, name: "world", text: "world", node: "n2"}.start(t).pod(t)
	hello := app{namespace: ns, name: "hello", text: "Hello", target: "world", node: "n1"}.start(t).pod(t)
	c := client(t, "")
	reach(t, c, direct(hello))

	// says runs a command line, which must end with a code and with a text on stderr.
	says := func(code int, stderr, stdin string, args ...string) (stdout string) {
		t.Helper()
		got, stdout, talk, err := dtabCommand(t.Context(), stdin, args...)
		if err != nil || got != code || !strings.HasSuffix(talk, stderr) {
			t.Fatalf("%q: exit code %d, %v, %s%s\nwant %d, …%s", args, got, err, stdout, talk, code, stderr)
		}
		return stdout
	}
	if out := says(0, "", "", "ls", "-o", "name"); !strings.Contains("\n"+out, "\ndefault\n") {
		t.Errorf("the dtabs are %s", out)
	}
	before := says(0, "", "", "get", "default")

	const lost = "/svc => $"
	await(t, "the plan to know what hello calls", func(ctx context.Context) (bool, string) {
		code, out, talk, err := dtabCommand(ctx, lost, "plan", "default", "-")
		for line := range strings.Lines(out) {
			if strings.HasPrefix(line, "/svc/world ") && strings.Contains(line, " "+ns+" ") && strings.Contains(line, "LOST: ") {
				return code == 2 && strings.Contains(talk, "; names seen by all 2 controllers\n"), talk
			}
		}
		return false, fmt.Sprintf("exit code %d, %v, %s%s", code, err, out, talk)
	})
	says(2, "so default is not written\nhint: --force writes it nevertheless; tulle dtab plan shows everything that would change\n", lost, "apply", "default", "-")
	if now := says(0, "", "", "get", "default"); now != before {
		t.Errorf("it was %s and is %s", before, now)
	}

	says(0, " 0 lost; names seen by all 2 controllers\n", before+"/svc/e2e-dtab => /svc/world ;\n", "apply", "default", "-")
	expect(t, c, direct(hello), answer(hello, "world", world))
	if out := says(0, "", "", "history", "default"); !strings.Contains(out, "  + /svc/e2e-dtab => /svc/world\n") {
		t.Errorf("the history is %s", out)
	}
	says(0, " 0 lost; names seen by all 2 controllers\n", "", "rollback", "default")
	_, rules, _ := strings.Cut(before, "\n") // without the version, which is another one
	if now := says(0, "", "", "get", "default"); !strings.HasSuffix(now, rules) || strings.Contains(now, "e2e-dtab") {
		t.Errorf("it was %s and is %s", before, now)
	}
	expect(t, c, direct(hello), answer(hello, "world", world))
}
