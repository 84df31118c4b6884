package serving

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// calling is what an API server says when it cannot call the webhook.
func calling(cause string) error {
	return apierrors.NewInternalError(errors.New(`failed calling webhook "inject.tulle.dev": failed to call webhook: Post "https://tulle-controller.tulle.svc:443/inject?timeout=5s": ` + cause))
}

func TestClassify(t *testing.T) {
	pods := schema.GroupResource{Resource: "pods"}
	for _, c := range []struct {
		err  error
		want Cause
	}{
		{nil, ""},
		{calling("context deadline exceeded"), CauseTimeout},
		{calling("net/http: request canceled while waiting for connection (Client.Timeout exceeded while awaiting headers)"), CauseTimeout},
		{calling("dial tcp 10.0.0.7:8443: i/o timeout"), CauseTimeout},
		{calling("dial tcp 10.0.0.7:8443: connect: no route to host"), CauseTimeout},
		{calling("dial tcp 10.0.0.7:8443: connect: connection refused"), CauseRefused},
		{calling("EOF"), CauseRefused},
		{calling("tls: failed to verify certificate: x509: certificate signed by unknown authority"), CauseCertificate},
		{calling(`no endpoints available for service "tulle-controller"`), CauseNoEndpoint},
		{calling(`service "tulle-controller" not found`), CauseNoEndpoint},
		{calling("the server is currently unable to handle the request"), CauseWebhook},
		{apierrors.NewBadRequest(`admission webhook "inject.tulle.dev" denied the request: no`), CauseDenied},
		{apierrors.NewForbidden(pods, "", errors.New(`User "a" cannot create resource "pods"`)), CauseForbidden},
		{apierrors.NewForbidden(pods, "probe-1", errors.New(`violates PodSecurity "restricted:latest"`)), CauseRejected},
		{apierrors.NewBadRequest(`admission webhook "validate.example.com" denied the request: image`), CauseRejected},
		{apierrors.NewForbidden(pods, "probe-1", errors.New("ValidatingAdmissionPolicy 'images' with binding 'all' denied request: image")), CauseRejected},
		{apierrors.NewInternalError(errors.New(`failed calling webhook "validate.example.com": EOF`)), CauseRejected},
		{apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, "tulle-probe"), CauseNamespace},
		{apierrors.NewTooManyRequestsError("later"), CauseAPI},
		{apierrors.NewConflict(pods, "a", errors.New("odd")), CauseOther},
		{errors.New("dial tcp 10.96.0.1:443: connect: connection refused"), CauseAPI},
		{context.DeadlineExceeded, CauseAPI},
	} {
		if got := classify(c.err); got != c.want {
			t.Errorf("%v: got %q, want %q", c.err, got, c.want)
		}
	}
}

// A probe every minute; the log tells of changes alone.
func TestProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, registry, log := fake.NewClientset(), prometheus.NewRegistry(), &bytes.Buffer{}
		answers := make(chan func(*corev1.Pod) error)
		client.PrependReactor("create", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
			pod := a.(clienttesting.CreateAction).GetObject().(*corev1.Pod).DeepCopy()
			if a.GetNamespace() != "tulle-probe" {
				t.Errorf("a pod in namespace %s", a.GetNamespace())
			}
			return true, pod, (<-answers)(pod)
		})
		p, err := NewProbe(ProbeConfig{Client: client, Namespace: "tulle-probe", Registerer: registry, Logger: slog.New(slog.NewTextHandler(log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := p.Last(); ok {
			t.Error("a probe that was not")
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- p.Run(ctx) }()
		injected := func(pod *corev1.Pod) error {
			pod.Labels[labelMode] = "host"
			return nil
		}
		for i, step := range []struct {
			answer func(*corev1.Pod) error
			cause  Cause
		}{
			{injected, ""},
			{func(*corev1.Pod) error { return calling("context deadline exceeded") }, CauseTimeout},
			{func(*corev1.Pod) error { return calling("context deadline exceeded") }, CauseTimeout},
			{func(*corev1.Pod) error { return nil }, CauseNotInjected},
			{injected, ""},
		} {
			began := time.Now()
			answers <- step.answer
			if i > 0 && time.Since(began).Round(Every/5) != Every {
				t.Errorf("probe %d comes after %s", i, time.Since(began))
			}
			synctest.Wait()
			if o, ok := p.Last(); !ok || o.Cause != step.cause || (o.Message == "") != (step.cause == "") {
				t.Errorf("probe %d found %+v", i, o)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if warned, again := strings.Count(log.String(), "a probe failed"), strings.Count(log.String(), "injected again"); warned != 2 || again != 1 || !strings.Contains(log.String(), "firewall") {
			t.Errorf("%d warnings, %d times again:\n%s", warned, again, log)
		}
		if err := testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP tulle_injector_probe_success Whether the last probe of the injector got its pod injected; 0 before the first one.
# TYPE tulle_injector_probe_success gauge
tulle_injector_probe_success 1
`), "tulle_injector_probe_success"); err != nil {
			t.Error(err)
		}
	})
}

func TestHints(t *testing.T) {
	for _, c := range Causes() {
		if (c.Hint() == "") != (c == CauseWebhook || c == CauseDenied || c == CauseAPI || c == CauseOther) {
			t.Errorf("%s: hint %q", c, c.Hint())
		}
	}
}
