package access

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// judge is an API server that knows the tokens ci, ops and old; ci may read all dtabs of the namespace tulle and write
// web, ops may do everything, and old is not made for the mesh.
type judge struct {
	*fake.Clientset
	reviews int // of tokens and of access
	away    bool
	forbids string // a resource that may not be created
}

func newJudge() *judge {
	j := &judge{Clientset: fake.NewClientset()}
	answer := func(review func(object runtime.Object) runtime.Object) clienttesting.ReactionFunc {
		return func(action clienttesting.Action) (bool, runtime.Object, error) {
			j.reviews++
			if j.away {
				return true, nil, apierrors.NewServiceUnavailable("etcd is away")
			}
			if what := action.GetResource().GroupResource(); what.Resource == j.forbids {
				return true, nil, apierrors.NewForbidden(what, "", errors.New("no"))
			}
			return true, review(action.(clienttesting.CreateAction).GetObject().DeepCopyObject()), nil
		}
	}
	j.PrependReactor("create", "tokenreviews", answer(func(object runtime.Object) runtime.Object {
		r := object.(*authenticationv1.TokenReview)
		switch token := r.Spec.Token; token {
		case "ci", "ops", "old":
			r.Status = authenticationv1.TokenReviewStatus{Authenticated: true, Audiences: r.Spec.Audiences, User: authenticationv1.UserInfo{
				Username: "user-" + token, UID: "1", Groups: []string{"people"}, Extra: map[string]authenticationv1.ExtraValue{"a": {"b"}},
			}}
			if token == "old" {
				r.Status.Audiences = []string{"https://kubernetes.default.svc"}
			}
		default:
			r.Status.Error = "invalid bearer token"
		}
		return r
	}))
	j.PrependReactor("create", "subjectaccessreviews", answer(func(object runtime.Object) runtime.Object {
		r := object.(*authorizationv1.SubjectAccessReview)
		what := r.Spec.ResourceAttributes
		reads := what.Verb == "get" || what.Verb == "list" || what.Verb == "watch"
		r.Status.Allowed = what.Namespace == "tulle" && what.Group == "l5d.io" && what.Resource == "dtabs" && r.Spec.UID == "1" &&
			r.Spec.Groups[0] == "people" && r.Spec.Extra["a"][0] == "b" &&
			(r.Spec.User == "user-ops" || r.Spec.User == "user-ci" && (reads || what.Name == "web"))
		return r
	}))
	return j
}

func request(remote, authorization string, headers ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/api/1/dtabs", nil)
	r.RemoteAddr, r.Host = remote, "127.0.0.1:4180"
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			r.Host = headers[i+1]
			continue
		}
		r.Header.Set(headers[i], headers[i+1])
	}
	return r
}

