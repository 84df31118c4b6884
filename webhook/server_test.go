package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	admissionv1 "k8s.io/api/admission/v1"
)

func newTestServer(t testing.TB) (*Server, *prometheus.Registry) {
	t.Helper()
	reg := prometheus.NewRegistry()
	s, err := NewServer(ServerConfig{
		Config: testConfig,
		Namespace: func(_ context.Context, name string) (Namespace, error) {
			if name == "unknown" {
				return Namespace{}, errors.New("not in the cache")
			}
			return enabled(name), nil
		},
		Registerer: reg,
		Logger:     slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return s, reg
}

// An answer goes out in one piece, however long it is.
func TestAnswersHaveALength(t *testing.T) {
	s, _ := newTestServer(t)
	web := httptest.NewServer(s)
	defer web.Close()
	res, err := web.Client().Post(web.URL+"/inject", "application/json", strings.NewReader(reviewOf(string(fivePod()), "shop")))
	if err != nil {
		t.Fatal(err)
	}
	if err := res.Body.Close(); err != nil {
		t.Error(err)
	}
	if res.StatusCode != http.StatusOK || res.ContentLength < 2<<10 || res.TransferEncoding != nil {
		t.Errorf("status %d, length %d, transfer encoding %v; want 200 with a length of 2 KiB at least", res.StatusCode, res.ContentLength, res.TransferEncoding)
	}
}

func reviewOf(pod, namespace string) string {
	return fmt.Sprintf(`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u-1",
		"kind":{"group":"","version":"v1","kind":"Pod"},"resource":{"group":"","version":"v1","resource":"pods"},
		"namespace":%q,"operation":"CREATE","dryRun":true,"object":%s}}`, namespace, pod)
}

func post(s http.Handler, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, "/inject?timeout=5s", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json; charset=utf-8")
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

func answer(t testing.TB, w *httptest.ResponseRecorder) *admissionv1.AdmissionResponse {
	t.Helper()
	var review admissionv1.AdmissionReview
	if err := json.Unmarshal(w.Body.Bytes(), &review); err != nil || w.Code != http.StatusOK || review.Response == nil {
		t.Fatalf("status %d, %v: %s", w.Code, err, w.Body)
	}
	if review.APIVersion != "admission.k8s.io/v1" || review.Kind != "AdmissionReview" || review.Request != nil {
		t.Errorf("the answer is %q of %q", review.Kind, review.APIVersion)
	}
	return review.Response
}

func TestServerAnswers(t *testing.T) {
	s, reg := newTestServer(t)
	const app = `"spec":{"containers":[{"name":"app"}]}`
	for _, tt := range []struct {
		name, body string
		allowed    bool
		patched    bool
		reason     Reason
		mode       string
		code       int32
		warnings   int
	}{
		{"host", reviewOf(`{"metadata":{},`+app+`}`, "shop"), true, true, InjectedHost, "host", 0, 0},
		{"sidecar", reviewOf(`{"metadata":{"annotations":{"tulle.dev/mode":"sidecar"}},`+app+`}`, "shop"), true, true, InjectedSidecar, "sidecar", 0, 0},
		{"opted out", reviewOf(`{"metadata":{"labels":{"tulle.dev/inject":"false"}},`+app+`}`, "shop"), true, false, OptedOut, "none", 0, 0},
		{"warning", reviewOf(`{"metadata":{"annotations":{"tulle.dev/typo":"1"}},`+app+`}`, "shop"), true, true, InjectedHost, "host", 0, 1},
		{"invalid mode", reviewOf(`{"metadata":{"annotations":{"tulle.dev/mode":"x"}},`+app+`}`, "shop"), false, false, InvalidMode, "none", 400, 0},
		{"no pod", reviewOf(`{"spec":{"containers":{}}}`, "shop"), false, false, InvalidPod, "none", 400, 0},
		{"no object", strings.Replace(reviewOf(`{}`, "shop"), `"object":{}`, `"options":{}`, 1), false, false, InvalidPod, "none", 400, 0},
		{"a service", strings.Replace(reviewOf(`{}`, "shop"), `"resource":"pods"`, `"resource":"services"`, 1), true, false, NotAPod, "none", 0, 1},
		{"an update", strings.Replace(reviewOf(`{}`, "shop"), "CREATE", "UPDATE", 1), true, false, NotAPod, "none", 0, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			res := answer(t, post(s, tt.body))
			if res.UID != "u-1" || res.Allowed != tt.allowed || len(res.Warnings) != tt.warnings {
				t.Errorf("uid %s, allowed %v, warnings %q", res.UID, res.Allowed, res.Warnings)
			}
			if (res.Patch != nil) != tt.patched || (res.PatchType != nil) != tt.patched || tt.patched && *res.PatchType != "JSONPatch" {
				t.Errorf("patch %s of type %v", res.Patch, res.PatchType)
			}
			if got := res.AuditAnnotations; got["reason"] != tt.reason.String() || got["mode"] != tt.mode || (got["hash"] != "") != tt.patched {
				t.Errorf("audit annotations %v", got)
			}
			if tt.allowed != (res.Result == nil) || !tt.allowed && (res.Result.Code != tt.code || res.Result.Message == "") {
				t.Errorf("status %+v", res.Result)
			}
		})
	}
	if got := counter(t, reg, "tulle_inject_requests_total", "mode", "host", "reason", "injected_host"); got != 2 {
		t.Errorf("counted %v injections in host mode, want 2", got)
	}
}

// What is the injector's fault is no answer: a review that says "not allowed" would be final where the webhook's
// failurePolicy is Ignore, too.
func TestServerLeavesItsFaultsToTheFailurePolicy(t *testing.T) {
	s, reg := newTestServer(t)
	const app = `"spec":{"containers":[{"name":"app"}]}`
	for namespace, says := range map[string]string{"unknown": "not in the cache", "shop": "invalid injector configuration"} {
		s.cfg.Config = func() Config { return Config{DefaultMode: ModeSidecar} } // the mesh's CA is not there yet
		w := post(s, reviewOf(`{"metadata":{},`+app+`}`, namespace))
		if w.Code != http.StatusInternalServerError || !strings.Contains(w.Body.String(), says) || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain") {
			t.Errorf("%s: status %d, %v: %s", namespace, w.Code, w.Header(), w.Body)
		}
	}
	if got := counter(t, reg, "tulle_inject_requests_total", "mode", "none", "reason", "internal_error"); got != 2 {
		t.Errorf("counted %v", got)
	}
}

func TestServerRefuses(t *testing.T) {
	s, reg := newTestServer(t)
	for _, tt := range []struct {
		name, method, contentType, body string
		status                          int
		cause, says                     string
	}{
		{"method", http.MethodGet, "application/json", "", 405, causeMethod, "POST"},
		{"content type", http.MethodPost, "application/yaml", "{}", 415, causeContentType, "application/json"},
		{"no content type", http.MethodPost, "", "{}", 415, causeContentType, "application/json"},
		{"too large", http.MethodPost, "application/json", strings.Repeat(" ", maxBody+1), 413, causeTooLarge, "larger"},
		{"empty", http.MethodPost, "application/json", "", 400, causeMalformed, "AdmissionReview"},
		{"version", http.MethodPost, "application/json", `{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview","request":{}}`, 400, causeVersion, `"admission.k8s.io/v1"`},
		{"kind", http.MethodPost, "application/json", `{"apiVersion":"admission.k8s.io/v1","kind":"Pod"}`, 400, causeVersion, "AdmissionReview"},
		{"no request", http.MethodPost, "application/json", `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}`, 400, causeMalformed, "request"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest(tt.method, "/inject", strings.NewReader(tt.body))
			if tt.contentType != "" {
				r.Header.Set("Content-Type", tt.contentType)
			}
			w := httptest.NewRecorder()
			before := counter(t, reg, "tulle_inject_refused_total", "cause", tt.cause)
			s.ServeHTTP(w, r)
			if w.Code != tt.status || !strings.Contains(w.Body.String(), tt.says) {
				t.Errorf("status %d: %s", w.Code, w.Body)
			}
			if tt.status == 405 && w.Header().Get("Allow") != "POST" {
				t.Error("no Allow header")
			}
			if got := counter(t, reg, "tulle_inject_refused_total", "cause", tt.cause); got != before+1 {
				t.Errorf("counted %v, then %v", before, got)
			}
		})
	}
}

