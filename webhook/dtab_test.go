package webhook

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	admissionv1 "k8s.io/api/admission/v1"
)

func TestDTabs(t *testing.T) {
	reg := prometheus.NewRegistry()
	s, err := NewServer(ServerConfig{
		DTab: func(object []byte) error {
			if _, text, wrong := strings.Cut(string(object), "wrong"); wrong {
				return fmt.Errorf("dentries[0].dst: %.1s", text)
			}
			return nil
		},
		Registerer: reg, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(t *testing.T, operation, resource, before, after string) *admissionv1.AdmissionResponse {
		t.Helper()
		body := fmt.Sprintf(`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u-1","operation":%q,"dryRun":true,
			"resource":{"group":"l5d.io","version":"v1alpha1","resource":%q},"namespace":"tulle","name":"default","oldObject":%s,"object":%s}}`,
			operation, resource, before, after)
		r := httptest.NewRequest(http.MethodPost, "/validate-dtab?timeout=3s", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		return answer(t, w)
	}
	const good, wrong1, wrong2 = `{"dentries":[]}`, `{"dentries":"wrong1"}`, `{"dentries":"wrong2"}`
	for _, tt := range []struct {
		name, operation, resource, before, after string
		result                                   string
		warnings                                 int
	}{
		{"new", "CREATE", "dtabs", "null", good, dtabAllowed, 0},
		{"new and wrong", "CREATE", "dtabs", "null", wrong1, dtabRefused, 0},
		{"changed", "UPDATE", "dtabs", good, good, dtabAllowed, 0},
		{"repaired", "UPDATE", "dtabs", wrong1, good, dtabAllowed, 0},
		{"spoilt", "UPDATE", "dtabs", good, wrong1, dtabRefused, 0},
		{"wrong in another way", "UPDATE", "dtabs", wrong1, wrong2, dtabRefused, 0},
		{"wrong as before", "UPDATE", "dtabs", wrong1, wrong1, dtabNoWorse, 1},
		{"deleted", "DELETE", "dtabs", wrong1, "null", dtabUnrelated, 1},
		{"another resource", "CREATE", "pods", "null", wrong1, dtabUnrelated, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := counter(t, reg, "tulle_dtab_admissions_total", "result", tt.result)
			got := ask(t, tt.operation, tt.resource, tt.before, tt.after)
			refused := tt.result == dtabRefused
			if got.UID != "u-1" || got.Allowed == refused || len(got.Warnings) != tt.warnings {
				t.Errorf("got %+v", got)
			}
			if (got.Result != nil) != refused || refused && (got.Result.Code != 422 || !strings.HasPrefix(got.Result.Message, "dentries[0].dst: ")) {
				t.Errorf("status %+v", got.Result)
			}
			if n := counter(t, reg, "tulle_dtab_admissions_total", "result", tt.result); n != before+1 {
				t.Errorf("counted %v, then %v", before, n)
			}
		})
	}
}

// A server that was not told how to read DTabs does not allow all of them.
func TestDTabsOfNobody(t *testing.T) {
	s, _ := newTestServer(t)
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/validate-dtab", strings.NewReader("{}")))
	if w.Code != http.StatusNotFound {
		t.Errorf("status %d: %s", w.Code, w.Body)
	}
}