func TestAccess(t *testing.T) {
	const pod, loopback = "10.244.1.5:40000", "127.0.0.1:40000"
	for _, tt := range []struct {
		name       string
		request    *http.Request
		verb, dtab string
		mode       string // RBAC if empty
		by         string
		status     int
		says       string
		result     string
	}{
		{name: "port-forward", request: request(loopback, ""), verb: "delete", dtab: "web", by: "local", result: resultLocal},
		{name: "port-forward on IPv6", request: request("[::1]:40000", ""), verb: "list", by: "local", result: resultLocal},
		{name: "loopback in IPv6's words", request: request("[::ffff:127.0.0.1]:40000", ""), verb: "list", by: "local", result: resultLocal},
		{name: "port-forward of somebody who says who", request: request(loopback, "Bearer ci"), verb: "update", dtab: "web", by: "user-ci", result: resultAllowed},
		{name: "port-forward with a bad token", request: request(loopback, "Bearer x"), verb: "list", status: 401, says: "invalid bearer token", result: resultUnknown},
		{name: "a page in a browser", request: request(loopback, "", "Origin", "https://evil.test"), verb: "create", dtab: "web", status: 403, says: "web page", result: resultUnknown},
		{name: "a name that a page had resolve to us", request: request(loopback, "", "Host", "evil.test:4180"), verb: "get", dtab: "web", status: 403, says: `not as "evil.test:4180"`, result: resultUnknown},
		{name: "localhost", request: request(loopback, "", "Host", "localhost:4180"), verb: "get", dtab: "web", by: "local", result: resultLocal},
		{name: "an address of IPv6", request: request(loopback, "", "Host", "[::1]:4180"), verb: "get", dtab: "web", by: "local", result: resultLocal},
		{name: "a page where all may", request: request(loopback, "", "Origin", "https://evil.test"), verb: "create", dtab: "web", mode: Open, status: 403, says: "web page", result: resultUnknown},
		{name: "a page with a token", request: request(pod, "Bearer ops", "Origin", "https://good.test"), verb: "list", by: "user-ops", result: resultAllowed},
		{name: "no token", request: request(pod, ""), verb: "get", dtab: "web", status: 401, says: "kubectl create token NAME --audience tulle.dev", result: resultUnknown},
		{name: "who says he is local", request: request(pod, "", "X-Forwarded-For", "127.0.0.1"), verb: "list", status: 401, says: "no bearer token", result: resultUnknown},
		{name: "another scheme", request: request(pod, "Basic b3Bz"), verb: "list", status: 401, says: "no bearer token", result: resultUnknown},
		{name: "an unreadable address", request: request("@", ""), verb: "list", status: 401, says: "no bearer token", result: resultUnknown},
		{name: "a token for somebody else", request: request(pod, "Bearer old"), verb: "list", status: 401, says: "not made for the audience tulle.dev", result: resultUnknown},
		{name: "may", request: request(pod, "bearer  ci"), verb: "list", by: "user-ci", result: resultAllowed},
		{name: "may write this one", request: request(pod, "Bearer ci"), verb: "update", dtab: "web", by: "user-ci", result: resultAllowed},
		{name: "may not write that one", request: request(pod, "Bearer ci"), verb: "update", dtab: "default", status: 403,
			says: "user-ci may not update dtabs.l5d.io/default in the namespace tulle", result: resultDenied},
		{name: "open", request: request(pod, ""), verb: "delete", dtab: "web", mode: Open, by: "10.244.1.5", result: resultAllowed},
		{name: "this machine alone", request: request(loopback, ""), verb: "update", dtab: "web", mode: Local, by: "local", result: resultLocal},
		{name: "this machine alone, with a token that nobody is asked about", request: request(loopback, "Bearer x"), verb: "list", mode: Local, by: "local", result: resultLocal},
		{name: "this machine alone, by a name that a page had resolve to us", request: request(loopback, "", "Host", "evil.test:4180"), verb: "get", dtab: "web", mode: Local, status: 403, says: `not as "evil.test:4180"`, result: resultUnknown},
		{name: "another machine where this one alone may", request: request(pod, "Bearer ops"), verb: "list", mode: Local, status: 403, says: "own machine", result: resultUnknown},
		{name: "open asks nobody", request: request(pod, "Bearer x"), verb: "delete", dtab: "web", mode: Open, by: "10.244.1.5", result: resultAllowed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var log bytes.Buffer
			a, err := New(Config{Client: newJudge(), Namespace: "tulle", Registerer: prometheus.NewRegistry(), Logger: slog.New(slog.NewTextHandler(&log, nil))})
			if err != nil {
				t.Fatal(err)
			}
			by, err := a.Authorizer(cmp.Or(tt.mode, RBAC))(tt.request, tt.verb, tt.dtab)
			if tt.status == 0 && (err != nil || by != tt.by) {
				t.Errorf("got %q, %v", by, err)
			}
			if e, ok := err.(interface{ StatusCode() int }); tt.status != 0 && (!ok || e.StatusCode() != tt.status || !strings.Contains(err.Error(), tt.says)) {
				t.Errorf("got %v, want %d %q", err, tt.status, tt.says)
			}
			if n := testutil.ToFloat64(a.requests.WithLabelValues(tt.result)); n != 1 {
				t.Errorf("%v are counted as %s", n, tt.result)
			}
			if strings.Contains(log.String(), "Bearer") {
				t.Errorf("a token is in the log: %s", &log)
			}
		})
	}
}

