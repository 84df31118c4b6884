// Package browser looks at pages in a headless Chromium, for tests: their scripts run, and what
// they have made of the page is returned. It is not for programs.
//
//	b := browser.New(t)
//	dom := b.DOM(server.URL + "/delegator?path=/svc/cart")
package browser

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Browser is a browser for one test.
type Browser struct {
	t       testing.TB
	program string
}

// New returns the browser of this machine. Without one the test is skipped.
func New(t testing.TB) *Browser {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return &Browser{t, path}
		}
	}
	t.Skip("there is no chromium, chromium-browser or google-chrome here to look at the page with: apt-get install chromium")
	return nil
}

// DOM returns the page at an address as it is once its work is done. With TULLE_SCREENSHOTS, a
// directory, a picture of it is kept there by the name of the test.
func (b *Browser) DOM(address string) string {
	b.t.Helper()
	if dir := os.Getenv("TULLE_SCREENSHOTS"); dir != "" {
		name := strings.NewReplacer("/", "-", " ", "-").Replace(b.t.Name())
		b.run("--screenshot="+filepath.Join(dir, name+".png"), address)
	}
	return b.run("--dump-dom", address)
}

func (b *Browser) run(what, address string) string {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 2*time.Minute)
	defer cancel()
	var stdout, stderr bytes.Buffer
	// Within the sandbox root may not run it, and there is nobody to be kept from here.
	cmd := exec.CommandContext(ctx, b.program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
		"--user-data-dir="+b.t.TempDir(), "--window-size=900,900", "--virtual-time-budget=10000", what, address)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = 10 * time.Second // for its children
	if err := cmd.Run(); err != nil {
		b.t.Fatalf("%s: %v\n%s", b.program, err, stderr.String())
	}
	return stdout.String()
}