// What users write must not make series.
func TestMetricsAreBounded(t *testing.T) {
	s, reg := newTestServer(t)
	series := func() int {
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, f := range families {
			n += len(f.Metric)
		}
		return n
	}
	before := series()
	for i := range 200 {
		meta := fmt.Sprintf(`{"labels":{"tulle.dev/inject":"%d"},"annotations":{"tulle.dev/mode":"m%d"}}`, i%3, i)
		if i%2 == 0 {
			meta = fmt.Sprintf(`{"annotations":{"tulle.dev/status":"{\"version\":\"v1\",\"mode\":\"host\",\"hash\":\"%d\"}"}}`, i)
		}
		answer(t, post(s, reviewOf(`{"metadata":`+meta+`,"spec":{"containers":[{"name":"a"}]}}`, fmt.Sprint("ns", i))))
	}
	if after := series(); after != before {
		t.Errorf("%d series became %d", before, after)
	}
}

func TestReasonsAreClosed(t *testing.T) {
	seen := map[Reason]bool{}
	for _, r := range Reasons() {
		if seen[r] || r == "" || strings.ToLower(r.String()) != r.String() {
			t.Errorf("reason %q is there twice, or not a word", r)
		}
		seen[r] = true
	}
}

// counter reads one series; labels are names and values in turn.
func counter(t testing.TB, reg *prometheus.Registry, name string, labels ...string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
	metrics:
		for _, m := range f.Metric {
			for i := 0; i < len(labels); i += 2 {
				found := false
				for _, l := range m.Label {
					found = found || l.GetName() == labels[i] && l.GetValue() == labels[i+1]
				}
				if !found {
					continue metrics
				}
			}
			return m.GetCounter().GetValue()
		}
	}
	t.Fatalf("no series %s%v", name, labels)
	return 0
}

