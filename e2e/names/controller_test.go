//go:build e2e

package names

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/certs/issuer"
	"github.com/tulle-mesh/tulle/manifests"
)

// mesh is a namespace with what the chart puts there for the controller, but for what needs nodes.
type mesh struct {
	namespace string
	program   string
	settings  string // file, as the chart writes it
	kubeconfig,
	tls string // a directory
	roots []byte
}

func newMesh(t *testing.T) *mesh {
	t.Helper()
	m := &mesh{namespace: namespace(t, api), program: filepath.Join(t.TempDir(), "tulle-controller"), tls: t.TempDir()}
	if out, err := exec.Command("go", "build", "-o", m.program, "github.com/tulle-mesh/tulle/cmd/tulle-controller").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	// The webhook's certificate is that of the files, by which the tests trust it.
	chart, err := manifests.Render(m.namespace, map[string]any{"createNamespace": false, "injector": map[string]any{"certificate": "cert-manager", "probe": false}})
	if err != nil {
		t.Fatal(err)
	}
	var apply []string
	for doc := range strings.SplitSeq(string(chart), "---\n") {
		var o struct {
			Kind string
			Data map[string]string
		}
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
			t.Fatal(err)
		}
		switch o.Kind {
		case "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding":
			apply = append(apply, doc)
		case "ConfigMap":
			if text, ok := o.Data["controller.yaml"]; ok {
				m.settings = filepath.Join(m.tls, "controller.yaml")
				write(t, m.settings, text)
			}
		}
	}
	if err := api.Apply(t.Context(), strings.Join(apply, "---\n")); err != nil {
		t.Fatal(err)
	}
	ca, err := issuer.NewLocal(time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	serving, err := ca.Server(time.Hour, "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(serving.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	m.roots = ca.Roots()
	write(t, filepath.Join(m.tls, "tls.crt"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: serving.Certificate[0]})))
	write(t, filepath.Join(m.tls, "tls.key"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})))
	write(t, filepath.Join(m.tls, "ca.crt"), string(m.roots))

	// The controller has its own rights here, and no more.
	config := api.RESTConfig()
	file := clientcmdapi.NewConfig()
	file.Clusters["a"] = &clientcmdapi.Cluster{Server: config.Host, CertificateAuthorityData: config.CAData, CertificateAuthority: config.CAFile}
	file.AuthInfos["a"] = &clientcmdapi.AuthInfo{Token: strings.TrimSpace(kubectl(t, m.namespace, "", "create", "token", "tulle-controller"))}
	file.Contexts["a"] = &clientcmdapi.Context{Cluster: "a", AuthInfo: "a"}
	file.CurrentContext = "a"
	m.kubeconfig = filepath.Join(m.tls, "kubeconfig")
	if err := clientcmd.WriteToFile(*file, m.kubeconfig); err != nil {
		t.Fatal(err)
	}
	return m
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// replica is one process of tulle-controller or of tulle-namer, which has fewer addresses.
type replica struct {
	webhook, namer, mesh, admin, pages string // addresses
	log                                string // file
	stop                               func()
}

func (m *mesh) start(t *testing.T) *replica { return m.startAt(t, "") }

// startAt starts one whose API for proxies has an address, or a free one if that is empty.
func (m *mesh) startAt(t *testing.T, mesh string) *replica {
	t.Helper()
	r := &replica{}
	args := []string{"--config", m.settings, "--kubeconfig", m.kubeconfig, "--policy", "",
		"--tls-cert-file", filepath.Join(m.tls, "tls.crt"), "--tls-key-file", filepath.Join(m.tls, "tls.key"), "--ca-file", filepath.Join(m.tls, "ca.crt")}
	for flag, address := range map[string]string{"webhook": "", "namer": "", "mesh": mesh, "admin": "", "pages": ""} {
		args = append(args, "--"+flag+"-address", cmp.Or(address, "127.0.0.1:0"))
	}
	r.run(t, map[string]*string{"webhook": &r.webhook, "namer": &r.namer, "mesh": &r.mesh, "admin": &r.admin, "pages": &r.pages}, m.program, args...)
	return r
}

// run runs a program until the test ends, and waits until it is ready. It listens where it may, and says where that
// is: a port that was free a moment before may be somebody else's by then.
func (r *replica) run(t *testing.T, listens map[string]*string, program string, args ...string) {
	t.Helper()
	r.log = filepath.Join(t.TempDir(), "log")
	log, err := os.Create(r.log)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	r.stop = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("%s ended with %v", filepath.Base(program), err)
			}
		case <-time.After(patience):
			_ = cmd.Process.Kill()
			t.Errorf("%s does not end", filepath.Base(program))
		}
		if t.Failed() {
			t.Logf("%s", r.said(t))
		}
	})
	t.Cleanup(r.stop)
	until(t, func() (bool, string) {
		_, serving, _ := strings.Cut(r.said(t), " msg=serving ")
		serving, _, whole := strings.Cut(serving, "\n")
		for word := range strings.FieldsSeq(serving) {
			if key, value, _ := strings.Cut(word, "="); listens[key] != nil {
				*listens[key] = value
			}
		}
		return whole, "it listens nowhere"
	})
	until(t, func() (bool, string) {
		res, err := http.Get("http://" + r.admin + "/admin/ready")
		if err != nil {
			return false, err.Error()
		}
		defer func() { _ = res.Body.Close() }()
		body, _ := io.ReadAll(res.Body)
		return res.StatusCode == 200, string(body)
	})
}

