//go:build e2e

package hostpolicy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/e2e/cluster"
	"github.com/tulle-mesh/tulle/e2e/cluster/apitest"
	"github.com/tulle-mesh/tulle/webhook"
	"github.com/tulle-mesh/tulle/webhook/hostpolicy"
)

// api is the API server of all tests; TestMain sets it.
var api *cluster.API

func TestMain(m *testing.M) {
	os.Exit(apitest.Run(m, &api, func(ctx context.Context) (*cluster.API, error) { return cluster.StartAPI(ctx, cluster.Options{}) }))
}

// patience is how long tests wait for what takes milliseconds on a machine that is idle.
const patience = time.Minute

// mesh is one configuration of the injector, with its policies in the API server.
type mesh struct {
	cfg    webhook.Config
	client kubernetes.Interface
	bare   string // a namespace without labels, where nothing is done to pods
	home   string // one that is enabled
	labels map[string]string
}

// tester is *testing.T and *rapid.T.
type tester interface {
	Helper()
	Fatalf(format string, args ...any)
}

// client returns one that is not slowed down.
func client(t *testing.T) kubernetes.Interface {
	t.Helper()
	config := rest.CopyConfig(api.RESTConfig())
	config.QPS, config.Burst = 1000, 1000
	config.WarningHandler = rest.NoWarnings{}
	c, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return c
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

// apply makes or replaces objects, and removes them after the test.
func apply(t *testing.T, objects ...runtime.Object) {
	t.Helper()
	var text strings.Builder
	for _, o := range objects {
		doc, err := yaml.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&text, "---\n%s", doc)
	}
	if _, err := api.Kubectl(t.Context(), strings.NewReader(text.String()), "apply", "--server-side", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := api.Kubectl(context.WithoutCancel(t.Context()), strings.NewReader(text.String()), "delete", "-f", "-"); err != nil {
			t.Error(err)
		}
	})
}

// eventually waits until is holds.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-ctx.Done():
			t.Fatalf("waited %s in vain: %s", patience, what)
		case <-tick.C:
		}
	}
}

// create has the API server make a pod, up to the point where it would store it.
func create(ctx context.Context, c kubernetes.Interface, ns string, pod []byte) (*corev1.Pod, error) {
	out := &corev1.Pod{}
	err := c.CoreV1().RESTClient().Post().Namespace(ns).Resource("pods").
		VersionedParams(&metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}, metav1.ParameterCodec).
		SetHeader("Content-Type", "application/json").Body(pod).Do(ctx).Into(out)
	if err != nil {
		return nil, err
	}
	return out, nil
}

// same brings two answers of the API server into a form in which they can be compared.
func same(pod *corev1.Pod) string {
	pod = pod.DeepCopy()
	pod.Name, pod.Namespace, pod.UID, pod.ManagedFields, pod.CreationTimestamp = "", "", "", nil, metav1.Time{}
	text, err := json.MarshalIndent(pod, "", " ")
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// start puts the policies of cfg into the API server, for a namespace with labels.
func start(t *testing.T, cfg webhook.Config, labels map[string]string) *mesh {
	t.Helper()
	objects, err := hostpolicy.Generate(cfg)
	if err != nil {
		t.Fatal(err)
	}
	apply(t, objects...)
	m := &mesh{cfg: cfg, client: client(t), bare: namespace(t, nil), home: namespace(t, labels), labels: labels}
	probe := []byte(`{"metadata":{"name":"probe","annotations":{"tulle.dev/mode":"host"}},"spec":{"containers":[{"name":"app","image":"app"}]}}`)
	_, want := m.byWebhook(t, probe)
	eventually(t, "the policy is in force", func() bool {
		got, err := create(t.Context(), m.client, m.home, probe)
		return err == nil && same(got) == same(want.pod)
	})
	return m
}

// verdict is what came of a pod.
type verdict struct {
	pod *corev1.Pod // nil if it was refused
	err error
	res webhook.Result // of the webhook
}

// byWebhook does what the webhook does with a pod, which it gets as the API server has read it. The first result is
// the pod as it was read, nil if that is no pod.
func (m *mesh) byWebhook(t tester, raw []byte) (read *corev1.Pod, v verdict) {
	t.Helper()
	ctx := context.Background()
	read, err := create(ctx, m.client, m.bare, raw)
	if err != nil {
		return nil, verdict{err: err}
	}
	text := asked(t, read)
	if v.res, err = webhook.Inject(text, webhook.Namespace{Name: m.home, Labels: m.labels}, m.cfg); err != nil {
		t.Fatalf("inject: %v", err)
	}
	if v.res.Reason.Denies() {
		v.err = errors.New(v.res.Message)
		return read, v
	}
	v.pod, v.err = create(ctx, m.client, m.bare, patched(t, text, v.res.Patch))
	return read, v
}

// byPolicy has the API server do it.
func (m *mesh) byPolicy(raw []byte) verdict {
	pod, err := create(context.Background(), m.client, m.home, raw)
	return verdict{pod: pod, err: err}
}

// asked is a pod as a webhook sees it.
func asked(t tester, pod *corev1.Pod) []byte {
	t.Helper()
	pod = pod.DeepCopy()
	pod.Namespace, pod.UID, pod.ManagedFields, pod.CreationTimestamp = "", "", nil, metav1.Time{}
	text, err := json.Marshal(pod)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return text
}

func patched(t tester, pod, patch []byte) []byte {
	t.Helper()
	if patch == nil {
		return pod
	}
	p, err := jsonpatch.DecodePatch(patch)
	if err != nil {
		t.Fatalf("%v", err)
	}
	if pod, err = p.Apply(pod); err != nil {
		t.Fatalf("%v", err)
	}
	return pod
}

func isRefusal(err error) bool {
	return apierrors.IsInvalid(err) || apierrors.IsForbidden(err) || apierrors.IsBadRequest(err)
}
