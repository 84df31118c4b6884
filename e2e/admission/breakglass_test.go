//go:build e2e

package admission

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/tulle-mesh/tulle/e2e/cluster/suite"
	"github.com/tulle-mesh/tulle/internal/logtest"
	"github.com/tulle-mesh/tulle/webhook/breakglass"
	"github.com/tulle-mesh/tulle/webhook/drift"
	"github.com/tulle-mesh/tulle/webhook/serving"
)

// client returns one with the controller's rights.
func (m *mesh) client(t *testing.T) kubernetes.Interface {
	t.Helper()
	c, err := kubernetes.NewForConfig(m.config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// drifted lists pods that are not as they should be.
func (m *mesh) drifted(client kubernetes.Interface) func(context.Context) ([]drift.Pod, error) {
	return func(ctx context.Context) ([]drift.Pod, error) { return drift.List(ctx, client, m.settings.Config("")) }
}

// keep runs a Keeper with the controller's rights.
func (m *mesh) keep(t *testing.T, log *logtest.Buffer) (stop func()) {
	t.Helper()
	client := m.client(t)
	k, err := breakglass.NewKeeper(breakglass.KeeperConfig{
		Client: client, Drifted: m.drifted(client), Registerer: prometheus.NewRegistry(), Logger: slog.New(slog.NewTextHandler(log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return suite.Go(t, k.Run)
}

// The injector is away and its namespaces stand still. Break-glass opens them, closes at its time though the controller
// was dead when it was opened, and tells what slipped through.
func TestBreakglass(t *testing.T) {
	m := install(t, values("self"))
	ns := namespace(t, map[string]string{"tulle.dev/inject": "enabled"})
	pods := api.Client().CoreV1().Pods(ns)
	if _, err := pods.Create(t.Context(), app(), metav1.CreateOptions{}); err == nil {
		t.Fatal("a pod was made though nobody injects")
	}
	if _, err := breakglass.Open(t.Context(), api.Client(), breakglass.Request{By: "eve", Reason: "x", For: 25 * time.Hour}); !errors.Is(err, breakglass.ErrTooLong) {
		t.Errorf("opening it for 25 h: %v", err)
	}
	s, err := breakglass.Open(t.Context(), api.Client(), breakglass.Request{By: "eve", Reason: "INC-7", For: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if !s.Active() || s.Open.By != "eve" || s.Open.Reason != "INC-7" || s.Open.Until.Sub(s.Open.Since) != time.Minute {
		t.Fatalf("opened: %+v %+v", s, s.Open)
	}
	await(t, "a pod to be made", func(ctx context.Context) (bool, string) {
		_, err := pods.Create(ctx, app(), metav1.CreateOptions{})
		return err == nil, fmt.Sprint(err)
	})
	// Prolonged, or shortened: the beginning stays.
	again, err := breakglass.Open(t.Context(), api.Client(), breakglass.Request{By: "adam", Reason: "INC-8", For: 2 * time.Second})
	if err != nil || !again.Open.Since.Equal(s.Open.Since) || again.Open.By != "adam" || !again.Active() {
		t.Fatalf("opened again: %+v, %v", again.Open, err)
	}
	log := &logtest.Buffer{}
	stop, other := m.keep(t, log), m.keep(t, &logtest.Buffer{}) // of two replicas one closes it, and tells
	await(t, "break-glass to be closed", func(ctx context.Context) (bool, string) {
		s, err = breakglass.Read(ctx, api.Client())
		return err == nil && s.Open == nil, fmt.Sprintf("%+v %v", s.Open, err)
	})
	if s.Policy != admissionv1.Fail || s.Last == nil || s.Last.By != "adam" || s.Last.Until.Before(again.Open.Until) {
		t.Errorf("closed: %+v %+v", s, s.Last)
	}
	await(t, "the event", func(ctx context.Context) (bool, string) {
		events, err := api.Client().CoreV1().Events("default").List(ctx, metav1.ListOptions{FieldSelector: "reason=BreakGlassClosed"})
		if err != nil {
			return false, err.Error()
		}
		n := 0
		for _, e := range events.Items {
			if strings.Contains(e.Message, ns+"/app-") && e.InvolvedObject.Name == breakglass.Configuration {
				n++
			}
		}
		if n > 1 {
			t.Fatalf("%d events", n)
		}
		return n == 1, fmt.Sprint(events.Items)
	})
	stop()
	other()
	config, err := api.Client().AdmissionregistrationV1().MutatingWebhookConfigurations().Get(t.Context(), breakglass.Configuration, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for key := range config.Annotations {
		if strings.Contains(key, "breakglass") && key != "tulle.dev/breakglass-last" {
			t.Errorf("the annotation %s is left", key)
		}
	}
	await(t, "pods to be refused again", func(ctx context.Context) (bool, string) {
		_, err := pods.Create(ctx, app(), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err != nil, "a pod is made"
	})
	if _, ended, err := breakglass.Close(t.Context(), api.Client()); err != nil || ended {
		t.Errorf("closing what is closed: %v, %v", ended, err)
	}
}

// An upgrade meanwhile meets no conflict, and closes it; the controller tidies up. The controller's own bundle stays.
func TestBreakglassUpgrade(t *testing.T) {
	m := install(t, values("self"))
	replica := m.start(t, "one", serving.Config{Settle: 10 * time.Millisecond})
	defer replica.stop()
	before := authorities(t)
	if _, err := breakglass.Open(t.Context(), m.client(t), breakglass.Request{By: "eve", Reason: "INC-7", For: time.Hour}); err != nil {
		t.Fatal(err)
	}
	m.apply(t, values("self"))
	s, err := breakglass.Read(t.Context(), api.Client())
	if err != nil || s.Active() || s.Open == nil || s.Policy != admissionv1.Fail || !s.Overdue(time.Now()) {
		t.Fatalf("after the upgrade: %+v, %v", s, err)
	}
	log := &logtest.Buffer{}
	m.keep(t, log)
	await(t, "the controller to tidy up", func(ctx context.Context) (bool, string) {
		s, err := breakglass.Read(ctx, api.Client())
		return err == nil && s.Open == nil && s.Last != nil, fmt.Sprint(err)
	})
	await(t, "the log", func(context.Context) (bool, string) {
		return strings.Contains(log.String(), "somebody has set the failurePolicy back"), log.String()
	})
	if now := authorities(t); fmt.Sprint(now) != fmt.Sprint(before) || len(now) == 0 {
		t.Errorf("the bundle is %v, was %v", now, before)
	}
	m.apply(t, values("self")) // and none is left
}
