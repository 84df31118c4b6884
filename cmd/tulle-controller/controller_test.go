package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	cmapi "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	cmmeta "github.com/cert-manager/cert-manager/pkg/apis/meta/v1"
	cmfake "github.com/cert-manager/cert-manager/pkg/client/clientset/versioned/fake"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"
	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	metadatafake "k8s.io/client-go/metadata/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/tulle-mesh/tulle/certs"
	"github.com/tulle-mesh/tulle/certs/issuer"
	"github.com/tulle-mesh/tulle/naming/namer/api"
	namer "github.com/tulle-mesh/tulle/naming/namer/client"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cluster is a controller running against fake clients, with a local authority in cert-manager's place.
type cluster struct {
	ca      *issuer.Local
	address map[string]string // of each server
	client  *http.Client
	policy  string // its file
}

// token is what a pod would have in its file; the fake API server takes it apart again.
func token(namespace, serviceAccount, node string) string {
	return namespace + "," + serviceAccount + "," + node
}

func start(t *testing.T) *cluster {
	t.Helper()
	ca, err := issuer.NewLocal(100 * time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	k := &cluster{ca: ca, address: map[string]string{}}
	cfg := DefaultConfig()
	cfg.WebhookAddress, cfg.NamerAddress, cfg.MeshAddress, cfg.AdminAddress = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	cfg.PagesAddress = "127.0.0.1:0"
	dir := t.TempDir()
	cfg.TLSCertFile, cfg.TLSKeyFile, cfg.CAFile = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"), filepath.Join(dir, "ca.crt")
	k.policy = filepath.Join(dir, "policy.yaml")
	cfg.Policy = k.policy
	cfg.DtabStore, cfg.WebhookCertificate, cfg.ProbeNamespace = storeMemory, certificateFile, "tulle-probe"
	serving, err := ca.Server(time.Hour, "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(serving.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string][]byte{
		cfg.TLSCertFile: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: serving.Certificate[0]}),
		cfg.TLSKeyFile:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
		cfg.CAFile:      ca.Roots(),
		cfg.Policy:      []byte("service: {totalTimeoutMs: soon}"), // wrong, which keeps nothing else from working
	} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}

	core := fake.NewClientset()
	core.PrependReactor("create", "tokenreviews", func(action clienttesting.Action) (bool, runtime.Object, error) {
		review := action.(clienttesting.CreateAction).GetObject().(*authenticationv1.TokenReview).DeepCopy()
		parts := strings.Split(review.Spec.Token, ",")
		if len(parts) != 3 {
			review.Status.Error = "no such token"
			return true, review, nil
		}
		review.Status = authenticationv1.TokenReviewStatus{Authenticated: true, Audiences: review.Spec.Audiences, User: authenticationv1.UserInfo{
			Username: "system:serviceaccount:" + parts[0] + ":" + parts[1],
			Extra: map[string]authenticationv1.ExtraValue{
				"authentication.kubernetes.io/pod-name": {"pod"}, "authentication.kubernetes.io/node-name": {parts[2]},
			},
		}}
		return true, review, nil
	})
	scheme := metadatafake.NewTestScheme()
	if err := metav1.AddMetaToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	namespace := &metav1.PartialObjectMetadata{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"},
		ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{"tulle.dev/inject": "enabled", corev1.LabelMetadataName: "shop"}},
	}
	certmanager := cmfake.NewClientset()
	k.sign(t, certmanager)

	c, err := newController(cfg, clients{core: core, access: core, metadata: metadatafake.NewSimpleMetadataClient(scheme, namespace), certmanager: certmanager}, slog.New(slog.DiscardHandler), &slog.LevelVar{})
	if err != nil {
		t.Fatal(err)
	}
	c.drain = 500 * time.Millisecond
	var mu sync.Mutex
	listening := make(chan struct{})
	c.listening = func(name, address string) {
		mu.Lock()
		defer mu.Unlock()
		if k.address[name] = address; len(k.address) == 5 {
			close(listening)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.Roots())
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}
	k.client = &http.Client{Transport: transport}
	t.Cleanup(func() {
		cancel()
		for !c.draining.Load() {
			<-time.After(time.Millisecond)
		}
		if status, body := k.get(t, "http", "admin", "/admin/ready"); status != 503 || body != "the controller is stopping\n" {
			t.Errorf("while stopping, ready is %d %q", status, body)
		}
		if status, _ := k.get(t, "http", "namer API", "/api/1/dtabs"); status != 200 {
			t.Errorf("while draining, the namer API answers %d", status)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
		transport.CloseIdleConnections()
	})
	<-listening
	deadline := time.After(10 * time.Second)
	for {
		status, body := k.get(t, "http", "admin", "/admin/ready")
		if status == 200 {
			return k
		}
		select {
		case <-deadline:
			t.Fatalf("not ready: %s", body)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// sign plays cert-manager: it signs every request at once.
func (k *cluster) sign(t *testing.T, client *cmfake.Clientset) {
	t.Helper()
	requests := client.CertmanagerV1().CertificateRequests("tulle")
	watch, err := requests.Watch(context.Background(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for event := range watch.ResultChan() {
			r, ok := event.Object.(*cmapi.CertificateRequest)
			if !ok || event.Type != "ADDED" {
				continue
			}
			r = r.DeepCopy()
			block, _ := pem.Decode(r.Spec.Request)
			csr, err := x509.ParseCertificateRequest(block.Bytes)
			if err != nil {
				t.Error(err)
				continue
			}
			id, err := spiffeid.FromURI(csr.URIs[0])
			if err != nil {
				t.Error(err)
				continue
			}
			if r.Status.Certificate, err = k.ca.Sign(context.Background(), issuer.Order{CSR: csr, ID: id, Duration: r.Spec.Duration.Duration}); err != nil {
				t.Error(err)
				continue
			}
			r.Status.Conditions = []cmapi.CertificateRequestCondition{{
				Type: cmapi.CertificateRequestConditionReady, Status: cmmeta.ConditionTrue, Reason: cmapi.CertificateRequestReasonIssued,
			}}
			if _, err := requests.UpdateStatus(context.Background(), r, metav1.UpdateOptions{}); err != nil {
				t.Error(err)
			}
		}
	}()
	t.Cleanup(func() { watch.Stop(); <-done })
}

func (k *cluster) do(t *testing.T, request *http.Request) (int, string) {
	t.Helper()
	res, err := k.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

func (k *cluster) get(t *testing.T, scheme, server, path string) (int, string) {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, scheme+"://"+k.address[server]+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return k.do(t, r)
}

func TestController(t *testing.T) {
	k := start(t)

	t.Run("admin", func(t *testing.T) {
		if status, body := k.get(t, "http", "admin", "/admin/ping"); status != 200 || body != "pong" {
			t.Errorf("ping: %d %q", status, body)
		}
		_, metrics := k.get(t, "http", "admin", "/metrics")
		for _, want := range []string{"go_goroutines", "process_resident_memory_bytes", "tulle_inject_requests_total", "tulle_controller_certificate_expiry_timestamp_seconds 1",
			"tulle_injector_certificate_expiry_timestamp_seconds 1", "tulle_injector_probe_success 0", `tulle_injector_probe_failures_total{cause="timeout"} 0`,
			"tulle_namer_dtabs 1", "tulle_namer_proxies 0", `tulle_namer_store_errors_total{operation="create"} 0`, `tulle_namer_access_total{result="local"}`,
			`tulle_dtab_admissions_total{result="refused"}`} {
			if !strings.Contains(metrics, want) {
				t.Errorf("no metric %s", want)
			}
		}
	})

	t.Run("pages", func(t *testing.T) {
		for path, want := range map[string]string{
			"/": `<a href="dtab/default">default</a>`, "/dtab/default": "/srv  =&gt; /caller ;\n", "/dtab/delegator.json?path=/svc/web": `{"type":"neg"`,
			"/config.json": `"dtab-store": "memory"`, "/logging.json": `"level": "INFO"`, "/namer_state": `"names": []`, "/metrics": "tulle_namer_dtabs 1", "/admin/ready": "ready\n",
		} {
			if status, body := k.get(t, "http", "pages", path); status != 200 || !strings.Contains(body, want) {
				t.Errorf("%s: %d %s", path, status, body)
			}
		}
	})

	t.Run("namer API", func(t *testing.T) {
		if status, body := k.get(t, "http", "namer API", "/api/1/dtabs"); status != 200 || strings.TrimSpace(body) != `["default"]` {
			t.Errorf("got %d %q", status, body)
		}
		if status, body := k.get(t, "https", "mesh API", "/api/1/dtabs/default"); status != 200 || !strings.Contains(body, `{"prefix":"/svc","dst":"/host"}`) {
			t.Errorf("over TLS: got %d %q", status, body)
		}
	})

	t.Run("webhook", func(t *testing.T) {
		review := `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"1","namespace":"shop","operation":"CREATE",
			"resource":{"version":"v1","resource":"pods"},
			"object":{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web","annotations":{"tulle.dev/mode":"sidecar"}},"spec":{"containers":[{"name":"app","image":"app"}]}}}}`
		r, err := http.NewRequest(http.MethodPost, "https://"+k.address["webhook"]+"/inject", strings.NewReader(review))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		status, body := k.do(t, r)
		var answer admissionv1.AdmissionReview
		if err := json.Unmarshal([]byte(body), &answer); err != nil || status != 200 {
			t.Fatalf("got %d %s, %v", status, body, err)
		}
		// The roots come from the file, in JSON with escaped newlines.
		roots := strings.ReplaceAll(string(k.ca.Roots()), "\n", `\n`)
		for _, want := range []string{"tulle.dev/tulle-proxy:dev", "https://tulle-controller.tulle.svc:4181", strings.TrimSuffix(roots, `\n`)} {
			if !answer.Response.Allowed || !strings.Contains(string(answer.Response.Patch), want) {
				t.Errorf("%s is not in the patch %s", want, answer.Response.Patch)
			}
		}
	})

	t.Run("webhook for dtabs", func(t *testing.T) {
		review := `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"1","namespace":"tulle","name":"default","operation":"CREATE",
			"resource":{"group":"l5d.io","version":"v1alpha1","resource":"dtabs"},
			"object":{"apiVersion":"l5d.io/v1alpha1","kind":"DTab","metadata":{"name":"default"},"dentries":[{"prefix":"/svc","dst":"/host"},{"prefix":"/host","dst":"/srv & "}]}}}`
		r, err := http.NewRequest(http.MethodPost, "https://"+k.address["webhook"]+"/validate-dtab", strings.NewReader(review))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		status, body := k.do(t, r)
		var answer admissionv1.AdmissionReview
		if err := json.Unmarshal([]byte(body), &answer); err != nil || status != 200 {
			t.Fatalf("got %d %s, %v", status, body, err)
		}
		if answer.Response.Allowed || !strings.HasPrefix(answer.Response.Result.Message, "dentries[1].dst: ") || !strings.Contains(answer.Response.Result.Message, "found at '/srv & []'") {
			t.Errorf("got %+v", answer.Response.Result)
		}
	})

	t.Run("policy", func(t *testing.T) {
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(k.ca.Roots())
		proxy, err := namer.New(namer.Config{
			URL: "https://" + k.address["mesh API"], TLS: &tls.Config{RootCAs: roots}, Logger: slog.New(slog.DiscardHandler),
			Token: func() (string, error) { return token("shop", "web", "n1"), nil },
			Hello: api.Hello{Proxy: "web-0", Node: "n1", Mode: api.ModeSidecar, DtabNamespace: "default"},
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		ended := make(chan error, 1)
		go func() { ended <- proxy.Run(ctx) }()
		defer func() { cancel(); <-ended }()
		expect := func(want *string, taken, refused int) {
			t.Helper()
			counts := []string{fmt.Sprintf(`reloads_total{result="ok"} %d`, taken), fmt.Sprintf(`reloads_total{result="failed"} %d`, refused)}
			for {
				_, metrics := k.get(t, "http", "admin", "/metrics")
				got := proxy.Policy().Get()
				if strings.Contains(metrics, counts[0]) && strings.Contains(metrics, counts[1]) && (got == nil) == (want == nil) && (got == nil || got.Text == *want) {
					return
				}
				select {
				case <-ctx.Done():
					t.Fatalf("the policy is %+v, want %v and %q", got, want, counts)
				case <-time.After(20 * time.Millisecond):
				}
			}
		}
		write := func(text string) {
			t.Helper()
			if err := os.WriteFile(k.policy, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		<-proxy.Synced()
		expect(nil, 0, 1)
		for i, text := range []string{"", "service: {totalTimeoutMs: 900}"} {
			write(text)
			expect(&text, i+1, i+1)
			write("service: {totalTimeoutMs: -1}")
			expect(&text, i+1, i+2)
		}
	})

	t.Run("certificate", func(t *testing.T) {
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(k.ca.Roots())
		id := spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/web")
		source, err := certs.New(certs.Config{
			URL: "https://" + k.address["mesh API"], TLS: &tls.Config{RootCAs: roots}, ID: id,
			Token: func() (string, error) { return token("shop", "web", "n1"), nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- source.Run(ctx) }()
		select {
		case <-source.Ready():
		case <-time.After(10 * time.Second):
			_, err := source.GetX509SVID()
			t.Error(err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})

	for name, c := range map[string]struct {
		token, hello string
		status       int
		want         string
	}{
		"sidecar":         {token("shop", "web", "n1"), `{"proxy":"web-0","node":"n1","mode":"sidecar","dtabNamespace":"default"}`, 200, `{"dtab":{"text":"/srv=>/caller;/host=>/srv;/svc=>/host"`},
		"host":            {token("tulle", "tulle-host", "n1"), `{"proxy":"tulle-host-0","node":"n1","mode":"host","dtabNamespace":"default"}`, 200, `{"dtab":{`},
		"host elsewhere":  {token("tulle", "tulle-host", "n1"), `{"proxy":"tulle-host-0","node":"n2","mode":"host","dtabNamespace":"default"}`, 403, `the host proxy of node \"n1\" asks for the pods of node \"n2\"`},
		"app as host":     {token("shop", "web", "n1"), `{"proxy":"web-0","node":"n1","mode":"host","dtabNamespace":"default"}`, 403, "which only the host proxies' tulle/tulle-host may"},
		"without a token": {"none", `{"proxy":"web-0","node":"n1","mode":"sidecar","dtabNamespace":"default"}`, 401, "the token is not accepted: no such token"},
	} {
		t.Run("watch as "+name, func(t *testing.T) {
			up, write := io.Pipe()
			defer func() { _ = write.Close() }()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			r, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+k.address["mesh API"]+api.WatchPath, up)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Authorization", "Bearer "+c.token)
			go func() { _, _ = fmt.Fprintf(write, "{\"hello\":%s}\n", c.hello) }()
			res, err := k.client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = res.Body.Close() }()
			if res.StatusCode != c.status || res.ProtoMajor != 2 {
				t.Errorf("got %s in %s", res.Status, res.Proto)
			}
			lines := bufio.NewScanner(res.Body)
			for lines.Scan() {
				if strings.Contains(lines.Text(), c.want) {
					return
				}
			}
			t.Errorf("%q did not come", c.want)
		})
	}
}

func TestPortsThatAreTaken(t *testing.T) {
	cfg := DefaultConfig()
	cfg.WebhookAddress, cfg.NamerAddress, cfg.MeshAddress, cfg.AdminAddress = "127.0.0.1:0", "127.0.0.1:-1", "127.0.0.1:0", "127.0.0.1:-2"
	cfg.DtabStore, cfg.PagesAddress = storeMemory, ""
	c, err := newController(cfg, clients{core: fake.NewClientset(), access: fake.NewClientset(), metadata: metadatafake.NewSimpleMetadataClient(metadatafake.NewTestScheme()), certmanager: cmfake.NewClientset()}, slog.New(slog.DiscardHandler), &slog.LevelVar{})
	if err != nil {
		t.Fatal(err)
	}
	err = c.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "listen for the namer API") || !strings.Contains(err.Error(), "listen for the admin") {
		t.Errorf("got %v", err)
	}
}
