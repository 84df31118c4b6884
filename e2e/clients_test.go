//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/tulle-mesh/tulle/e2e/cluster/debian"
)

// clientCases are what each client must have tried; see e2e/clients.
var clientCases = strings.Split("get,head,post,chunked,expect,refused,early,keepalive,download,trailers,streaming,errors,unknown,override,"+
	"connect http,connect tcp,connect tls,connect unknown,websocket,connect websocket,connect secure websocket", ",")

const clientsImage = "tulle.dev/clients:e2e"

// loadClients builds the program of e2e/clients, gives every node its image, and returns where it is.
func loadClients(t *testing.T) string {
	t.Helper()
	program := filepath.Join(binDir, "clients")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./clients")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := mesh.LoadImage(t.Context(), clientsImage, program); err != nil {
		t.Fatal(err)
	}
	return program
}

// TestClients has the HTTP clients of several languages call an application
// through the mesh, in either mode and across both. They run in the network of a
// pod, with its environment.
func TestClients(t *testing.T) {
	program := loadClients(t)
	modes := []string{"host", "sidecar"}
	var apps []app
	for _, mode := range modes {
		ns := namespace(t, "e2e-clients-"+mode, mode)
		for name, node := range map[string]string{"caller": "n1", "echo": "n2"} {
			a := app{namespace: ns, name: name, node: node, image: clientsImage, args: []string{"serve", name, name, name + "." + ns},
				ports: map[int32]int32{443: 7443, 7000: 7000}}
			a.create(t)
			apps = append(apps, a)
		}
	}
	for _, a := range apps {
		a.serving(t)
	}
	for _, from := range modes {
		in := enter(t, app{namespace: "e2e-clients-" + from, name: "caller"}.pod(t), program)
		for _, to := range modes {
			host, other := "echo", "caller"
			if from != to {
				host, other = "echo.e2e-clients-"+to, "caller.e2e-clients-"+to
			}
			override := "/host/" + host + " => /srv/" + other
			t.Run(from+" to "+to, func(t *testing.T) {
				await(t, "a first answer of both", func(ctx context.Context) (bool, string) {
					out, err := in.run(ctx, nil, "curl", "-sS", "-f", "http://"+host+"/echo", "http://"+other+"/echo")
					return err == nil, fmt.Sprintf("%v %s", err, out)
				})
				t.Run("curl", func(t *testing.T) { curl{in, host, override}.all(t) })
				// What a language's own library cannot do is no case of its client.
				in.client(t, "Go", "", program, "call", host, override)
				in.client(t, "Python", "trailers,websocket,connect websocket,connect secure websocket", "python3", "clients/client.py", host, override)
				in.client(t, "Node", "", "node", "clients/client.js", host, override)
			})
		}
	}
}

// inside is a process of a pod: its network, and its environment as far as it
// says who the proxy is.
type inside struct {
	pid         string
	environment []string
}

// enter finds the process of a program in a pod. It is one of this machine's.
func enter(t *testing.T, p corev1.Pod, program string) inside {
	t.Helper()
	var found []inside
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range processes {
		// What ends meanwhile cannot be read.
		command, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		environment, _ := os.ReadFile(filepath.Join(dir, "environ"))
		if !bytes.HasPrefix(command, []byte("/"+filepath.Base(program)+"\x00")) || !bytes.Contains(environment, []byte("\x00POD_IP="+p.Status.PodIP+"\x00")) {
			continue
		}
		// NODE_USE_ENV_PROXY has the fetch of newer Nodes look at http_proxy.
		in := inside{pid: filepath.Base(dir), environment: []string{"PATH=" + debian.Path, "NODE_USE_ENV_PROXY=1"}}
		for variable := range strings.SplitSeq(string(environment), "\x00") {
			if name, _, _ := strings.Cut(variable, "="); strings.HasSuffix(strings.ToLower(name), "_proxy") {
				in.environment = append(in.environment, variable)
			}
		}
		found = append(found, in)
	}
	if len(found) != 1 {
		t.Fatalf("%d processes of %s at %s, want one", len(found), program, p.Status.PodIP)
	}
	return found[0]
}

// run runs a program of the machine, and returns what it printed. An error tells
// what it complained about.
func (in inside) run(ctx context.Context, stdin []byte, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"-t", in.pid, "-n", program}, args...)...)
	cmd.Env = in.environment
	cmd.Stdin = bytes.NewReader(stdin)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return string(out), err
}

