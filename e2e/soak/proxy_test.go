//go:build e2e

package soak

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// policies are what the proxy is told in turn. Any of them allows to hide the
// same failures: budgets are large enough for all that is done to requests.
var policies = []string{
	policyOf("{kind: ewma}", "{kind: io.l5d.consecutiveFailures, failures: 5, backoff: {kind: constant, ms: 50}}"),
	policyOf("{kind: p2c}", "{kind: io.l5d.consecutiveFailures, failures: 3, backoff: {kind: jittered, minMs: 10, maxMs: 200}}"),
	policyOf("{kind: ewma, decayTimeMs: 2000}", "{kind: io.l5d.successRate, successRate: 0.8, requests: 20, backoff: {kind: constant, ms: 20}}"),
	policyOf("{kind: roundRobin}", "{kind: none}"),
	policyOf("{kind: aperture, minAperture: 3}", "{kind: io.l5d.successRateWindowed, successRate: 0.7, window: 2, backoff: {kind: constant, ms: 100}}"),
}

// wrong is a policy that is not taken.
const wrong = "client: {loadBalancer: {kind: heaviest}}\n"

const (
	// attempt is how long an endpoint may take for an answer. Only one that stalls
	// takes as long, however busy the machine is.
	attempt = 4 * time.Second
	// idle is how long the proxy keeps a connection that it has no use for; how
	// soon an endpoint that has left can stop depends on it.
	idle = time.Second
)

func policyOf(balancer, accrual string) string {
	const budget = "{minRetriesPerSec: 10000, percentCanRetry: 1.0, ttlSecs: 10}"
	return fmt.Sprintf(`client:
  loadBalancer: %s
  failureAccrual: %s
  requestAttemptTimeoutMs: %d
  hostConnectionPool: {idleTimeMs: %d}
  requeueBudget: %s
service:
  responseClassifier: {kind: io.l5d.http.retryableIdempotent5XX}
  retries: {budget: %s}
`, balancer, accrual, attempt.Milliseconds(), idle.Milliseconds(), budget, budget)
}

// proxy is the program under test.
type proxy struct {
	outgoing, admin string
	files, policy   string // the directory of addresses, and the policy's file

	cmd    *exec.Cmd
	mu     sync.Mutex
	log    []string // the last lines
	exited chan error
}

// program is what make build/tulle-proxy makes.
var program = filepath.Join("..", "..", "build", "tulle-proxy")

// startProxy starts the program, which is killed with the test if it has not
// ended before.
func startProxy(t *testing.T) *proxy {
	t.Helper()
	dir := t.TempDir()
	p := &proxy{files: filepath.Join(dir, "addresses"), policy: filepath.Join(dir, "policy.yaml"), exited: make(chan error, 1)}
	if err := os.Mkdir(p.files, 0o755); err != nil {
		t.Fatal(err)
	}
	replace(t, p.policy, policies[0])
	p.cmd = exec.Command(program, "--mode", "standalone", "--outgoing", "127.0.0.1:0", "--admin", "127.0.0.1:0",
		"--dtab", "/svc => /#/io.l5d.fs", "--fs-root", p.files, "--policy", p.policy)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	output, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("%v; make build/tulle-proxy makes the program", err)
	}
	serving := make(chan []string, 1)
	go p.read(output, serving)
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.exited
		if t.Failed() {
			t.Logf("the proxy said last:\n%s", strings.Join(p.log, "\n"))
		}
	})
	select {
	case at := <-serving:
		p.outgoing, p.admin = at[1], at[2]
	case err := <-p.exited:
		p.exited <- err
		t.Fatalf("the proxy ends at its start: %v\n%s", err, strings.Join(p.log, "\n"))
	}
	return p
}

var servingAt = regexp.MustCompile(`msg=serving .*outgoing=(\S+) admin=(\S+)`)

// read takes in what the proxy says until it ends.
func (p *proxy) read(output io.Reader, serving chan<- []string) {
	lines := bufio.NewScanner(output)
	for lines.Scan() {
		if at := servingAt.FindStringSubmatch(lines.Text()); at != nil {
			serving <- at
		}
		p.mu.Lock()
		p.log = append(p.log, lines.Text())
		p.log = p.log[max(0, len(p.log)-30):]
		p.mu.Unlock()
	}
	err := p.cmd.Wait()
	p.exited <- err
	close(p.exited)
}

// replace writes a file as a whole.
func replace(t *testing.T, path, content string) {
	t.Helper()
	next := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".next")
	if err := os.WriteFile(next, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, path); err != nil {
		t.Fatal(err)
	}
}

// figures are how large the proxy is, and what it says of its policies.
type figures struct {
	goroutines, descriptors, connections int
	memory                               int // RSS, in bytes
	reloads, refusals                    int // of policies
}

func (s figures) String() string {
	return fmt.Sprintf("%d goroutines, %d descriptors, %.1f MB", s.goroutines, s.descriptors, float64(s.memory)/1e6)
}

// figures asks the proxy for them.
func (p *proxy) figures(ctx context.Context) (s figures, err error) {
	req, err := http.NewRequestWithContext(ctx, "GET", "http://"+p.admin+"/metrics", nil)
	if err != nil {
		return s, err
	}
	req.Close = true
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return s, err
	}
	defer func() { _ = res.Body.Close() }()
	want := map[string]*int{
		"go_goroutines": &s.goroutines, "process_open_fds": &s.descriptors, "process_resident_memory_bytes": &s.memory,
		`tulle_connections{router="outgoing"}`:    &s.connections,
		`tulle_policy_reloads_total{result="ok"}`: &s.reloads, `tulle_policy_reloads_total{result="failed"}`: &s.refusals,
	}
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if to := want[name]; to != nil {
			v, err := strconv.ParseFloat(value, 64)
			if err != nil {
				return s, err
			}
			*to = int(v)
			delete(want, name)
		}
	}
	if len(want) > 0 {
		return s, fmt.Errorf("the proxy's metrics lack %d of those that are needed", len(want))
	}
	return s, lines.Err()
}

// settle waits until the proxy is as small as ok wants it.
func (p *proxy) settle(t *testing.T, what string, ok func(figures) bool) figures {
	t.Helper()
	var last figures
	eventually(t, 60*time.Second, func() error {
		var err error
		if last, err = p.figures(t.Context()); err != nil {
			return err
		}
		if !ok(last) {
			return fmt.Errorf("%s: it has %v and %d connections of clients", what, last, last.connections)
		}
		return nil
	})
	return last
}

// eventually asks until there is no error any more.
func eventually(t *testing.T, limit time.Duration, ask func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ask()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("after %v: %v", limit, err)
		}
	}
}
