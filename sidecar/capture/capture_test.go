//go:build linux

package capture_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/sidecar/capture"
	"github.com/tulle-mesh/tulle/sidecar/capture/capturetest"
)

const (
	port     = 4140
	proxyUID = 65532
	// roleKey makes this program a part of a test: what it does in a namespace as a
	// user of its own.
	roleKey = "CAPTURE_TEST_ROLE"
)

func TestMain(m *testing.M) {
	switch os.Getenv(roleKey) {
	case "proxy":
		relay()
	case "apply":
		fmt.Print(capture.Apply(capture.Rules{Port: port, UID: proxyUID}))
	case "dial":
		dial(os.Getenv("TO"), os.Getenv("MARK") != "")
	default:
		goleak.VerifyTestMain(m)
	}
}

// relay is a proxy: it says where each connection was going, and goes there.
func relay() {
	for _, host := range []string{"127.0.0.1", "::1"} {
		ln, err := net.Listen("tcp", net.JoinHostPort(host, fmt.Sprint(port)))
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		go func() {
			for {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				go pass(conn)
			}
		}()
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin) // until the test ends
}

func pass(conn net.Conn) {
	defer conn.Close()
	to, ok := capture.Original(conn)
	_, _ = fmt.Fprintf(conn, "%v %v ", to, ok)
	if !ok {
		return
	}
	d := net.Dialer{Timeout: 5 * time.Second, Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) { err = capture.Mark(fd) }), err)
	}}
	there, err := d.Dial("tcp", to.String())
	if err != nil {
		_, _ = fmt.Fprint(conn, err)
		return
	}
	defer there.Close()
	_, _ = io.Copy(conn, there)
}

// dial prints what a server says.
func dial(to string, mark bool) {
	d := net.Dialer{Timeout: 5 * time.Second}
	if mark {
		d.Control = func(_, _ string, c syscall.RawConn) error {
			var err error
			return errors.Join(c.Control(func(fd uintptr) { err = capture.Mark(fd) }), err)
		}
	}
	conn, err := d.Dial("tcp", to)
	if err != nil {
		fmt.Print(err)
		return
	}
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.Copy(os.Stdout, conn)
	_ = conn.Close()
}

// as returns this program in a role, run as a user.
func as(ctx context.Context, uid uint32, role string, env ...string) *exec.Cmd {
	// Not by its path, which another user may not read.
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Env = append(os.Environ(), append(env, roleKey+"="+role)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid, NoSetGroups: true}}
	return cmd
}

// greet makes a server in the world that says who it is.
func greet(t *testing.T, world *capturetest.Space, address string) {
	t.Helper()
	var ln net.Listener
	var err error
	world.Do(func() { ln, err = net.Listen("tcp", address) })
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { _ = ln.Close(); <-done })
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "I am "+address)
			_ = conn.Close()
		}
	}()
}

