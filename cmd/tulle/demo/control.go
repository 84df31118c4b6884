package demo

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tulle-mesh/tulle/certs"
	"github.com/tulle-mesh/tulle/certs/issuer"
	"github.com/tulle-mesh/tulle/internal/run"
	"github.com/tulle-mesh/tulle/naming/dns"
	"github.com/tulle-mesh/tulle/naming/kubernetes"
	"github.com/tulle-mesh/tulle/naming/namer"
	"github.com/tulle-mesh/tulle/naming/namer/api"
	"github.com/tulle-mesh/tulle/naming/registry"
	"github.com/tulle-mesh/tulle/webhook"
)

const (
	trustDomain = "cluster.local"
	// baseDtab is that of the chart.
	baseDtab = "/srv => /caller ; /host => /srv ; /svc => /host"
)

// control is the control plane: the parts of tulle-controller over what the
// demo plays instead of Kubernetes and cert-manager.
type control struct {
	namespaces map[string]webhook.Namespace
	index      *kubernetes.Index
	ca         *issuer.Local
	inject     *http.Client

	listeners struct{ namer, mesh, webhook net.Listener }
	servers   []run.Component
}

// newControl opens the ports of the control plane. callers are those who may
// ask for certificates, see token.
func newControl(p *plan, namespaces map[string]webhook.Namespace, callers []issuer.Caller) (_ *control, err error) {
	c := &control{namespaces: namespaces}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	tokens := map[string]issuer.Caller{}
	for _, caller := range callers {
		tokens[token(caller.Namespace, caller.Pod)] = caller
	}
	hostID, err := certs.Identity(spiffeid.RequireTrustDomainFromString(trustDomain), "tulle", "tulle-host")
	if err != nil {
		return nil, err
	}
	_, hostPorts := p.host(0)
	c.index, err = kubernetes.NewIndex(kubernetes.Config{TrustDomain: trustDomain, HostProxyIdentity: hostID.String(), HostIncomingPort: hostPorts.incoming})
	if err != nil {
		return nil, err
	}
	if c.ca, err = issuer.NewLocal(24 * time.Hour); err != nil {
		return nil, err
	}
	serving, err := c.ca.Server(24*time.Hour, "127.0.0.1")
	if err != nil {
		return nil, err
	}
	tlsConfig := &tls.Config{Certificates: []tls.Certificate{serving}, MinVersion: tls.VersionTLS13}
	if err := c.listen(); err != nil {
		return nil, err
	}

	silent := slog.New(slog.DiscardHandler)
	store, err := namer.NewMemory(map[string]string{"default": baseDtab})
	if err != nil {
		return nil, err
	}
	accounts := issuer.NewStaticTokens(tokens)
	identity, err := issuer.New(issuer.Config{
		TrustDomain: spiffeid.RequireTrustDomainFromString(trustDomain), Authenticator: accounts,
		Signer: c.ca, Roots: c.ca.Roots, Duration: time.Hour, Logger: silent,
	})
	if err != nil {
		return nil, err
	}
	admission, err := webhook.NewServer(webhook.ServerConfig{
		Config: c.injection,
		Namespace: func(_ context.Context, name string) (webhook.Namespace, error) {
			return c.namespaces[name], nil
		},
		Registerer: prometheus.NewRegistry(), Logger: silent,
	})
	if err != nil {
		return nil, err
	}
	names, err := registry.New(registry.Config{
		Namers: registry.Default(), Logger: silent,
		Source: registry.Leaves{Kubernetes: c.index.Replicas, Hosts: dns.New(dns.Config{})},
	})
	if err != nil {
		return nil, err
	}
	seen := &namer.Seen{}
	mesh := http.NewServeMux()
	mesh.Handle("POST "+certs.Path, identity)
	mesh.Handle("POST "+api.WatchPath, namer.NewStream(namer.StreamConfig{
		Store: store, Source: c.index, Seen: seen, Logger: silent,
		Admit: func(r *http.Request) (namer.Guest, error) {
			caller, err := issuer.Authenticate(accounts, r)
			return namer.Guest{Name: caller.Namespace + "/" + caller.ServiceAccount}, err
		},
	}))
	server := func(h http.Handler) *http.Server {
		s := &http.Server{ReadHeaderTimeout: 5 * time.Second, ErrorLog: slog.NewLogLogger(silent.Handler(), slog.LevelError)}
		s.Handler = run.Streams(s, h)
		return s
	}
	c.servers = []run.Component{
		{Name: "namer", Run: run.HTTP(server(namer.NewAPI(namer.APIConfig{Store: store, Registry: names, Seen: seen, Logger: silent})), c.listeners.namer, time.Second)},
		{Name: "names", Run: names.Run},
		{Name: "mesh API", Run: run.HTTPS(server(mesh), c.listeners.mesh, tlsConfig.Clone(), time.Second)},
		{Name: "injector", Run: run.HTTPS(server(admission), c.listeners.webhook, tlsConfig.Clone(), time.Second)},
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(c.ca.Roots())
	c.inject = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}, Timeout: 10 * time.Second}
	return c, nil
}