func (r *replica) said(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(r.log)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// until asks until the answer is yes.
func until(t *testing.T, what func() (bool, string)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		ok, said := what()
		if ok {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("in vain: %s", said)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// ask sends one request to the namer's API, as namerctl would with a token.
func (r *replica) ask(t *testing.T, method, path, body string, headers ...string) (status int, etag, answer string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+r.namer+"/api/1/"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/dtab")
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, res.Header.Get("ETag"), string(text)
}

// Two controllers with the rights that the chart gives them: what is written at one, or with kubectl, is the other's
// as well, and RBAC says who may write.
func TestControllers(t *testing.T) {
	m := newMesh(t)
	a, b := m.start(t), m.start(t)

	t.Run("first dtabs", func(t *testing.T) {
		if _, _, answer := b.ask(t, "GET", "dtabs", ""); answer != "[\"default\"]\n" {
			t.Errorf("the dtabs are %s", answer)
		}
		if n := strings.Count(a.said(t)+b.said(t), `msg="dtab created" namespace=default by=settings`); n != 1 {
			t.Errorf("the first dtab was made %d times", n)
		}
	})

	t.Run("namerctl's exchanges", func(t *testing.T) {
		for _, step := range []struct {
			at           *replica
			method, body string
			version      string // "old" and "new" are what was read
			status       int
		}{
			{a, "GET", "", "", 404}, {b, "POST", "/svc=>/a", "", 204}, {a, "POST", "/svc=>/b", "", 409}, {a, "PUT", "/svc=>/", "x", 412},
			{a, "PUT", "/svc=>", "", 400}, {b, "PUT", "/svc=>/c", "read", 204}, {a, "PUT", "/svc=>/d", "read", 412},
			{a, "DELETE", "", "", 204}, {b, "DELETE", "", "", 404},
		} {
			var headers []string
			switch step.version {
			case "":
			case "read":
				_, version, _ := a.ask(t, "GET", "dtabs/web", "")
				if step.status == 412 {
					if status, _, _ := b.ask(t, "PUT", "dtabs/web", "/svc=>/quicker"); status != 204 {
						t.Errorf("a PUT between: %d", status)
					}
				}
				headers = []string{"If-Match", version}
			default:
				headers = []string{"If-Match", step.version}
			}
			if status, _, answer := step.at.ask(t, step.method, "dtabs/web", step.body, headers...); status != step.status {
				t.Errorf("%s %q: got %d %s, want %d", step.method, step.body, status, answer, step.status)
			}
		}
	})

	t.Run("kubectl", func(t *testing.T) {
		kubectl(t, m.namespace, "", "patch", "dtabs", "default", "--type=merge", "-p", `{"dentries":[{"prefix":"/svc","dst":"/kubectl"}]}`)
		for _, r := range []*replica{a, b} {
			if _, _, answer := r.ask(t, "GET", "dtabs/default", "", "Accept", "application/dtab"); answer != "/svc=>/kubectl\n" {
				t.Errorf("a replica has %s", answer)
			}
		}
	})

	t.Run("access", func(t *testing.T) {
		for _, account := range []string{"editor", "viewer", "nobody"} {
			kubectl(t, m.namespace, "", "create", "serviceaccount", account)
			if account != "nobody" {
				kubectl(t, m.namespace, "", "create", "rolebinding", account, "--clusterrole=tulle-dtab-"+account, "--serviceaccount="+m.namespace+":"+account)
			}
		}
		kubectl(t, m.namespace, "", "create", "serviceaccount", "one")
		kubectl(t, m.namespace, "", "create", "role", "one", "--verb=get,update", "--resource=dtabs.l5d.io", "--resource-name=default")
		kubectl(t, m.namespace, "", "create", "rolebinding", "one", "--role=one", "--serviceaccount="+m.namespace+":one")
		token := func(account, audience string) string {
			return strings.TrimSpace(kubectl(t, m.namespace, "", "create", "token", account, "--audience", audience))
		}
		for _, tt := range []struct {
			token  string
			method string
			path   string
			status int
		}{
			{token("editor", "tulle.dev"), "GET", "dtabs", 200}, {token("editor", "tulle.dev"), "PUT", "dtabs/default", 204},
			{token("editor", "tulle.dev"), "POST", "dtabs/new", 204}, {token("editor", "tulle.dev"), "DELETE", "dtabs/new", 204},
			{token("viewer", "tulle.dev"), "GET", "dtabs/default", 200}, {token("viewer", "tulle.dev"), "GET", "bind/default?path=/svc/x", 200},
			{token("viewer", "tulle.dev"), "PUT", "dtabs/default", 403}, {token("viewer", "tulle.dev"), "DELETE", "dtabs/default", 403},
			{token("one", "tulle.dev"), "PUT", "dtabs/default", 204}, {token("one", "tulle.dev"), "GET", "dtabs", 403},
			{token("one", "tulle.dev"), "PUT", "dtabs/other", 403}, {token("nobody", "tulle.dev"), "GET", "dtabs", 403},
			{token("editor", "https://kubernetes.default.svc"), "GET", "dtabs", 401}, {"made up", "GET", "dtabs", 401},
		} {
			body := ""
			if tt.method == "PUT" || tt.method == "POST" {
				body = "/svc=>/by"
			}
			if status, _, answer := a.ask(t, tt.method, tt.path, body, "Authorization", "Bearer "+tt.token); status != tt.status {
				t.Errorf("%s %s: got %d %s, want %d", tt.method, tt.path, status, answer, tt.status)
			}
		}
		_, _, past := b.ask(t, "GET", "dtabs/default/history", "")
		if !strings.Contains(past, `"by":"system:serviceaccount:`+m.namespace+`:editor"`) {
			t.Errorf("the history is %s", past)
		}
		if log := a.said(t); !strings.Contains(log, `msg="dtab written" namespace=default by=system:serviceaccount:`+m.namespace+`:editor`) {
			t.Error("the write left no line in the log")
		} else if strings.Contains(log, "Bearer") || strings.Contains(log, token("editor", "tulle.dev")[:20]) {
			t.Error("a token is in the log")
		}
	})

	t.Run("webhook", func(t *testing.T) {
		hook := m.webhook(t, a)
		if err := api.Apply(t.Context(), hook); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_, _ = api.Kubectl(context.WithoutCancel(t.Context()), nil, "delete", "mutatingwebhookconfiguration", "tulle-dtabs")
		})
		object := func(dst string) string {
			return fmt.Sprintf("{apiVersion: l5d.io/v1alpha1, kind: DTab, metadata: {name: applied, namespace: %s}, dentries: [{prefix: /svc, dst: /ok}, {prefix: /host, dst: %q}]}", m.namespace, dst)
		}
		// Not what the definition's patterns say, which takes over while the webhook is away.
		refused := func(dst, place string, args ...string) (bool, string) {
			_, err := api.Kubectl(t.Context(), strings.NewReader(object(dst)), append([]string{"apply", "-f", "-"}, args...)...)
			return err != nil && strings.Contains(err.Error(), "dentries[1].dst: ") && strings.Contains(err.Error(), "found at '"+place+"'"), fmt.Sprint(err)
		}
		until(t, func() (bool, string) { // the API server learns of a webhook within a second
			return refused("/a/ | /b", "/a/[ ]| /b", "--dry-run=server")
		})
		for dst, place := range map[string]string{"/a | ": "/a | []", "(/a & /b": "(/a & /b[]", "/a b": "/a [b]", "1.2.3 * /a": "1.2[.]3 * /a"} {
			if ok, said := refused(dst, place); !ok {
				t.Errorf("%q: %v", dst, said)
			}
		}
		if _, err := api.Kubectl(t.Context(), strings.NewReader(object("/a | /b")), "apply", "-f", "-"); err != nil {
			t.Error(err)
		}
	})

	t.Run("one is gone", func(t *testing.T) {
		a.stop()
		if status, _, answer := b.ask(t, "PUT", "dtabs/default", "/svc=>/alone"); status != 204 {
			t.Errorf("got %d %s", status, answer)
		}
	})
}

// webhook is the chart's for dtabs, which asks a process and not a Service.
func (m *mesh) webhook(t *testing.T, r *replica) string {
	t.Helper()
	chart, err := manifests.Render(m.namespace, nil)
	if err != nil {
		t.Fatal(err)
	}
	for doc := range strings.SplitSeq(string(chart), "---\n") {
		if !strings.Contains(doc, "name: tulle-dtabs") {
			continue
		}
		var o map[string]any
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
			t.Fatal(err)
		}
		hook := o["webhooks"].([]any)[0].(map[string]any)
		hook["clientConfig"] = map[string]any{"url": "https://" + r.webhook + "/validate-dtab", "caBundle": m.roots}
		text, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		return string(slices.Concat(text, []byte("\n")))
	}
	t.Fatal("the chart has no webhook for dtabs")
	return ""
}