func TestRedirect(t *testing.T) {
	pod, world := capturetest.New(t)
	for _, a := range []string{"192.0.2.1:80", "192.0.2.1:53", "192.0.2.1:8100", "192.0.2.1:8201", "169.254.169.254:80", "[2001:db8::1]:80"} {
		greet(t, world, a)
	}
	apply := func(r capture.Rules) {
		t.Helper()
		var err error
		pod.Do(func() { err = capture.Apply(r) })
		if err != nil {
			t.Fatal(err)
		}
	}
	// connect makes a user of the pod connect; heard returns what it hears.
	connect := func(uid uint32, to string, env ...string) (heard func() string) {
		t.Helper()
		cmd := as(t.Context(), uid, "dial", append(env, "TO="+to)...)
		var out strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &out
		var err error
		pod.Do(func() { err = cmd.Start() })
		if err != nil {
			t.Fatal(err)
		}
		return func() string {
			if err := cmd.Wait(); err != nil {
				return err.Error() + ": " + out.String()
			}
			return out.String()
		}
	}
	hear := func(uid uint32, to string) string { return connect(uid, to)() }
	skip, err := capture.ParsePorts("53,8100-8199")
	if err != nil {
		t.Fatal(err)
	}
	apply(capture.Rules{Port: port + 1, UID: proxyUID}) // an earlier pod's, which is replaced
	apply(capture.Rules{Port: port, UID: proxyUID, Skip: skip})

	proxy := as(t.Context(), proxyUID, "proxy")
	stdin, _ := proxy.StdinPipe()
	stdout, _ := proxy.StdoutPipe()
	pod.Do(func() { err = proxy.Start() })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stdin.Close(); _ = proxy.Wait() }()
	ready := make([]byte, 6)
	if _, err := io.ReadFull(stdout, ready); err != nil {
		t.Fatal(err)
	}

	const mark = "MARK=1"
	tests := map[string]struct {
		uid  uint32
		to   string
		env  string
		want string
	}{
		"what an application opens":   {1000, "192.0.2.1:80", "", "192.0.2.1:80 true I am 192.0.2.1:80"},
		"of root":                     {0, "192.0.2.1:80", "", "192.0.2.1:80 true I am 192.0.2.1:80"},
		"IPv6":                        {1000, "[2001:db8::1]:80", "", "[2001:db8::1]:80 true I am [2001:db8::1]:80"},
		"of a user like the proxy's":  {proxyUID, "192.0.2.1:80", "", "192.0.2.1:80 true I am 192.0.2.1:80"},
		"a mark of somebody else":     {1000, "192.0.2.1:80", mark, "192.0.2.1:80 true I am 192.0.2.1:80"},
		"the proxy's own":             {proxyUID, "192.0.2.1:80", mark, "I am 192.0.2.1:80"},
		"the proxy's own, IPv6":       {proxyUID, "[2001:db8::1]:80", mark, "I am [2001:db8::1]:80"},
		"a port that is skipped":      {1000, "192.0.2.1:53", "", "I am 192.0.2.1:53"},
		"in a range that is skipped":  {1000, "192.0.2.1:8100", "", "I am 192.0.2.1:8100"},
		"past the range":              {1000, "192.0.2.1:8201", "", "192.0.2.1:8201 true I am 192.0.2.1:8201"},
		"metadata":                    {1000, "169.254.169.254:80", "", "I am 169.254.169.254:80"},
		"to the proxy itself":         {1000, "127.0.0.1:4140", "", "127.0.0.1:4140 false "},
		"to the proxy itself by IPv6": {1000, "[::1]:4140", "", "[::1]:4140 false "},
	}
	heard := map[string]func() string{}
	for name, test := range tests {
		heard[name] = connect(test.uid, test.to, test.env)
	}
	for name, test := range tests {
		if got := heard[name](); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
	// A restarted init container leaves one table, and the rules work.
	apply(capture.Rules{Port: port, UID: proxyUID, Skip: skip})
	if got := hear(1000, "192.0.2.1:80"); got != "192.0.2.1:80 true I am 192.0.2.1:80" {
		t.Errorf("after a restart: %q", got)
	}
	if _, err := exec.LookPath("nft"); err == nil {
		out, err := pod.Run(t, "nft", "list", "ruleset")
		if err != nil || strings.Count(out, "table ") != 2 || strings.Count(out, "redirect to :4140") != 2 || strings.Contains(out, "4141") {
			t.Errorf("%v\n%s", err, out)
		}
	}
	for range 2 {
		pod.Do(func() { err = capture.Remove() })
		if err != nil {
			t.Error(err)
		}
	}
	if got := hear(1000, "192.0.2.1:80"); got != "I am 192.0.2.1:80" {
		t.Errorf("without rules: %q", got)
	}
}

func TestApplySaysWhatIsMissing(t *testing.T) {
	for want, r := range map[string]capture.Rules{
		"no port":            {UID: proxyUID},
		"cannot run as root": {Port: port},
		"300 ranges":         {Port: port, UID: proxyUID, Skip: make(capture.Ports, 300)},
	} {
		if err := capture.Apply(r); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	pod, _ := capturetest.New(t)
	var out []byte
	pod.Do(func() { out, _ = as(t.Context(), 1000, "apply").CombinedOutput() })
	if !strings.Contains(string(out), "needs the capability NET_ADMIN") {
		t.Errorf("without the capability: %q", out)
	}
}

func TestOriginalOfOthers(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if to, ok := capture.Original(a); ok {
		t.Errorf("a pipe was going to %v", to)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if to, ok := capture.Original(s); ok || to != (netip.AddrPort{}) && to.String() != ln.Addr().String() {
		t.Errorf("a connection to here was going to %v", to)
	}
}
