package breakglass

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
	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/tulle-mesh/tulle/webhook/drift"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func configuration(annotations map[string]string, policy admissionv1.FailurePolicyType) *admissionv1.MutatingWebhookConfiguration {
	other, same := admissionv1.Ignore, policy
	return &admissionv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: Configuration, Annotations: annotations},
		Webhooks:   []admissionv1.MutatingWebhook{{Name: "best-effort.inject.tulle.dev", FailurePolicy: &other}, {Name: Entry, FailurePolicy: &same}},
	}
}

func keeper(t *testing.T, client *fake.Clientset, log *bytes.Buffer, pods ...drift.Pod) (*Keeper, *prometheus.Registry) {
	t.Helper()
	registry := prometheus.NewRegistry()
	k, err := NewKeeper(KeeperConfig{
		Client: client, Registerer: registry, Logger: slog.New(slog.NewTextHandler(log, nil)),
		Drifted: func(context.Context) ([]drift.Pod, error) { return pods, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	return k, registry
}

func open(t *testing.T, registry *prometheus.Registry, want string) {
	t.Helper()
	if err := testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP tulle_injector_breakglass_open Whether break-glass is open: pods of namespaces that are enabled start without the mesh while the injector does not answer.
# TYPE tulle_injector_breakglass_open gauge
tulle_injector_breakglass_open `+want+"\n")); err != nil {
		t.Error(err)
	}
}

// It is open until its time, to the second, and what was made meanwhile is told.
func TestKeeper(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, log := fake.NewClientset(configuration(map[string]string{"other": "stays"}, admissionv1.Fail)), &bytes.Buffer{}
		made := time.Now().Add(10 * time.Minute)
		pods := []drift.Pod{
			{Namespace: "shop", Name: "before", Kind: drift.Escaped, Created: time.Now().Add(-time.Hour)},
			{Namespace: "shop", Name: "meanwhile", Kind: drift.Escaped, Created: made},
			{Namespace: "shop", Name: "stale", Kind: drift.Stale, Created: made},
		}
		k, registry := keeper(t, client, log, pods...)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- k.Run(ctx) }()
		pass := func(d time.Duration) { time.Sleep(d); synctest.Wait() }
		pass(time.Minute)
		open(t, registry, "0")
		s, err := Open(ctx, client, Request{By: "eve", Reason: "INC-7", For: 15*time.Minute + time.Second})
		if err != nil {
			t.Fatal(err)
		}
		pass(every)
		open(t, registry, "1")
		pass(time.Until(s.Open.Until) - time.Millisecond)
		open(t, registry, "1")
		pass(200 * time.Millisecond)
		open(t, registry, "0")
		s, err = Read(ctx, client)
		if err != nil || s.Policy != admissionv1.Fail || s.Open != nil || s.Last == nil || s.Last.Reason != "INC-7" {
			t.Errorf("closed: %+v, %v", s, err)
		}
		c, err := client.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(ctx, Configuration, metav1.GetOptions{})
		if err != nil || len(c.Annotations) != 2 || c.Annotations["other"] != "stays" || *c.Webhooks[0].FailurePolicy != admissionv1.Ignore {
			t.Errorf("the rest: %+v, %v", c, err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if text := log.String(); !strings.Contains(text, "1 pods slipped through") || !strings.Contains(text, "shop/meanwhile") || strings.Contains(text, "shop/before") {
			t.Errorf("the log:\n%s", text)
		}
	})
}

// What cannot be read does not keep it open, nor does a controller that was away for days.
func TestOverdue(t *testing.T) {
	stamp := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(time.RFC3339) }
	for name, c := range map[string]struct {
		since, until string
		policy       admissionv1.FailurePolicyType
		overdue      bool
	}{
		"open":             {stamp(-time.Minute), stamp(time.Minute), admissionv1.Ignore, false},
		"long over":        {stamp(-72 * time.Hour), stamp(-48 * time.Hour), admissionv1.Ignore, true},
		"set back":         {stamp(-time.Minute), stamp(time.Minute), admissionv1.Fail, true},
		"no time":          {stamp(-time.Minute), "tomorrow", admissionv1.Ignore, true},
		"nothing is right": {"x", "y", admissionv1.Ignore, true},
		"no beginning":     {"", stamp(time.Hour), admissionv1.Ignore, true},
	} {
		t.Run(name, func(t *testing.T) {
			client := fake.NewClientset(configuration(map[string]string{annotationSince: c.since, annotationUntil: c.until, annotationBy: "eve"}, c.policy))
			s, err := Read(t.Context(), client)
			if err != nil || s.Open == nil || s.Overdue(time.Now()) != c.overdue {
				t.Fatalf("got %+v, %v", s.Open, err)
			}
			k, registry := keeper(t, client, &bytes.Buffer{})
			if err := k.look(t.Context()); err != nil {
				t.Fatal(err)
			}
			if s, err = Read(t.Context(), client); err != nil || (s.Open == nil) != c.overdue || c.overdue && s.Policy != admissionv1.Fail {
				t.Errorf("then %+v, %v", s, err)
			}
			open(t, registry, map[bool]string{true: "0", false: "1"}[c.overdue])
		})
	}
}

// Whatever fails behind a change, it is told that it was made.
func TestToldWhateverFailsAfter(t *testing.T) {
	client := fake.NewClientset(configuration(nil, admissionv1.Fail))
	reads := 0
	client.PrependReactor("get", "mutatingwebhookconfigurations", func(clienttesting.Action) (bool, runtime.Object, error) {
		reads++
		return reads > 1, nil, errors.New("the API server is gone")
	})
	s, err := Open(t.Context(), client, Request{By: "eve", Reason: "INC-7", For: time.Hour})
	if !s.Active() || err == nil || !strings.Contains(err.Error(), "is changed, but") || !strings.Contains(err.Error(), "is gone") {
		t.Errorf("opened: %+v, %v", s, err)
	}
	reads = 0
	s, ended, err := Close(t.Context(), client)
	if s.Active() || s.Last == nil || s.Last.Reason != "INC-7" || !ended || err == nil {
		t.Errorf("closed: %+v, %v, %v", s, ended, err)
	}
	reads = 1
	if s, err = Open(t.Context(), client, Request{By: "eve", Reason: "INC-8", For: time.Hour}); s.Active() || err == nil || strings.Contains(err.Error(), "is changed") {
		t.Errorf("not opened: %+v, %v", s, err)
	}
}

func TestRefused(t *testing.T) {
	client := fake.NewClientset(configuration(nil, admissionv1.Fail))
	for _, r := range []Request{{By: "eve", Reason: "x", For: Longest + time.Second}, {By: "eve", Reason: "x"}, {By: "eve", For: time.Hour}} {
		if _, err := Open(t.Context(), client, r); err == nil {
			t.Errorf("%+v is taken", r)
		}
	}
	if s, err := Read(t.Context(), client); err != nil || s.Open != nil || s.Policy != admissionv1.Fail {
		t.Errorf("got %+v, %v", s, err)
	}
	none := fake.NewClientset()
	if _, err := Open(t.Context(), none, Request{By: "eve", Reason: "x", For: time.Hour}); !errors.Is(err, ErrNotInstalled) {
		t.Errorf("without a webhook: %v", err)
	}
	k, registry := keeper(t, none, &bytes.Buffer{})
	if err := k.look(t.Context()); err != nil {
		t.Errorf("without a webhook: %v", err)
	}
	open(t, registry, "0")
}