func (c *control) listen() (err error) {
	if c.listeners.namer, err = net.Listen("tcp", namerAddress); err != nil {
		return taken(namerAddress)
	}
	if c.listeners.mesh, err = net.Listen("tcp", "127.0.0.1:0"); err == nil {
		c.listeners.webhook, err = net.Listen("tcp", "127.0.0.1:0")
	}
	return err
}

// close closes the ports of a control plane that never ran; its servers close
// theirs.
func (c *control) close() {
	for _, l := range []net.Listener{c.listeners.namer, c.listeners.mesh, c.listeners.webhook} {
		if l != nil {
			_ = l.Close()
		}
	}
}

// injection is the injector's configuration. A sidecar listens on its pod's
// address: on loopback all pods share 127.0.0.1, which would be its own in a pod.
func (c *control) injection() webhook.Config {
	return webhook.Config{
		ProxyImage:     "tulle.dev/tulle-proxy:demo",
		ControllerURL:  "https://" + c.listeners.mesh.Addr().String(),
		ControllerCA:   string(c.ca.Roots()),
		TrustDomain:    trustDomain,
		SidecarAddress: "$(TULLE_POD_IP)",
		ListenAddress:  "$(TULLE_POD_IP)",
	}
}

// admit passes a pod through the webhook, as the API server would, and returns
// the patched pod.
func (c *control) admit(ctx context.Context, pod *corev1.Pod) (*corev1.Pod, error) {
	raw, err := json.Marshal(pod)
	if err != nil {
		return nil, err
	}
	review := admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"},
		Request: &admissionv1.AdmissionRequest{
			UID: types.UID(pod.Name), Kind: metav1.GroupVersionKind{Version: "v1", Kind: "Pod"},
			Resource:  metav1.GroupVersionResource{Version: "v1", Resource: "pods"},
			Namespace: pod.Namespace, Name: pod.Name, Operation: admissionv1.Create,
			Object: runtime.RawExtension{Raw: raw},
		},
	}
	body, err := json.Marshal(review)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+c.listeners.webhook.Addr().String()+"/inject", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := c.inject.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the injector: %w", err)
	}
	defer func() { _ = res.Body.Close() }()
	if body, err = io.ReadAll(res.Body); err != nil {
		return nil, fmt.Errorf("ask the injector: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the injector answers %s: %s", res.Status, body)
	}
	review = admissionv1.AdmissionReview{}
	if err := json.Unmarshal(body, &review); err != nil || review.Response == nil {
		return nil, fmt.Errorf("the injector's answer is no AdmissionReview: %s", body)
	}
	if !review.Response.Allowed {
		return nil, fmt.Errorf("the injector denies pod %s: %s", pod.Name, review.Response.Result.Message)
	}
	if len(review.Response.Patch) > 0 {
		patch, err := jsonpatch.DecodePatch(review.Response.Patch)
		if err != nil {
			return nil, fmt.Errorf("the injector's patch: %w", err)
		}
		if raw, err = patch.Apply(raw); err != nil {
			return nil, fmt.Errorf("apply the injector's patch: %w", err)
		}
	}
	patched := &corev1.Pod{}
	return patched, json.Unmarshal(raw, patched)
}

// token is the service-account token of a pod.
func token(namespace, pod string) string { return "demo-" + namespace + "-" + pod }