// An answer is believed for some seconds, one that is none is not; strangers cannot fill the memory.
func TestAccessRemembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newJudge()
		a, err := New(Config{Client: j, Namespace: "tulle", Registerer: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		ask := func(token, verb string, status, reviews int) {
			t.Helper()
			before := j.reviews
			_, err := a.authorize(RBAC, request("10.0.0.1:1", "Bearer "+token), verb, "default")
			got := 0
			if err != nil {
				got = err.(interface{ StatusCode() int }).StatusCode()
			}
			if got != status || j.reviews-before != reviews {
				t.Errorf("%s as %s: got %d after %d reviews, want %d after %d", verb, token, got, j.reviews-before, status, reviews)
			}
		}
		ask("ops", "update", 0, 2)
		ask("ops", "update", 0, 0)
		ask("ops", "delete", 0, 2) // another question
		ask("ci", "update", 403, 2)
		ask("ci", "update", 403, 0)
		ask("ci", "", 0, 1) // who it is
		ask("ci", "", 0, 0)
		ask("x", "", 401, 1)
		ask("x", "update", 401, 1)
		ask("x", "update", 401, 0)
		j.away = true
		time.Sleep(trust - time.Second)
		ask("ops", "update", 0, 0)
		time.Sleep(time.Second)
		ask("ops", "update", 503, 1)
		j.away = false
		ask("ops", "update", 0, 2)
		for i := range 3 * maxAnswers {
			_, _ = a.authorize(RBAC, request("10.0.0.1:1", fmt.Sprint("Bearer x", i)), "list", "")
		}
		if n := len(a.answers); n > maxAnswers {
			t.Errorf("%d answers are remembered", n)
		}
	})
}

// A right that is missing here is no fault of the caller's, and is said until it is there.
func TestRightsAreMissing(t *testing.T) {
	for _, lacks := range []string{"tokenreviews", "subjectaccessreviews"} {
		j := newJudge()
		var log bytes.Buffer
		a, err := New(Config{Client: j, Namespace: "tulle", Registerer: prometheus.NewRegistry(), Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		ask := func(token string, status int) {
			t.Helper()
			_, err := a.authorize(RBAC, request("10.0.0.1:1", "Bearer "+token), "list", "")
			if e, ok := err.(*refusal); (status != 0) != ok || ok && e.status != status {
				t.Errorf("%s: %v, want %d", token, err, status)
			}
		}
		said := func(want int) {
			t.Helper()
			const text = `level=WARN msg="the namer lacks rights in Kubernetes, so that nobody with a token is let in: it must be allowed to create ` +
				`tokenreviews.authentication.k8s.io and subjectaccessreviews.authorization.k8s.io" error="`
			if n := strings.Count(log.String(), text); n != want || strings.Count(log.String(), "level=WARN") != want {
				t.Errorf("without %s it is said %d times, want %d:\n%s", lacks, n, want, &log)
			}
		}
		j.away = true
		ask("ops", 503)
		said(0)
		j.away, j.forbids = false, lacks
		ask("ops", 503)
		ask("ci", 503)
		said(1)
		j.away = true
		ask("ops", 503)
		j.away = false
		if lacks == "subjectaccessreviews" {
			ask("x", 401) // for which the other right is enough
		}
		ask("ops", 503)
		said(1)
		j.forbids = ""
		ask("ops", 0)
		j.forbids = lacks
		ask("ci", 503)
		said(2)
	}
}