// client runs a client and reports each of its cases. It must say something of
// all but those that it lacks.
func (in inside) client(t *testing.T, name, lacks, program string, args ...string) {
	t.Run(name, func(t *testing.T) {
		began := time.Now()
		out, err := in.run(t.Context(), nil, program, args...)
		if err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		said := map[string]string{}
		for line := range strings.Lines(out) {
			verdict, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
			which, detail, _ := strings.Cut(rest, ": ")
			said[which] = verdict
			switch verdict {
			case "ok":
			case "skip":
				t.Logf("%s is left out: %s", which, detail)
			default:
				t.Errorf("%s", line)
			}
		}
		for _, want := range clientCases {
			if said[want] == "" && !strings.Contains(","+lacks+",", ","+want+",") {
				t.Errorf("nothing is said of %s", want)
			}
		}
		t.Logf("%d cases in %.1f s", len(said), time.Since(began).Seconds())
	})
}

// curl is the client that is its own; its cases are command lines.
type curl struct {
	inside
	host, override string
}

// exchange is what curl printed of one request.
type exchange struct {
	status  int
	header  http.Header // of the answer, with its trailers
	body    string
	exit    int
	talk    string // of -v: all that was said, and to whom
	message string // what a user reads if it fails
}

// do runs curl with one URL, and reads what it says of it.
func (c curl) do(t *testing.T, stdin []byte, args ...string) exchange {
	t.Helper()
	dir := t.TempDir()
	head, body := filepath.Join(dir, "head"), filepath.Join(dir, "body")
	args = append([]string{"-sSv", "--max-time", "20", "--suppress-connect-headers", "-D", head, "-o", body}, args...)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"-t", c.pid, "-n", "curl"}, args...)...)
	cmd.Env, cmd.Stdin = c.environment, bytes.NewReader(stdin)
	talk, err := cmd.CombinedOutput()
	x := exchange{talk: string(talk), header: http.Header{}}
	if failed := new(exec.ExitError); errors.As(err, &failed) {
		x.exit = failed.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(x.talk) {
		if strings.HasPrefix(line, "curl: ") {
			x.message = line
		}
	}
	text, _ := os.ReadFile(body)
	x.body = string(text)
	lines, _ := os.ReadFile(head)
	for line := range strings.Lines(string(lines)) {
		if rest, ok := strings.CutPrefix(line, "HTTP/1.1 "); ok {
			x.status, _ = strconv.Atoi(strings.Fields(rest)[0])
			x.header = http.Header{} // the answer after a 100
		} else if name, value, ok := strings.Cut(strings.TrimSpace(line), ": "); ok {
			x.header.Add(name, value)
		}
	}
	return x
}

// check fails the test, with all that was said, unless ok.
func (x exchange) check(t *testing.T, what string, ok bool) {
	t.Helper()
	if !ok {
		t.Errorf("%s: exit %d, %d %v %.300q\n%s", what, x.exit, x.status, x.header, x.body, x.talk)
	}
}

// echoed is what of /echo matters here.
func (x exchange) echoed(t *testing.T) (e struct {
	App, Method, URI, SHA256 string
	Chunked                  bool
	Header                   http.Header
}) {
	t.Helper()
	err := json.Unmarshal([]byte(x.body), &e)
	x.check(t, "an echo", err == nil && x.status == 200 && x.exit == 0)
	return e
}

func sumOf[T string | []byte](p T) string {
	sum := sha256.Sum256([]byte(p))
	return hex.EncodeToString(sum[:])
}

