//go:build linux

package admission

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const question = `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"705ab4f5-6393-11e8-b7cc-42010a800002","object":{"note":"705ab4f5-6393-11e8-b7cc-42010a800002"}}}`

// serve is a webhook; the answer is made of the review's uid.
func serve(t *testing.T, answer func(w http.ResponseWriter, uid string)) *Client {
	t.Helper()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review struct{ Request struct{ UID string } }
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = json.Unmarshal(body, &review)
		}
		if err != nil || r.ProtoMajor != 1 || strings.Count(string(body), review.Request.UID) != 2 {
			t.Errorf("%v in a request of %s: %s", err, r.Proto, body)
		}
		answer(w, review.Request.UID)
	}))
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	c, err := Dial(t.Context(), server.Listener.Addr().String(), roots, 3, []byte(question))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func allow(w http.ResponseWriter, uid string) {
	_, _ = fmt.Fprintf(w, `{"response":{"uid":%q,"allowed":true,"patch":"W10="}}`, uid)
}

// Every review has a uid of its own, and every answer is counted.
func TestClient(t *testing.T) {
	var mu sync.Mutex
	uids := map[string]bool{}
	c := serve(t, func(w http.ResponseWriter, uid string) {
		mu.Lock()
		uids[uid] = true
		mu.Unlock()
		allow(w, uid)
	})
	n, took, err := c.Full(t.Context(), 20*time.Millisecond)
	if err != nil || n < 3 || took < 20*time.Millisecond {
		t.Errorf("%d admissions in %s, error %v; want each connection to have had one", n, took, err)
	}
	latencies, err := c.Open(t.Context(), 1000, 50*time.Millisecond)
	if err != nil || len(latencies) != 50 {
		t.Errorf("%d latencies and error %v, want 50", len(latencies), err)
	}
	if len(uids) != n+50 {
		t.Errorf("%d uids for %d reviews", len(uids), n+50)
	}
}

// An answer that is not an injection ends the measurement.
func TestClientFails(t *testing.T) {
	for want, answer := range map[string]func(w http.ResponseWriter, uid string){
		"503 Service Unavailable": func(w http.ResponseWriter, _ string) { w.WriteHeader(http.StatusServiceUnavailable) },
		"is not to review":        func(w http.ResponseWriter, _ string) { allow(w, "another") },
		"is not injected":         func(w http.ResponseWriter, uid string) { _, _ = io.WriteString(w, `{"uid":"`+uid+`","allowed":true}`) },
		"closes its connection": func(w http.ResponseWriter, uid string) {
			w.Header().Set("Connection", "close")
			allow(w, uid)
		},
	} {
		if _, _, err := serve(t, answer).Full(t.Context(), 10*time.Second); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Full fails with %v, want one with %q", err, want)
		}
		if _, err := serve(t, answer).Open(t.Context(), 1000, 10*time.Millisecond); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Open fails with %v, want one with %q", err, want)
		}
	}
}

func TestUID(t *testing.T) {
	for review, want := range map[string]string{`{`: "read the review", `{"request":{"uid":"1"}}`: `"1", want one of 36`} {
		if _, err := uidOf([]byte(review)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", review, err, want)
		}
	}
}
