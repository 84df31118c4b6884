//go:build e2e

package admission

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/tulle-mesh/tulle/e2e/chart"
	"github.com/tulle-mesh/tulle/e2e/cluster"
	"github.com/tulle-mesh/tulle/e2e/cluster/apitest"
	"github.com/tulle-mesh/tulle/e2e/cluster/suite"
	"github.com/tulle-mesh/tulle/internal/run"
	"github.com/tulle-mesh/tulle/webhook"
	"github.com/tulle-mesh/tulle/webhook/serving"
	"github.com/tulle-mesh/tulle/webhook/settings"
)

// api is the API server of all tests; TestMain sets it.
var api *cluster.API

func TestMain(m *testing.M) {
	os.Exit(apitest.Run(m, &api, func(ctx context.Context) (*cluster.API, error) { return cluster.StartAPI(ctx, cluster.Options{}) }))
}

// roots is what sidecars would trust the controller by.
const roots = "-----BEGIN CERTIFICATE-----\nMAo=\n-----END CERTIFICATE-----\n"

// patience is how long tests wait for what takes milliseconds on a machine that is idle.
const patience = time.Minute

// mesh is what the chart puts into the API server for the injector, in a namespace of its own. As the names of the
// webhook configurations are the chart's, there is one mesh at a time.
type mesh struct {
	namespace string
	settings  settings.Settings
	config    *rest.Config // with the controller's rights
}

// install applies what the chart has for the injector, and takes it away after the test.
func install(t *testing.T, values map[string]any) *mesh {
	t.Helper()
	ns, err := api.Client().CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "mesh-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m := &mesh{namespace: ns.Name, config: api.RESTConfig()}
	m.config.Impersonate.UserName = "system:serviceaccount:" + m.namespace + ":tulle-controller"
	m.config.Impersonate.Groups = []string{"system:serviceaccounts", "system:authenticated"}
	m.config.QPS, m.config.Burst = 100, 200
	m.apply(t, values)
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		for _, name := range configurations() {
			if err := api.Client().AdmissionregistrationV1().MutatingWebhookConfigurations().Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
				t.Error(err)
			}
		}
	})
	return m
}

func configurations() []string { return []string{"tulle-injector", "tulle-dtabs"} }

// apply renders the chart and applies it, as an upgrade does.
func (m *mesh) apply(t *testing.T, values map[string]any) {
	t.Helper()
	m.applyAs(t, values, "--server-side", "--field-manager=helm")
}

// applyAs is apply with arguments for kubectl apply.
func (m *mesh) applyAs(t *testing.T, values map[string]any, args ...string) {
	t.Helper()
	objects := chart.Render(t, m.namespace, values)
	var err error
	if m.settings, err = settings.Parse("controller.yaml", objects.Settings(t)); err != nil {
		t.Fatal(err)
	}
	text := objects.Only(func(o chart.Object) bool {
		switch o.Kind {
		case "Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "Service",
			"MutatingWebhookConfiguration", "MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding":
			return true
		}
		return false
	})
	if _, err := api.Kubectl(t.Context(), strings.NewReader(text), append([]string{"apply", "-f", "-"}, args...)...); err != nil {
		t.Fatal(err)
	}
}

// namespace makes a namespace with labels, for pods.
func namespace(t *testing.T, labels map[string]string) string {
	t.Helper()
	n, err := api.Client().CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "t-", Labels: labels}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return n.Name
}

// replica is one replica of the injector, which the mesh's Service leads to while it is ready.
type replica struct {
	certificate *serving.Certificate
	metrics     *prometheus.Registry
	address     netip.AddrPort
	calls       atomic.Int64
	stop        func()
}

