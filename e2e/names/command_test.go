//go:build e2e

package names

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// TestDtabCommand runs "tulle dtab" as a user does who has a kubeconfig and nothing else, with the rights that
// docs/dtab.md says: through a real API server, with its tunnels and its RBAC, to two real controllers. Only the
// kubelet between them is played, for what is behind it is no pod but a process.
func TestDtabCommand(t *testing.T) {
	m := newMesh(t)
	a, b := m.start(t), m.start(t)
	node := kubelet(t)
	m.pod(t, node, "one", a)
	m.pod(t, node, "two", b)
	if err := api.Apply(t.Context(), strings.ReplaceAll(serviceWorld, "NAMESPACE", m.namespace)); err != nil {
		t.Fatal(err)
	}
	kubectl(t, m.namespace, "", "create", "role", "forward", "--verb=list", "--resource=pods")
	kubectl(t, m.namespace, "", "create", "role", "forward-it", "--verb=create", "--resource=pods/portforward")
	for _, role := range []string{"forward", "forward-it"} {
		kubectl(t, m.namespace, "", "create", "rolebinding", role, "--role="+role, "--serviceaccount="+m.namespace+":ann")
	}
	kubectl(t, m.namespace, "", "create", "rolebinding", "look", "--role=forward", "--serviceaccount="+m.namespace+":bob")
	ann, bob := m.user(t, "ann"), m.user(t, "bob")
	program := filepath.Join(t.TempDir(), "tulle")
	if out, err := exec.Command("go", "build", "-o", program, "github.com/tulle-mesh/tulle/cmd/tulle").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	run := func(kubeconfig, stdin string, args ...string) (code int, stdout, stderr string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		cmd := exec.CommandContext(ctx, program, append([]string{"dtab", "-n", m.namespace}, args...)...)
		var out, talk bytes.Buffer
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &talk
		for _, e := range os.Environ() {
			if !strings.HasPrefix(e, "TULLE_") && !strings.HasPrefix(e, "NAMERCTL_") {
				cmd.Env = append(cmd.Env, e)
			}
		}
		cmd.Env = append(cmd.Env, "KUBECONFIG="+kubeconfig)
		if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
			t.Fatal(err)
		}
		return cmd.ProcessState.ExitCode(), out.String(), talk.String()
	}
	// says runs a command line of ann's, which must end with a code, and what it says with a text.
	says := func(code int, stderr, stdin string, args ...string) (stdout string) {
		t.Helper()
		got, stdout, talk := run(ann, stdin, args...)
		if got != code || !strings.HasSuffix(talk, stderr) || stderr == "" && talk != "" {
			t.Errorf("%q: exit code %d, %s%s\nwant %d, %s", args, got, stdout, talk, code, stderr)
		}
		return stdout
	}

	rules := "/svc => /#/io.l5d.k8s/" + m.namespace + "/http ;"
	says(0, "shop: created, 1 rule\n", rules, "create", "shop", "-")
	if out := says(0, "", "", "ls", "-o", "name"); out != "default\nshop\n" {
		t.Errorf("the dtabs are %s", out)
	}
	if out := says(0, "", "", "resolve", "shop", "world", "-o", "name"); out != "/#/io.l5d.k8s/"+m.namespace+"/http/world\n" {
		t.Errorf("world is %s", out)
	}
	// A proxy is connected to one controller, and another to the other one.
	follow(t, a, "/svc/world")
	follow(t, b, "/svc/world/more")
	if out := says(2, "shop: 2 names, 0 changed, 2 lost; names seen by all 2 controllers\nerror: 2 names would be lost\nhint: apply refuses this without --force\n",
		"/svc => $", "plan", "shop", "-"); !strings.Contains(out, "/svc/world ") || !strings.Contains(out, "/svc/world/more ") {
		t.Errorf("the plan is %s", out)
	}
	says(2, "error: 1 name in use would be lost, so shop is not written\nhint: --force writes it nevertheless; tulle dtab plan shows everything that would change\n",
		rules+"/svc/world/more => $", "apply", "shop", "-")
	says(0, "shop: written, 2 rules; 2 names, 0 changed, 0 lost; names seen by all 2 controllers\n", rules+"/svc/new => /svc/world", "apply", "shop", "-")
	if out := says(0, "", "", "history", "shop"); !strings.Contains(out, "  + /svc/new => /svc/world\n") {
		t.Errorf("the history is %s", out)
	}
	says(0, "shop: written, 1 rule; 2 names, 0 changed, 0 lost; names seen by all 2 controllers\n", "", "rollback", "shop")
	if out := says(0, "", "", "get", "shop"); strings.Contains(out, "/svc/new") || !strings.Contains(out, "/svc  => /#/io.l5d.k8s/") {
		t.Errorf("it is %s", out)
	}
	says(1, "error: there is no dtab \"nobody\"\nhint: tulle dtab ls lists those there are\n", "", "get", "nobody")

	// Who may look for the controller may not go there for that.
	if code, _, talk := run(bob, "", "ls"); code != 1 || !strings.HasPrefix(talk, "error: forward a port to pod one: ") || !strings.Contains(talk, "pods/portforward") {
		t.Errorf("exit code %d, %s", code, talk)
	}
	// A controller that is gone, and of which the cluster does not know yet.
	b.stop()
	code, out, talk := run(ann, rules, "plan", "shop", "-")
	if code != 0 || !strings.Contains(out, "/svc/world ") || !strings.HasPrefix(talk, "warning: names that only pod two knows are missing: ask the namer in pod two: dial tcp ") || !strings.Contains(talk, ": connect: connection refused\n") ||
		!strings.HasSuffix(talk, "\nshop: 1 name, 0 changed, 0 lost; partial: names seen by 1 of 2 controllers\n") {
		t.Errorf("exit code %d, %s%s", code, out, talk)
	}
}

