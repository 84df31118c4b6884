package main

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/webhook"
)

// Whatever a review waits for, its answer comes while the API server still waits for it.
func TestReviewBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, err := webhook.NewServer(webhook.ServerConfig{
			Config: func() webhook.Config { return webhook.Config{} },
			Namespace: func(ctx context.Context, _ string) (webhook.Namespace, error) {
				<-ctx.Done()
				return webhook.Namespace{}, ctx.Err()
			},
			Registerer: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		review := `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"1","namespace":"shop","operation":"CREATE",
			"resource":{"version":"v1","resource":"pods"},"object":{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web"},"spec":{"containers":[{"name":"app","image":"app"}]}}}}`
		r := httptest.NewRequest(http.MethodPost, "/inject", strings.NewReader(review))
		r.Header.Set("Content-Type", "application/json")
		w, began := httptest.NewRecorder(), time.Now()
		(&injector{server: server}).ServeHTTP(w, r)
		body, err := io.ReadAll(w.Body)
		if took := time.Since(began); took != reviewBudget || err != nil || w.Code != http.StatusInternalServerError || !strings.Contains(string(body), "try again shortly") {
			t.Errorf("after %s: %d %s", took, w.Code, body)
		}
	})
}