// start starts a replica. The configuration says how its certificate is made.
func (m *mesh) start(t *testing.T, name string, config serving.Config) *replica {
	t.Helper()
	log := suite.Logger(t)
	client, err := kubernetes.NewForConfig(m.config)
	if err != nil {
		t.Fatal(err)
	}
	r := &replica{metrics: prometheus.NewRegistry()}
	config.REST, config.Client, config.Namespace, config.Secret = m.config, client, m.namespace, "tulle-webhook-ca"
	config.DNSNames, config.Configurations = []string{"tulle-controller." + m.namespace + ".svc"}, configurations()
	config.Registerer, config.Logger = r.metrics, log
	if r.certificate, err = serving.New(config); err != nil {
		t.Fatal(err)
	}
	injector := m.injector(t, r.metrics)
	address := address(t)
	listener, err := net.Listen("tcp", net.JoinHostPort(address.String(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: 5 * time.Second, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug), Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		r.calls.Add(1)
		injector.ServeHTTP(w, q)
	})}
	stop := suite.Go(t, func(ctx context.Context) error {
		return run.Group(ctx, run.Config{Logger: log},
			run.Component{Name: "certificate", Run: r.certificate.Run},
			run.Component{Name: "webhook", Run: run.HTTPS(server, listener, &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: r.certificate.GetCertificate}, 10*time.Second)})
	})
	await(t, "the replica to be ready", func(context.Context) (bool, string) { why := r.certificate.NotReady(); return why == "", why })
	r.address = listener.Addr().(*net.TCPAddr).AddrPort()
	m.endpoint(t, name, r.address)
	r.stop = func() {
		m.endpoint(t, name, netip.AddrPort{})
		stop()
	}
	return r
}

// injector returns the injector alone.
func (m *mesh) injector(t *testing.T, metrics prometheus.Registerer) http.Handler {
	t.Helper()
	injector, err := webhook.NewServer(webhook.ServerConfig{
		Config: func() webhook.Config { return m.settings.Config(roots) },
		Namespace: func(ctx context.Context, name string) (webhook.Namespace, error) {
			n, err := api.Client().CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return webhook.Namespace{}, err
			}
			return webhook.Namespace{Name: name, Labels: n.Labels, Annotations: n.Annotations}, nil
		},
		Registerer: metrics, Logger: suite.Logger(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	return injector
}

// endpoint says where a replica is, in place of Kubernetes' own controllers; an invalid address takes it out.
func (m *mesh) endpoint(t *testing.T, name string, at netip.AddrPort) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	slices := api.Client().DiscoveryV1().EndpointSlices(m.namespace)
	if !at.IsValid() {
		if err := slices.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
		return
	}
	port, portName, ready := int32(at.Port()), "webhook", true
	if _, err := slices.Create(ctx, &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: "tulle-controller"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{at.Addr().Unmap().String()}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}},
		Ports:       []discoveryv1.EndpointPort{{Name: &portName, Port: &port}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// address returns one of this machine's that endpoints of a Service may have, which loopback's may not.
func address(t *testing.T) netip.Addr {
	t.Helper()
	a, err := cluster.OwnAddress()
	if err != nil {
		t.Skip(err)
	}
	return a
}

// await waits until a condition holds; the text says what there is instead.
func await(t *testing.T, what string, holds func(context.Context) (bool, string)) {
	t.Helper()
	awaitFor(t, patience, what, holds)
}

// awaitFor is await with another patience, for what is more work.
func awaitFor(t *testing.T, patience time.Duration, what string, holds func(context.Context) (bool, string)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		ok, is := holds(ctx)
		if ok {
			return
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			t.Fatalf("waited in vain for %s: %s", what, is)
		}
	}
}

// app is a pod that Pod Security's "restricted" admits.
func app() *corev1.Pod {
	yes, no := true, false
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "app-"}, Spec: corev1.PodSpec{
		SecurityContext: &corev1.PodSecurityContext{RunAsNonRoot: &yes, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
		Containers: []corev1.Container{{Name: "app", Image: "app", SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}}}},
	}}
}

// admit has the API server admit a pod, which it does not store, and says what is wrong.
func admit(ctx context.Context, namespace string) error {
	pod, err := api.Client().CoreV1().Pods(namespace).Create(ctx, app(), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	if err != nil {
		return err
	}
	if mode := pod.Labels[webhook.LabelMode]; mode != "host" {
		return fmt.Errorf("the pod's mode is %q", mode)
	}
	if len(pod.Spec.Containers[0].Env) == 0 {
		return errors.New("the pod has no environment")
	}
	return nil
}