const serviceWorld = `
{apiVersion: v1, kind: Service, metadata: {name: world, namespace: NAMESPACE}, spec: {ports: [{name: http, port: 80}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: world, namespace: NAMESPACE, labels: {kubernetes.io/service-name: world}}
addressType: IPv4
ports: [{name: http, port: 80}]
endpoints: [{addresses: [10.1.2.3], conditions: {ready: true}}]
`

// follow uses a name at a controller until the test ends, as a proxy does.
func follow(t *testing.T, r *replica, path string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.namer+"/api/1/bind/shop?watch=true&path="+url.QueryEscape(path), nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = res.Body.Close() })
	if res.StatusCode != http.StatusOK {
		t.Fatalf("follow %s: %s", path, res.Status)
	}
}

// user returns the kubeconfig of a new service account.
func (m *mesh) user(t *testing.T, name string) (kubeconfig string) {
	t.Helper()
	kubectl(t, m.namespace, "", "create", "serviceaccount", name)
	file, err := clientcmd.LoadFromFile(m.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	file.AuthInfos = map[string]*clientcmdapi.AuthInfo{"a": {Token: strings.TrimSpace(kubectl(t, m.namespace, "", "create", "token", name))}}
	kubeconfig = filepath.Join(t.TempDir(), name)
	if err := clientcmd.WriteToFile(*file, kubeconfig); err != nil {
		t.Fatal(err)
	}
	return kubeconfig
}

// pod tells the API server that a controller is a pod that is ready.
func (m *mesh) pod(t *testing.T, node, name string, r *replica) {
	t.Helper()
	_, port, err := net.SplitHostPort(r.namer)
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.ParseInt(port, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	pods := api.Client().CoreV1().Pods(m.namespace)
	p, err := pods.Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app.kubernetes.io/name": "tulle", "app.kubernetes.io/component": "controller"}},
		Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{
			Name: "controller", Image: "controller", Ports: []corev1.ContainerPort{{Name: "namer", ContainerPort: int32(number)}},
		}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p.Status.Phase = corev1.PodRunning
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	if _, err := pods.UpdateStatus(t.Context(), p, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// kubelet plays the kubelet of a new node, as far as it forwards ports: they are those of this machine.
func kubelet(t *testing.T) (node string) {
	t.Helper()
	// The API server believes in whom its own CA signed; of those there are, its own certificate is for 127.0.0.1.
	pki := filepath.Dir(api.Kubeconfig())
	serving, err := tls.LoadX509KeyPair(filepath.Join(pki, "apiserver.crt"), filepath.Join(pki, "apiserver.key"))
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/portForward/{namespace}/{pod}", func(w http.ResponseWriter, r *http.Request) {
		if _, err := httpstream.Handshake(r, w, []string{"portforward.k8s.io"}); err != nil {
			return
		}
		streams := make(chan httpstream.Stream, 8)
		conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(s httpstream.Stream, _ <-chan struct{}) error {
			streams <- s
			return nil
		})
		if conn == nil {
			return
		}
		var group sync.WaitGroup
		defer group.Wait()
		defer conn.Close()
		failures := map[string]httpstream.Stream{} // where to say what went wrong, by request
		for {
			select {
			case s := <-streams:
				id := s.Headers().Get("requestID")
				if s.Headers().Get("streamType") == "error" {
					failures[id] = s
					continue
				}
				say := failures[id] // which comes first
				delete(failures, id)
				group.Go(func() { forward(s, say) })
			case <-conn.CloseChan():
				return
			}
		}
	})
	server := httptest.NewUnstartedServer(mux)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{serving}}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	port := server.Listener.Addr().(*net.TCPAddr).Port
	nodes := api.Client().CoreV1().Nodes()
	n, err := nodes.Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{GenerateName: "node-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nodes.Delete(context.WithoutCancel(t.Context()), n.Name, metav1.DeleteOptions{}) })
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.0.0.1"}}
	n.Status.DaemonEndpoints.KubeletEndpoint.Port = int32(port)
	if n, err = nodes.UpdateStatus(t.Context(), n, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	return n.Name
}

// forward carries one stream to the port of this machine that it asks for.
func forward(s, say httpstream.Stream) {
	defer s.Close()
	if say != nil {
		defer say.Close()
	}
	to, err := net.Dial("tcp", "127.0.0.1:"+s.Headers().Get("port"))
	if err != nil {
		if say != nil {
			_, _ = io.WriteString(say, err.Error())
		}
		return
	}
	defer to.Close()
	go func() {
		_, _ = io.Copy(to, s)
		_ = to.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(s, to)
}
