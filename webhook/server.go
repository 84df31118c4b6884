package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kjson "sigs.k8s.io/json"
)

// maxBody bounds the body of a request. The API server takes objects of 3 MiB at most, and a review of a
// creation holds one.
const maxBody = 4 << 20

// NamespaceFunc returns the namespace of that name as it is now. It is called for each pod, so it should
// answer from memory, and may be called concurrently. On an error there is no answer about the pod, so the failurePolicy
// of the webhook decides: injecting by guess would be worse.
type NamespaceFunc func(ctx context.Context, name string) (Namespace, error)

// ServerConfig is what a Server needs. All of it but DTab is required.
type ServerConfig struct {
	// Config returns the injector's configuration as it is now; called for each pod, concurrently.
	Config func() Config
	// Namespace finds the pod's namespace.
	Namespace NamespaceFunc
	// DTab says what is wrong with a DTab of l5d.io in JSON, all of it and in the words that its writer is to
	// read; nil if it may be stored. Called concurrently. Without it nobody is answered about DTabs.
	DTab func(object []byte) error
	// Registerer receives the metrics.
	Registerer prometheus.Registerer
	// Logger hears of what is refused and of callers that are no API server; injections are counted, not logged.
	Logger *slog.Logger
}

// Server is the admission webhook: it answers an AdmissionReview of admission.k8s.io/v1 in the body of
// POST requests, about pods and their ephemeral containers to "/inject" and about DTabs to "/validate-dtab". It starts no goroutines and has no
// side effects, so dry runs need no care. It is safe for concurrent use. TLS and timeouts belong to the
// http.Server around it.
type Server struct {
	cfg     ServerConfig
	mux     *http.ServeMux
	metrics *metrics
}

// NewServer returns a Server. The error is that of registering metrics.
func NewServer(cfg ServerConfig) (*Server, error) {
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, fmt.Errorf("register the injector's metrics: %w", err)
	}
	s := &Server{cfg: cfg, mux: http.NewServeMux(), metrics: m}
	s.mux.HandleFunc("/inject", s.review(readPodReview, s.inject))
	if cfg.DTab != nil {
		s.mux.HandleFunc("/validate-dtab", s.review(readReview, func(_ context.Context, q question) *admissionv1.AdmissionResponse {
			return s.decideDTab(q.AdmissionRequest)
		}))
	}
	return s, nil
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// refusal is an answer below the level of admission: the caller did not send a review that can be answered.
type refusal struct {
	status  int
	cause   string // one of causes()
	message string
}

// question is what a review asks.
type question struct {
	*admissionv1.AdmissionRequest
	pod *podView // the object, if it was read as a pod already; there is no Object then
}

// review returns the handler of one path, which reads reviews by read and answers them by decide.
func (s *Server) review(read func([]byte) (question, *refusal), decide func(context.Context, question) *admissionv1.AdmissionResponse) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, refused := readBody(w, r)
		var q question
		if refused == nil {
			q, refused = read(body)
		}
		if refused != nil {
			s.metrics.refused.WithLabelValues(refused.cause).Inc()
			s.cfg.Logger.Warn("refuse a request that is no admission review", "cause", refused.cause, "message", refused.message, "remote", r.RemoteAddr)
			if refused.status == http.StatusMethodNotAllowed {
				w.Header().Set("Allow", http.MethodPost)
			}
			http.Error(w, refused.message, refused.status)
			return
		}
		res := decide(r.Context(), q)
		if res.Result != nil && res.Result.Reason == metav1.StatusReasonServiceUnavailable {
			// No answer at all, so that the entry's failurePolicy decides: "not allowed" is final, even where pods are to start
			// without the injector. (Of a 503 the API server would keep the message to itself.)
			http.Error(w, res.Result.Message, http.StatusInternalServerError)
			return
		}
		answer, err := json.Marshal(admissionv1.AdmissionReview{TypeMeta: reviewType(), Response: res})
		if err != nil { // strings and bytes only: out of reach, but an empty 200 would be worse
			http.Error(w, "write the admission review: "+err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		// Without it an answer of more than 2 KiB, as most are, goes out in chunks.
		w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
		// If the caller is gone there is nobody left to tell.
		_, _ = w.Write(answer)
	}
}

func reviewType() metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"}
}

func (s *Server) inject(ctx context.Context, q question) *admissionv1.AdmissionResponse {
	begin := time.Now()
	res := s.decide(ctx, q)
	s.metrics.observe(res, time.Since(begin))
	if res.Reason.Denies() {
		s.cfg.Logger.Info("refuse a pod", "namespace", q.Namespace, "reason", res.Reason, "message", res.Message, "uid", q.UID)
	}
	return response(q.AdmissionRequest, res)
}

// readBody reads what may be a review, or says why it is none.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, *refusal) {
	if r.Method != http.MethodPost {
		return nil, &refusal{http.StatusMethodNotAllowed, causeMethod,
			"method " + r.Method + " is not allowed; expected POST"}
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return nil, &refusal{http.StatusUnsupportedMediaType, causeContentType,
			fmt.Sprintf("content type %q is not supported; expected application/json", r.Header.Get("Content-Type"))}
	}
	var body bytes.Buffer
	if r.ContentLength > 0 && r.ContentLength <= maxBody {
		body.Grow(int(r.ContentLength) + bytes.MinRead) // which leaves room to find the end
	}
	_, err := body.ReadFrom(http.MaxBytesReader(w, r.Body, maxBody))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return nil, &refusal{http.StatusRequestEntityTooLarge, causeTooLarge,
			fmt.Sprintf("the body is larger than %d bytes", maxBody)}
	}
	if err != nil {
		return nil, &refusal{http.StatusBadRequest, causeMalformed, "read the body: " + err.Error()}
	}
	return body.Bytes(), nil
}