func (c curl) all(t *testing.T) {
	url := "http://" + c.host
	large := make([]byte, 3<<20)
	_, _ = rand.Read(large)

	e := c.do(t, nil, url+"/echo?a=%20b").echoed(t)
	if e.Method != "GET" || e.URI != "/echo?a=%20b" || e.Header.Get("Via") == "" || e.Header.Get("Proxy-Connection") != "" {
		t.Errorf("get: %+v", e)
	}
	x := c.do(t, nil, "-I", url+"/bytes?n=100000")
	x.check(t, "head", x.exit == 0 && x.status == 200 && x.header.Get("Content-Length") == "100000")
	x = c.do(t, large, "--data-binary", "@-", url+"/echo")
	e = x.echoed(t)
	x.check(t, "a large POST, asked for first", !e.Chunked && e.SHA256 == sumOf(large) && strings.Contains(x.talk, "< HTTP/1.1 100 Continue"))
	x = c.do(t, large, "-T", "-", url+"/echo")
	e = x.echoed(t)
	x.check(t, "an upload in chunks", e.Method == "PUT" && e.Chunked && e.SHA256 == sumOf(large))
	x = c.do(t, large, "-T", "-", "-H", "Expect: 100-continue", url+"/refuse")
	x.check(t, "an upload that is refused", x.status == 413 && !strings.Contains(x.talk, "100 Continue") && x.body == "the application wants less\n" && x.header.Get("Tulle-Code") == "")
	x = c.do(t, large, "-T", "-", "-H", "Expect:", url+"/refuse")
	x.check(t, "an upload that is refused meanwhile", x.status == 413 && x.body == "the application wants less\n" && x.header.Get("Tulle-Code") == "")

	out, err := c.run(t.Context(), nil, "curl", "-sS", "-o", "/dev/null", "-w", "%{num_connects}", url+"/bytes?n=[1-20]")
	if err != nil || strings.Count(out, "1") != 1 || len(out) != 20 {
		t.Errorf("connections made for each of 20 requests: %s, %v, want one in all", out, err)
	}
	for _, how := range []string{"", "&chunked"} {
		x = c.do(t, nil, url+"/bytes?n=5000000"+how)
		x.check(t, "a download"+how, x.exit == 0 && len(x.body) == 5000000 && x.header.Get("X-Sha256") == sumOf(x.body))
	}
	x = c.do(t, nil, "-0", url+"/bytes?n=300000&chunked")
	x.check(t, "a download by HTTP/1.0", x.exit == 0 && x.header.Get("Transfer-Encoding") == "" && x.header.Get("X-Sha256") == sumOf(x.body))
	x = c.do(t, nil, url+"/trailers")
	x.check(t, "trailers", x.exit == 0 && x.header.Get("X-Sha256") == sumOf(x.body))

	for _, code := range []int{404, 500, 503} {
		x = c.do(t, nil, fmt.Sprint(url, "/status?code=", code))
		x.check(t, "an application's own error", x.status == code && x.body == fmt.Sprintf("the application says %d\n", code) &&
			x.header.Get("X-Reason") == "because" && x.header.Get("Tulle-Code") == "" && x.header.Get("L5d-Err") == "")
	}
	x = c.do(t, nil, "-L", url+"/status?code=302&location="+url+"/echo")
	x.check(t, "a redirection that is followed", x.echoed(t).URI == "/echo")

	x = c.do(t, nil, "http://nobody")
	x.check(t, "an unknown name", x.exit == 0 && x.status == 502 && x.header.Get("Tulle-Code") == "T201" &&
		strings.Contains(x.body, "service name: /svc/nobody\n") && strings.Contains(x.body, "T201: the caller belongs to the namespace e2e-clients-"))
	x = c.do(t, nil, "-f", "http://nobody")
	x.check(t, "an unknown name with -f", x.exit == 22 && strings.Contains(x.message, "502"))
	x = c.do(t, nil, "-p", "-x", c.proxy(), "https://nobody")
	x.check(t, "a tunnel to an unknown name", x.exit == 56 && strings.Contains(x.message, "502"))

	before := c.do(t, nil, url+"/echo").echoed(t)
	during := c.do(t, nil, "-H", "l5d-dtab: "+c.override, url+"/echo").echoed(t)
	inTunnel := c.do(t, nil, "-p", "-H", "l5d-dtab: "+c.override, url+"/echo").echoed(t)
	if before.App != "echo" || during.App != "caller" || inTunnel.App != "caller" {
		t.Errorf("an override leads from %s to %s, in a tunnel to %s", before.App, during.App, inTunnel.App)
	}
	x = c.do(t, large, "-p", "--data-binary", "@-", url+"/echo")
	e = x.echoed(t)
	x.check(t, "HTTP in a tunnel", e.SHA256 == sumOf(large) && e.Header.Get("Via") != "" && strings.Contains(x.talk, "> CONNECT "))

	pem := filepath.Join(t.TempDir(), "pem")
	if err := os.WriteFile(pem, []byte(c.do(t, nil, url+"/certificate").body), 0o600); err != nil {
		t.Fatal(err)
	}
	x = c.do(t, large, "-x", c.proxy(), "--cacert", pem, "--data-binary", "@-", "https://"+c.host+"/echo")
	e = x.echoed(t)
	x.check(t, "TLS in a tunnel", e.SHA256 == sumOf(large) && e.Header.Get("Via") == "")
}

// proxy is what the environment names.
func (c curl) proxy() string {
	for _, variable := range c.environment {
		if proxy, ok := strings.CutPrefix(variable, "http_proxy="); ok {
			return proxy
		}
	}
	return ""
}
