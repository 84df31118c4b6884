package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// Who may use the namer's API.
const (
	accessRBAC = "rbac" // callers from other machines need a token whose user may do the same to the objects
	accessOpen = "open" // whoever reaches the port
)

const (
	// trust is how long an answer of the API server is believed, and so how long a right that was taken away
	// lasts. Pipelines ask several times in a row.
	trust = 5 * time.Second
	// maxAnswers bounds what is remembered, whatever tokens strangers make up.
	maxAnswers = 1000
	// askTimeout bounds the two questions to the API server.
	askTimeout = 10 * time.Second
)

// Results of a question for access, as the metric has them.
const (
	accessLocal   = "local"   // allowed without a token
	accessAllowed = "allowed" // to the token's user, or to anybody
	accessUnknown = "unknown" // no token, or one that is no good
	accessDenied  = "denied"  // the token's user may not
	accessFailed  = "failed"  // it could not be found out
)

// access decides who may do what to dtabs over the namer's API. It is safe for concurrent use.
//
// Callers from loopback are trusted: they are on the pod's own network, or come by kubectl port-forward, which the
// API server has allowed them. Others show a bearer token, made for the mesh's audience, of a user who may do
// to the object dtabs.l5d.io of that name what is asked. Tokens are kept as digests and never written anywhere.
type access struct {
	client    kubernetes.Interface
	namespace string // of the mesh, where the objects are
	open      bool
	log       *slog.Logger
	requests  *prometheus.CounterVec

	mu      sync.Mutex
	answers map[question]answer
}

type question struct {
	token      [sha256.Size]byte
	verb, dtab string
}

type answer struct {
	user string
	err  *accessError // nil if allowed
	good time.Time    // until then
}

// accessError is a refusal.
type accessError struct {
	status int
	result string
	text   string
}

func (e *accessError) Error() string { return e.text }

// StatusCode is the HTTP status to answer with.
func (e *accessError) StatusCode() int { return e.status }

// newAccess returns the rules for a mesh in namespace. It asks nobody yet.
func newAccess(client kubernetes.Interface, namespace string, open bool, r prometheus.Registerer, log *slog.Logger) (*access, error) {
	a := &access{client: client, namespace: namespace, open: open, log: log, answers: map[question]answer{}}
	a.requests = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tulle_namer_access_total",
		Help: "Requests to the namer's API by what its access rules said of them.",
	}, []string{"result"})
	for _, result := range []string{accessLocal, accessAllowed, accessUnknown, accessDenied, accessFailed} {
		a.requests.WithLabelValues(result) // So that a rate works from the first event.
	}
	return a, r.Register(a.requests)
}

// authorize returns who sent the request, for logs and histories, or an error with a method StatusCode() int if that one
// may not do verb (get, list, watch, create, update, delete) to a dtab; the name is empty for all of them. Without a verb
// it says who it is and no more; another question follows, which is the one that counts.
func (a *access) authorize(r *http.Request, verb, dtab string) (by string, err error) {
	result := accessAllowed
	defer func() {
		if err != nil || verb != "" {
			a.requests.WithLabelValues(result).Inc()
		}
	}()
	peer, _ := netip.ParseAddrPort(r.RemoteAddr)
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	token = strings.TrimSpace(token)
	switch {
	case strings.EqualFold(scheme, "Bearer") && token != "" && !a.open:
		// Even from loopback: it names the caller.
	case r.Header.Get("Origin") != "":
		// Any page in the browser of somebody with a port-forward could.
		result = accessUnknown
		return "", &accessError{http.StatusForbidden, accessUnknown, "a web page may not use the namer's API without a token"}
	case peer.Addr().Unmap().IsLoopback() && !a.open && !plain(r.Host):
		// A name that a page had resolve to loopback makes the page one of ours to the browser.
		result = accessUnknown
		return "", &accessError{http.StatusForbidden, accessUnknown, "from this machine the namer's API is reached as localhost or by an address, not as " + strconv.Quote(r.Host)}
	case peer.Addr().Unmap().IsLoopback():
		result = accessLocal
		return "local", nil
	case a.open:
		return peer.Addr().Unmap().String(), nil
	default:
		result = accessUnknown
		return "", &accessError{http.StatusUnauthorized, accessUnknown, "there is no bearer token in the Authorization header; " +
			"send one (kubectl create token NAME --audience " + audience + "), or come through kubectl port-forward"}
	}
	found := a.ask(r.Context(), question{sha256.Sum256([]byte(token)), verb, dtab}, token)
	if found.err != nil {
		result = found.err.result
		return "", found.err
	}
	return found.user, nil
}

// plain reports whether a Host is localhost or an address, which no page can have resolve to anything else.
func plain(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil || strings.EqualFold(host, "localhost")
}

// ask answers from memory or asks the API server.
func (a *access) ask(ctx context.Context, q question, token string) answer {
	a.mu.Lock()
	known, ok := a.answers[q]
	a.mu.Unlock()
	if ok && time.Now().Before(known.good) {
		return known
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	fresh := answer{}
	var err error
	if fresh.user, err = a.review(ctx, token, q.verb, q.dtab); err != nil {
		if !errors.As(err, &fresh.err) {
			// What exactly failed is not for strangers.
			fresh.err = &accessError{http.StatusServiceUnavailable, accessFailed, "the API server could not be asked about the token: try again"}
		}
		a.log.Info("refuse a caller of the namer API", "user", fresh.user, "verb", q.verb, "dtab", q.dtab, "reason", err)
		if fresh.err.result == accessFailed {
			return fresh // The next one asks again.
		}
	}
	now := time.Now()
	fresh.good = now.Add(trust)
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.answers) >= maxAnswers {
		maps.DeleteFunc(a.answers, func(_ question, old answer) bool { return now.After(old.good) })
	}
	if len(a.answers) >= maxAnswers {
		clear(a.answers)
	}
	a.answers[q] = fresh
	return fresh
}

// review asks the API server whose the token is and, if there is a verb, whether that user may. The user may be known with an error, too.
func (a *access) review(ctx context.Context, token, verb, dtab string) (user string, err error) {
	who, err := a.client.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{audience}},
	}, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("review the token: %w", err)
	}
	// A token for the API server itself is refused: whoever receives one could act as its user there.
	if !who.Status.Authenticated || !slices.Contains(who.Status.Audiences, audience) {
		text := "the token is not accepted: " + cmp.Or(who.Status.Error, "it is not made for the audience "+audience)
		return who.Status.User.Username, &accessError{http.StatusUnauthorized, accessUnknown, text}
	}
	u := who.Status.User
	if verb == "" {
		return u.Username, nil
	}
	extra := make(map[string]authorizationv1.ExtraValue, len(u.Extra))
	for k, v := range u.Extra {
		extra[k] = authorizationv1.ExtraValue(v)
	}
	may, err := a.client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User: u.Username, UID: u.UID, Groups: u.Groups, Extra: extra,
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Namespace: a.namespace, Verb: verb, Group: "l5d.io", Resource: "dtabs", Name: dtab,
			},
		},
	}, metav1.CreateOptions{})
	switch {
	case err != nil:
		return u.Username, fmt.Errorf("review access of %s: %w", u.Username, err)
	case may.Status.Allowed && !may.Status.Denied:
		return u.Username, nil
	}
	what := "dtabs.l5d.io"
	if dtab != "" {
		what += "/" + dtab
	}
	return u.Username, &accessError{http.StatusForbidden, accessDenied,
		fmt.Sprintf("%s may not %s %s in the namespace %s; grant it with a Role, see docs/namer.md", u.Username, verb, what, a.namespace)}
}