// readReview reads a review, or says why it is none.
func readReview(body []byte) (question, *refusal) {
	var review admissionv1.AdmissionReview
	if err := kjson.UnmarshalCaseSensitivePreserveInts(body, &review); err != nil {
		return question{}, &refusal{http.StatusBadRequest, causeMalformed, "the body is not an AdmissionReview: " + err.Error()}
	}
	if review.TypeMeta != reviewType() {
		return question{}, &refusal{http.StatusBadRequest, causeVersion,
			fmt.Sprintf("the body is %q of %q; expected \"AdmissionReview\" of \"admission.k8s.io/v1\"", review.Kind, review.APIVersion)}
	}
	if review.Request == nil {
		return question{}, &refusal{http.StatusBadRequest, causeMalformed, "the AdmissionReview has no request"}
	}
	return question{AdmissionRequest: review.Request}, nil
}

// readPodReview reads a review of the creation of a pod in one pass, for to read the review first and the pod in it then
// is most of the work of an admission. Whatever is not of that kind, or not right, it leaves to readReview.
func readPodReview(body []byte) (question, *refusal) {
	var review struct {
		metav1.TypeMeta `json:",inline"`
		Request         *struct {
			UID         types.UID                   `json:"uid"`
			Resource    metav1.GroupVersionResource `json:"resource"`
			SubResource string                      `json:"subResource"`
			Namespace   string                      `json:"namespace"`
			Operation   admissionv1.Operation       `json:"operation"`
			Object      *podView                    `json:"object"`
		} `json:"request"`
	}
	err := kjson.UnmarshalCaseSensitivePreserveInts(body, &review)
	r := review.Request
	if err != nil || review.TypeMeta != reviewType() || r == nil || r.Object == nil || r.Resource != pods() || r.SubResource != "" || r.Operation != admissionv1.Create {
		return readReview(body)
	}
	return question{&admissionv1.AdmissionRequest{
		UID: r.UID, Resource: r.Resource, Namespace: r.Namespace, Operation: r.Operation,
	}, r.Object}, nil
}

func pods() metav1.GroupVersionResource {
	return metav1.GroupVersionResource{Version: "v1", Resource: "pods"}
}

// decide answers one admission request. Errors become results, so that each request has exactly one reason.
func (s *Server) decide(ctx context.Context, req question) Result {
	switch {
	case req.Resource == pods() && req.SubResource == "" && req.Operation == admissionv1.Create:
	case req.Resource == pods() && req.SubResource == "ephemeralcontainers" && req.Operation == admissionv1.Update:
		res, err := InjectEphemeral(req.OldObject.Raw, req.Object.Raw)
		if err != nil {
			return Result{Reason: NotMeshed, Warnings: []string{cut("the container does not get the mesh's proxy: "+err.Error(), maxWarning)}}
		}
		return res
	default:
		return Result{Reason: NotAPod, Warnings: []string{cut(fmt.Sprintf(
			"the injector was called for %s of %s, but handles CREATE of pods and UPDATE of pods/ephemeralcontainers; correct its webhook configuration", req.Operation, strings.TrimSuffix(req.Resource.Resource+"/"+req.SubResource, "/")), maxWarning)}}
	}
	ns, err := s.cfg.Namespace(ctx, req.Namespace)
	if err != nil {
		return Result{Reason: InternalError, Message: cut(fmt.Sprintf("find namespace %q: %v; hint: try again shortly", req.Namespace, err), maxMessage)}
	}
	pod := req.pod
	if pod == nil {
		read, err := parsePod(req.Object.Raw)
		if err != nil {
			return Result{Reason: InvalidPod, Message: err.Error()}
		}
		pod = &read
	} else if err := pod.check(); err != nil {
		return Result{Reason: InvalidPod, Message: err.Error()}
	}
	res, _, err := judge(*pod, ns, s.cfg.Config(), false)
	switch {
	case errors.Is(err, ErrConfig):
		return Result{Reason: InternalError, Message: err.Error() + "; hint: correct the controller's configuration"}
	case err != nil:
		return Result{Reason: InvalidPod, Message: err.Error()}
	}
	return res
}

// response writes a result in the words of the admission API.
func response(req *admissionv1.AdmissionRequest, res Result) *admissionv1.AdmissionResponse {
	out := &admissionv1.AdmissionResponse{
		UID:      req.UID,
		Allowed:  !res.Reason.Denies(),
		Warnings: res.Warnings,
		AuditAnnotations: map[string]string{
			"mode":   modeLabel(res.Mode),
			"reason": res.Reason.String(),
		},
	}
	if res.Hash != "" {
		out.AuditAnnotations["hash"] = res.Hash
	}
	if len(res.Patch) > 0 {
		kind := admissionv1.PatchTypeJSONPatch
		out.Patch, out.PatchType = res.Patch, &kind
	}
	switch {
	case res.Reason == InternalError:
		out.Result = &metav1.Status{Status: metav1.StatusFailure, Code: http.StatusServiceUnavailable,
			Reason: metav1.StatusReasonServiceUnavailable, Message: res.Message}
	case res.Reason.Denies():
		out.Result = &metav1.Status{Status: metav1.StatusFailure, Code: http.StatusBadRequest,
			Reason: metav1.StatusReasonBadRequest, Message: res.Message}
	}
	return out
}
