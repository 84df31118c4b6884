//go:build e2e

package admission

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/tulle-mesh/tulle/e2e/chart"
	"github.com/tulle-mesh/tulle/e2e/cluster/suite"
	"github.com/tulle-mesh/tulle/internal/run"
	"github.com/tulle-mesh/tulle/webhook/serving"
)

// Each way in which the injector cannot be reached has its cause, in the words of a real API server.
func TestProbeCauses(t *testing.T) {
	m := install(t, map[string]any{"createNamespace": false, "injector": map[string]any{"timeoutSeconds": 1}})
	r := m.start(t, "one", serving.Config{Settle: 10 * time.Millisecond})
	client, err := kubernetes.NewForConfig(m.config)
	if err != nil {
		t.Fatal(err)
	}
	probeOf := func(namespace string) *serving.Probe {
		p, err := serving.NewProbe(serving.ProbeConfig{Client: client, Namespace: namespace, Registerer: prometheus.NewRegistry(), Logger: suite.Logger(t)})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	p := probeOf(m.namespace + "-probe")
	expect := func(p *serving.Probe, want serving.Cause) {
		t.Helper()
		await(t, fmt.Sprintf("a probe with cause %q", want), func(ctx context.Context) (bool, string) {
			o := p.Try(ctx)
			return o.Cause == want, fmt.Sprintf("%q: %s", o.Cause, o.Message)
		})
	}
	expect(p, "")
	if r.calls.Load() == 0 {
		t.Error("the injector was not called")
	}
	expect(probeOf("default"), serving.CauseForbidden) // where the controller may not make pods
	expect(probeOf("nowhere-probe"), serving.CauseForbidden)

	lead := func(to netip.AddrPort) {
		m.endpoint(t, "one", netip.AddrPort{})
		if to.IsValid() {
			m.endpoint(t, "one", to)
		}
	}
	own := r.address
	t.Run("no endpoint", func(t *testing.T) {
		lead(netip.AddrPort{})
		expect(p, serving.CauseNoEndpoint)
		m.endpoint(t, "one", own)
		expect(p, "")
	})
	listener, err := net.Listen("tcp", net.JoinHostPort(own.Addr().String(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	silent := listener.Addr().(*net.TCPAddr).AddrPort()
	t.Run("nobody answers", func(t *testing.T) {
		lead(silent)
		expect(p, serving.CauseTimeout)
	})
	t.Run("nobody listens", func(t *testing.T) {
		_ = listener.Close()
		expect(p, serving.CauseRefused)
		lead(own)
		expect(p, "")
	})
	t.Run("opened", func(t *testing.T) {
		configs := api.Client().AdmissionregistrationV1().MutatingWebhookConfigurations()
		patch := `{"webhooks":[{"name":"inject.tulle.dev","failurePolicy":%q}]}`
		set := func(policy string) {
			t.Helper()
			if _, err := configs.Patch(t.Context(), "tulle-injector", types.StrategicMergePatchType, fmt.Appendf(nil, patch, policy), metav1.PatchOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		set("Ignore")
		lead(silent)
		expect(p, serving.CauseNotInjected)
		set("Fail")
		lead(own)
		expect(p, "")
	})
	t.Run("denied", func(t *testing.T) {
		label := func(mode string) {
			t.Helper()
			if _, err := api.Client().CoreV1().Namespaces().Patch(t.Context(), m.namespace+"-probe", types.MergePatchType, fmt.Appendf(nil, `{"metadata":{"labels":{"tulle.dev/mode":%s}}}`, mode), metav1.PatchOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		label(`"both"`)
		expect(p, serving.CauseDenied)
		label("null")
		expect(p, "")
	})
	t.Run("not trusted", func(t *testing.T) {
		r.stop()
		// Somebody serves with a certificate of his own.
		foreign := m.foreign(t)
		m.endpoint(t, "one", foreign)
		expect(p, serving.CauseCertificate)
		m.endpoint(t, "one", netip.AddrPort{})
	})
}

// The program itself, with its rights alone and the chart's settings: it is ready, serves by a certificate of its own,
// probes, and tells. What it is asked about in a dry run leaves no trace anywhere.
func TestController(t *testing.T) {
	m := install(t, map[string]any{"createNamespace": false})
	c := m.program(t)
	m.endpoint(t, "program", c.webhook)
	ns := namespace(t, map[string]string{"tulle.dev/inject": "enabled"})
	await(t, "an admission", func(ctx context.Context) (bool, string) { err := admit(ctx, ns); return err == nil, fmt.Sprint(err) })

	t.Run("probe", func(t *testing.T) {
		await(t, "the first probe", func(context.Context) (bool, string) {
			_, metrics := c.get(t, "/metrics")
			return strings.Contains(metrics, "\ntulle_injector_probe_success 1\n"), grep(metrics, "tulle_injector_")
		})
		if status, body := c.get(t, "/admin/ready"); status != 200 || body != "ready" {
			t.Errorf("ready: %d %s", status, body)
		}
	})

	t.Run("dry run", func(t *testing.T) {
		before := everything(t)
		for range 20 {
			if err := admit(t.Context(), ns); err != nil {
				t.Fatal(err)
			}
		}
		refused := app()
		refused.Annotations = map[string]string{"tulle.dev/mode": "both"}
		if _, err := api.Client().CoreV1().Pods(ns).Create(t.Context(), refused, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}); err == nil {
			t.Error("a pod with a mode that there is not was admitted")
		}
		for name, version := range everything(t) {
			// The program looks after pods that other tests have left, too.
			about := strings.HasPrefix(name, "events") && !strings.Contains(name, " "+ns+"/")
			if before[name] != version && !about {
				t.Errorf("%s was written", name)
			}
		}
	})
}

func grep(text, part string) string {
	var found []string
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, part) {
			found = append(found, line)
		}
	}
	return strings.Join(found, "")
}

// everything returns the versions of all objects of the API server, but for leases, by which programs say that they live.
func everything(t *testing.T) map[string]string {
	t.Helper()
	kinds, err := api.Kubectl(t.Context(), nil, "api-resources", "--verbs=list", "-o", "name")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for kind := range strings.FieldsSeq(kinds) {
		if strings.HasPrefix(kind, "leases.") || strings.HasPrefix(kind, "leasecandidates.") || strings.HasPrefix(kind, "componentstatuses") {
			continue
		}
		out, err := api.Kubectl(t.Context(), nil, "get", kind, "-A", "--ignore-not-found", "-o", `jsonpath={range .items[*]}{.metadata.namespace}/{.metadata.name} {.metadata.resourceVersion}{"\n"}{end}`)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out) {
			name, version, _ := strings.Cut(strings.TrimSpace(line), " ")
			all[kind+" "+name] = version
		}
	}
	return all
}

// program is a process of tulle-controller.
type program struct {
	webhook netip.AddrPort
	admin   string
}

// program starts tulle-controller with the chart's settings and the controller's own rights, and waits until it is ready.
func (m *mesh) program(t *testing.T) *program {
	t.Helper()
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	if out, err := exec.Command("go", "build", "-o", file("tulle-controller"), "github.com/tulle-mesh/tulle/cmd/tulle-controller").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	objects := chart.Render(t, m.namespace, map[string]any{"createNamespace": false})
	if err := os.WriteFile(file("controller.yaml"), objects.Settings(t), 0o600); err != nil {
		t.Fatal(err)
	}
	definitions := objects.Only(func(o chart.Object) bool { return o.Kind == "CustomResourceDefinition" })
	if err := api.Apply(t.Context(), definitions); err != nil {
		t.Fatal(err)
	}
	if _, err := api.Kubectl(t.Context(), nil, "wait", "--for=condition=Established", "--timeout=30s", "crd/dtabs.l5d.io"); err != nil {
		t.Fatal(err)
	}
	certificate, key := keyPair(t)
	for name, text := range map[string][]byte{"tls.crt": certificate, "tls.key": key, "ca.crt": certificate} {
		if err := os.WriteFile(file(name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	token, err := api.Kubectl(t.Context(), nil, "create", "token", "tulle-controller", "-n", m.namespace)
	if err != nil {
		t.Fatal(err)
	}
	config, kube := api.RESTConfig(), clientcmdapi.NewConfig()
	kube.Clusters["a"] = &clientcmdapi.Cluster{Server: config.Host, CertificateAuthorityData: config.CAData, CertificateAuthority: config.CAFile}
	kube.AuthInfos["a"] = &clientcmdapi.AuthInfo{Token: strings.TrimSpace(token)}
	kube.Contexts["a"], kube.CurrentContext = &clientcmdapi.Context{Cluster: "a", AuthInfo: "a"}, "a"
	if err := clientcmd.WriteToFile(*kube, file("kubeconfig")); err != nil {
		t.Fatal(err)
	}

	free := func(host string) string {
		l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		return l.Addr().String()
	}
	webhook := free(address(t).String())
	p := &program{webhook: netip.MustParseAddrPort(webhook), admin: free("127.0.0.1")}
	log, err := os.Create(file("log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(file("tulle-controller"), "--config", file("controller.yaml"), "--kubeconfig", file("kubeconfig"), "--policy", "",
		"--tls-cert-file", file("tls.crt"), "--tls-key-file", file("tls.key"), "--ca-file", file("ca.crt"),
		"--webhook-address", webhook, "--admin-address", p.admin, "--namer-address", free("127.0.0.1"), "--mesh-address", free("127.0.0.1"), "--pages-address", free("127.0.0.1"))
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = log, log, &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err != nil {
			t.Errorf("the controller ended with %v", err)
		}
		_ = log.Close()
		if said, err := os.ReadFile(file("log")); err == nil && (t.Failed() || testing.Verbose()) {
			t.Logf("%s", said)
		}
	})
	await(t, "the controller to be ready", func(context.Context) (bool, string) {
		status, body := p.get(t, "/admin/ready")
		return status == 200, body
	})
	return p
}

func (p *program) get(t *testing.T, path string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+p.admin+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err.Error()
	}
	return res.StatusCode, string(body)
}

// keyPair returns a certificate that nobody has signed but its own key, and that key, in PEM.
func keyPair(t *testing.T) (certificate, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

// foreign serves by a certificate that nobody trusts.
func (m *mesh) foreign(t *testing.T) netip.AddrPort {
	t.Helper()
	pair, err := tls.X509KeyPair(keyPair(t))
	if err != nil {
		t.Fatal(err)
	}
	return serveBy(t, pair, http.NotFoundHandler())
}

// serveBy serves by a certificate until the test ends.
func serveBy(t *testing.T, pair tls.Certificate, handler http.Handler) netip.AddrPort {
	t.Helper()
	listener, err := net.Listen("tcp", net.JoinHostPort(address(t).String(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Second, ErrorLog: slog.NewLogLogger(suite.Logger(t).Handler(), slog.LevelDebug)}
	suite.Go(t, run.HTTPS(server, listener, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}}, time.Second))
	return listener.Addr().(*net.TCPAddr).AddrPort()
}