// checkAnswer holds an answer to the limits of the API server, whatever was asked.
func checkAnswer(t *testing.T, w *httptest.ResponseRecorder) {
	t.Helper()
	switch w.Code {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge:
		return
	case http.StatusInternalServerError:
		if w.Body.Len() > maxMessage+1 {
			t.Errorf("a message of %d bytes", w.Body.Len())
		}
		return
	}
	res := answer(t, w)
	if res.Allowed && res.Result != nil || !res.Allowed && (res.Patch != nil || res.Result == nil || res.Result.Message == "") {
		t.Errorf("answer %+v", res)
	}
	if res.Result != nil && len(res.Result.Message) > maxMessage {
		t.Errorf("a message of %d bytes", len(res.Result.Message))
	}
	sum := 0
	for _, warning := range res.Warnings {
		if sum += len(warning); len(warning) > maxWarning || sum > maxWarnings {
			t.Errorf("a warning of %d bytes, of %d so far", len(warning), sum)
		}
	}
	if len(res.Patch) > 3*maxBody { // an entry that goes takes a line of the patch
		t.Errorf("a patch of %d bytes", len(res.Patch))
	}
}

// What nobody means well has an answer as well, of a bounded size and before anybody gives up waiting.
func TestServerHuge(t *testing.T) {
	s, _ := newTestServer(t)
	const size = 512 << 10 // of the 3 MiB that the API server takes: what is not linear shows here, too
	fill := func(element string) string {
		return strings.TrimSuffix(strings.Repeat(element+",", size/(len(element)+1)), ",")
	}
	members := func(format string) string {
		var b strings.Builder
		for i := 0; b.Len() < size; i++ {
			fmt.Fprintf(&b, format, i)
		}
		return strings.TrimSuffix(b.String(), ",")
	}
	status := func(inner string) string { text, _ := json.Marshal(inner); return string(text) }
	names := func(n int) string { return strings.TrimSuffix(strings.Repeat(`"no_proxy",`, n), ",") }
	forged := status(`{"version":"v2","mode":"host","hash":"x","proxy":"http://p:1","containers":["a"],"env":[` + names(1000) + `]}`)
	for name, pod := range map[string]string{
		"containers":              `{"spec":{"containers":[` + fill(`{"name":"a"}`) + `]}}`,
		"containers at the limit": `{"spec":{"containers":[` + strings.TrimSuffix(strings.Repeat(`{"name":"a","env":[{"name":"http_proxy","value":"x"}]},`, maxContainers), ",") + `]}}`,
		"variables":               `{"spec":{"containers":[{"name":"a","env":[` + fill(`{"name":"B"}`) + `]}]}}`,
		"no_proxy":                `{"spec":{"containers":[{"name":"a","env":[` + fill(`{"name":"no_proxy","value":"x"}`) + `]}]}}`,
		"a long no_proxy":         `{"spec":{"containers":[{"name":"a","env":[{"name":"no_proxy","value":"` + fill("*") + `"}]}]}}`,
		"forged status":           `{"metadata":{"annotations":{"tulle.dev/status":` + forged + `}},"spec":{"containers":[{"name":"a","env":[{"name":"B"},` + fill(`{"name":"no_proxy"}`) + `]}]}}`,
		"long status":             `{"metadata":{"annotations":{"tulle.dev/status":` + status(`{"version":"v2","mode":"host","hash":"x","containers":[`+names(200000)+`]}`) + `}},"spec":{"containers":[{"name":"a"}]}}`,
		"annotations":             `{"metadata":{"annotations":{` + members(`"tulle.dev/k%d":"",`) + `}},"spec":{"containers":[{"name":"a"}]}}`,
		"labels":                  `{"metadata":{"labels":{` + members(`"tulle.dev/k%d":"",`) + `}},"spec":{"containers":[{"name":"a"}]}}`,
		"skip-containers":         `{"metadata":{"annotations":{"tulle.dev/skip-containers":"` + fill("a") + `"}},"spec":{"containers":[{"name":"a"}]}}`,
		"inject":                  `{"metadata":{"labels":{"tulle.dev/inject":"` + fill("a") + `"}},"spec":{"containers":[{"name":"a"}]}}`,
		"mode":                    `{"metadata":{"annotations":{"tulle.dev/mode":"` + fill("a") + `"}},"spec":{"containers":[{"name":"a"}]}}`,
		"ports":                   `{"metadata":{"annotations":{"tulle.dev/mode":"sidecar"}},"spec":{"containers":[{"name":"a","ports":[` + members(`{"containerPort":%d},`) + `]}]}}`,
		"named ports":             `{"metadata":{"annotations":{"tulle.dev/mode":"sidecar","tulle.dev/capture":"redirect","tulle.dev/skip-ports":"` + fill("p") + `"}},"spec":{"containers":[{"name":"a"}]}}`,
		"a long name":             `{"spec":{"containers":[{"name":"` + strings.Repeat("a", size) + `","env":[{"name":"http_proxy","value":"x"}]}]}}`,
		"deep":                    `{"spec":{"containers":[{"name":"a","future":` + strings.Repeat("[", size/2) + strings.Repeat("]", size/2) + `}]}}`,
		"deep objects":            `{"metadata":{"annotations":` + strings.Repeat(`{"a":`, size/6) + `1` + strings.Repeat("}", size/6) + `},"spec":{"containers":[{"name":"a"}]}}`,
		"half deep":               `{"spec":{"containers":[{"name":"a","future":` + strings.Repeat("[", 9000) + strings.Repeat("]", 9000) + `}]}}`,
	} {
		t.Run(name, func(t *testing.T) {
			begin := time.Now()
			checkAnswer(t, post(s, reviewOf(pod, "shop")))
			// The API server waits for five seconds; with the race detector, on a busy machine, all takes longer.
			if took := time.Since(begin); took > 15*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

// FuzzReview: whatever the body, one HTTP answer and no panic; a 200 holds a response.
func FuzzReview(f *testing.F) {
	f.Add([]byte(reviewOf(`{"metadata":{},"spec":{"containers":[{"name":"a"}]}}`, "shop")))
	f.Add([]byte(`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"object":null}}`))
	f.Add([]byte(`{"kind":"AdmissionReview","request":`))
	f.Add([]byte(strings.Replace(reviewOf(`{"metadata":{"annotations":{"tulle.dev/mode":"sidecar","tulle.dev/capture":"redirect","tulle.dev/skip-ports":"80-90,x"}},"spec":{"containers":[{"name":"a"}]}}`, "shop"), "v1", "v1beta1", 1)))
	f.Add([]byte(strings.Replace(reviewOf(`{"spec":{"ephemeralContainers":[{"name":"d"}],"containers":[{"name":"a"}]}}`, "shop"), `"operation":"CREATE"`, `"operation":"UPDATE","subResource":"ephemeralcontainers"`, 1)))
	s, _ := newTestServer(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		w := post(s, string(bytes.Clone(body)))
		checkAnswer(t, w)
		// A review that is read in one pass is answered as one that is read in two, if it is one that an API server
		// could send: without a member twice, and with nothing wrong in what is not looked at.
		q, refused := readPodReview(body)
		slow, again := readReview(body)
		if refused != nil && again == nil {
			t.Fatalf("refused %v", refused)
		}
		if again == nil && bytes.Count(body, []byte(`"object"`)) < 2 && bytes.Count(body, []byte(`"request"`)) < 2 {
			if a, b := response(q.AdmissionRequest, s.decide(t.Context(), q)), response(slow.AdmissionRequest, s.decide(t.Context(), slow)); !reflect.DeepEqual(a, b) {
				t.Fatalf("answers %+v, and %+v", a, b)
			}
		}
	})
}
