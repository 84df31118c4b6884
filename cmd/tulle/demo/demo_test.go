package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

// The tests run the real programs at the addresses that the demo has, so one at
// a time, and not beside a demo.

// binDir holds tulle-proxy and helloworld once a test has asked for them.
var binDir string

func TestMain(m *testing.M) {
	code := m.Run()
	if binDir != "" {
		_ = os.RemoveAll(binDir)
	}
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

var build = sync.OnceValue(func() error {
	dir, err := os.MkdirTemp("", "tulle-demo-test-")
	if err != nil {
		return err
	}
	if binDir, err = filepath.EvalSymlinks(dir); err != nil {
		return err
	}
	cmd := exec.Command("go", "build", "-trimpath", "-o", binDir, "../../tulle-proxy", "../../helloworld")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
})

// bin builds the programs and makes sure that the demo's addresses are free now,
// and again after the test, when nothing that it started may be left.
func bin(t *testing.T) string {
	t.Helper()
	if err := build(); err != nil {
		t.Fatal(err)
	}
	if used := inUse(t); len(used) > 0 {
		t.Fatalf("these tests need the addresses of the demo, and %s is taken; end the demo that runs", used[0])
	}
	t.Cleanup(func() {
		if used := inUse(t); len(used) > 0 {
			t.Errorf("still listened on after the demo: %v", used)
		}
		for _, p := range programs() {
			t.Errorf("left after the demo: %s", p)
		}
	})
	return binDir
}

// inUse returns those of the demo's addresses that cannot be listened on.
func inUse(t *testing.T) []string {
	t.Helper()
	var used []string
	for _, single := range []bool{true, newPlan(false).single} {
		m := plannedMesh(t, single)
		addresses := []string{namerAddress}
		for i := range hosts {
			ip, ports := m.plan.host(i)
			addresses = append(addresses, all(ip, ports)...)
		}
		for _, p := range m.pods {
			addresses = append(addresses, append(all(p.place.ip, p.place.proxy), appAddress(p))...)
		}
		for _, a := range addresses {
			if available(a) != nil {
				used = append(used, a)
			}
		}
	}
	return used
}

// plannedMesh is a mesh that does not run.
func plannedMesh(t *testing.T, single bool) *mesh {
	t.Helper()
	objects, err := exampleObjects()
	if err != nil {
		t.Fatal(err)
	}
	return newMesh(Config{SingleAddress: single}, "", objects)
}

func all(ip string, p ports) []string {
	var addresses []string
	for _, port := range []int{p.outgoing, p.incoming, p.admin} {
		addresses = append(addresses, net.JoinHostPort(ip, strconv.Itoa(port)))
	}
	return addresses
}

func appAddress(p *pod) string {
	port := p.place.app
	if port == 0 {
		port = int(p.spec.Spec.Containers[0].Ports[0].ContainerPort)
	}
	return net.JoinHostPort(p.place.ip, strconv.Itoa(port))
}

// programs returns the processes of the demo's programs, where there is a /proc
// to tell them by.
func programs() []string {
	var found []string
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range processes {
		if exe, err := os.Readlink(filepath.Join(p, "exe")); err == nil && strings.HasPrefix(exe, binDir+"/") {
			found = append(found, exe+", process "+filepath.Base(p))
		}
	}
	return found
}

// output is what a demo prints. It may be told to act on a text when it comes.
type output struct {
	bytes.Buffer
	on  string
	act func()
}

func (o *output) Write(b []byte) (int, error) {
	n, err := o.Buffer.Write(b)
	if o.act != nil && strings.Contains(o.String(), o.on) {
		o.act()
		o.act = nil
	}
	return n, err
}

// sentence fails the test unless err is an [Error] of one line that holds want.
func sentence(t *testing.T, err error, want string) *Error {
	t.Helper()
	var known *Error
	if !errors.As(err, &known) {
		t.Fatalf("got error %v, want a sentence for the user", err)
	}
	if !strings.Contains(known.Message, want) || strings.Contains(known.Message, "\n") {
		t.Errorf("got the sentence %q, want one line with %q", known.Message, want)
	}
	return known
}

func TestOnce(t *testing.T) {
	const ip = `\(127\.0\.\d\.\d+\)`
	lines := []string{
		`The mesh is up after \d+\.\d s: 6 proxies, 8 applications\.`,
		``,
		`ok 1  .*: Hello ` + ip + ` world ` + ip + `!!; crossed proxy of host \S+ \(2 out, 1 in\), proxy of host \S+ \(0 out, 1 in\)`,
		`ok 2  .*: Hello ` + ip + ` world ` + ip + `!!; crossed proxy of host \S+ \(1 out, 0 in\), sidecar of \S+ \(1 out, 1 in\), sidecar of \S+ \(0 out, 1 in\)`,
		`ok 3  .*: Hello ` + ip + ` earth ` + ip + `!!; .* sees world again`,
		`ok 4  .*: of 200 requests \d+ saw earth, \d+ saw world`,
		`ok 5  .*: world-v1-\d killed after 50 of 200 requests, none failed; it has been restarted`,
	}
	for _, single := range []bool{false, true} {
		t.Run(fmt.Sprintf("single=%v", single), func(t *testing.T) {
			out := &output{}
			if err := Run(t.Context(), Config{Bin: bin(t), Out: out, Once: true, SingleAddress: single}); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			want := regexp.MustCompile(`^` + strings.Join(lines, `\n`) + `\n$`)
			if !want.MatchString(out.String()) {
				t.Errorf("printed\n%s, want\n%s", out, want)
			}
			if hosts := strings.Contains(out.String(), "(127.0.2."); hosts == (single || newPlan(false).single) {
				t.Errorf("hosts with addresses of their own: %v\n%s", hosts, out)
			}
		})
	}
}

// Without Once the demo stays until its context ends, which is no error then. Until then its namer
// answers for hosts as for Services.
func TestStaysUntilInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := &output{on: "The dtab: http://" + namerAddress, act: func() {
		defer cancel()
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		for id, want := range map[string]string{"/$/inet/192.0.2.7/80": `"ip":"192.0.2.7","port":80`, "/#/io.l5d.k8s/hello-host/http/world": `"ip":"127.0.`} {
			res, err := client.Get("http://" + namerAddress + "/api/1/addr/default?path=" + url.QueryEscape(id))
			if err != nil {
				t.Error(err)
				continue
			}
			text, err := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if err != nil || !strings.Contains(string(text), want) {
				t.Errorf("the namer says of %s: %s, %v", id, text, err)
			}
		}
	}}
	if err := Run(ctx, Config{Bin: bin(t), Out: out}); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{
		"1. A request through host proxies", "$ http_proxy=http://127.0.", "-H 'l5d-dtab: /host/world => /srv/world-v2'",
		"5. An instance of world is killed", "The mesh stays until Ctrl-C", "\nStopping.\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
}

func TestInterruptedInTheWalk(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	sentence(t, Run(ctx, Config{Bin: bin(t), Out: &output{on: "ok 1", act: cancel}, Once: true}), "interrupted")
}

func TestMissingProgram(t *testing.T) {
	dir := t.TempDir()
	known := sentence(t, Run(t.Context(), Config{Bin: dir, Out: &output{}}), "the program tulle-proxy is not in "+dir)
	if !strings.Contains(known.Hint, "make build") {
		t.Errorf("the hint is %q", known.Hint)
	}
}

func TestTakenAddress(t *testing.T) {
	m := plannedMesh(t, false)
	hostIP, hostPorts := m.plan.host(hosts - 1)
	var sidecar *pod
	for _, p := range m.pods {
		if p.spec.Namespace == m.objects.sidecarNamespace {
			sidecar = p
		}
	}
	for what, test := range map[string]struct{ address, sentence string }{
		// Found before anything is started, and after much of the mesh is.
		"namer":               {namerAddress, "the demo needs the address %s, which is taken"},
		"admin page of host":  {all(hostIP, hostPorts)[2], "the demo needs the address %s, which is taken"},
		"outgoing of sidecar": {all(sidecar.place.ip, sidecar.place.proxy)[0], "the demo needs the address %s, which is taken"},
		"application":         {appAddress(sidecar), "has stopped: helloworld: listen: listen tcp %s: bind: address already in use"},
	} {
		t.Run(what, func(t *testing.T) {
			dir := bin(t)
			ln, err := net.Listen("tcp", test.address)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = ln.Close() }()
			known := sentence(t, Run(t.Context(), Config{Bin: dir, Out: &output{}, Once: true}), fmt.Sprintf(test.sentence, test.address))
			if _, port, _ := net.SplitHostPort(test.address); strings.Contains(known.Message, "needs") && !strings.Contains(known.Hint, ":"+port) {
				t.Errorf("the hint %q does not say how to look at port %s", known.Hint, port)
			}
		})
	}
}

// With an application that answers nothing but errors the walk fails, says where
// and why, and leaves nothing.
func TestFailingStep(t *testing.T) {
	dir := bin(t)
	broken := t.TempDir()
	if err := os.Symlink(filepath.Join(dir, "tulle-proxy"), filepath.Join(broken, "tulle-proxy")); err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/sh\nexec '" + filepath.Join(dir, "helloworld") + "' \"$@\" -failure-rate 1\n"
	if err := os.WriteFile(filepath.Join(broken, "helloworld"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	err := Run(t.Context(), Config{Bin: broken, Out: &output{}, Once: true})
	sentence(t, err, `step 1, "A request through host proxies: hello on one host calls world", went wrong: 500 Internal Server Error`)
}
