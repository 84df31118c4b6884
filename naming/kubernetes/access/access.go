// Package access says who may use the namer's API: it has Kubernetes tell whose a token is, and whether that user
// may do the same to the objects dtabs.l5d.io.
//
// It keeps no users and no rights of its own, and answers no requests: it says yes, with a name, or why not.
//
// Invariant: a caller from another machine is let in by the API server's word, no older than five seconds, or because
// the settings say that everybody is. Tokens are kept as digests and never written anywhere.
//
//	rules, err := access.New(access.Config{Client: client, Namespace: "tulle", Registerer: metrics, Logger: log})
//	api := namer.NewAPI(namer.APIConfig{Store: store, Authorize: rules.Authorizer(access.RBAC), Logger: log})
package access

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"maps"
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
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/tulle-mesh/tulle/naming/namer"
)

// Audience is what tokens for Tulle are made for.
const Audience = "tulle.dev"

// Who may use an API.
const (
	RBAC  = "rbac"  // callers from other machines need a token whose user may do the same to the objects
	Open  = "open"  // whoever reaches the port
	Local = "local" // callers on this machine, for a port that no others reach
)

// Rates of questions about callers, of which a strange one costs one, others two.
const (
	questionsPerSecond = 20
	questionsBurst     = 100
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
	resultLocal   = "local"   // allowed without a token
	resultAllowed = "allowed" // to the token's user, or to anybody
	resultUnknown = "unknown" // no token, or one that is no good
	resultDenied  = "denied"  // the token's user may not
	resultFailed  = "failed"  // it could not be found out
)

// Config is what Rules work with.
type Config struct {
	// Client may create tokenreviews and subjectaccessreviews; nil if nobody is let in by RBAC.
	Client    kubernetes.Interface
	Namespace string // of Kubernetes, where the objects are
	// Registerer gets tulle_namer_access_total, required.
	Registerer prometheus.Registerer
	Logger     *slog.Logger // required; gets a line for each refusal of the API server's, and a warning if rights are missing here
}

// NewClient returns a client for the questions of Rules. It has a rate of its own: strangers must not use up that of
// others.
func NewClient(config *rest.Config) (kubernetes.Interface, error) {
	c := rest.CopyConfig(config)
	c.QPS, c.Burst = questionsPerSecond, questionsBurst
	return kubernetes.NewForConfig(c)
}

// Rules decide who may do what to dtabs over the namer's API. They are safe for concurrent use.
//
// Callers from loopback are trusted: they are on the pod's own network, or come by kubectl port-forward, which the
// API server has allowed them. Others show a bearer token, made for the Audience, of a user who may do
// to the object dtabs.l5d.io of that name what is asked.
type Rules struct {
	client    kubernetes.Interface
	namespace string
	log       *slog.Logger
	requests  *prometheus.CounterVec

	mu      sync.Mutex
	answers map[question]answer
	lacking bool // rights of its own, as has been said
}

type question struct {
	token      [sha256.Size]byte
	verb, dtab string
}

type answer struct {
	user string
	err  *refusal  // nil if allowed
	good time.Time // until then
}

// refusal is why somebody is not let in.
type refusal struct {
	status int
	result string
	text   string
}

func (e *refusal) Error() string { return e.text }

// StatusCode is the HTTP status to answer with.
func (e *refusal) StatusCode() int { return e.status }

// New returns the rules. It asks nobody yet.
func New(c Config) (*Rules, error) {
	a := &Rules{client: c.Client, namespace: c.Namespace, log: c.Logger, answers: map[question]answer{}}
	a.requests = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tulle_namer_access_total",
		Help: "Requests to the namer's API by what its access rules said of them.",
	}, []string{"result"})
	for _, result := range []string{resultLocal, resultAllowed, resultUnknown, resultDenied, resultFailed} {
		a.requests.WithLabelValues(result) // So that a rate works from the first event.
	}
	return a, c.Registerer.Register(a.requests)
}

// Authorizer returns the rules of one API, as namer.APIConfig takes them; mode is RBAC, Open or Local.
func (a *Rules) Authorizer(mode string) func(r *http.Request, verb, dtab string) (by string, err error) {
	return func(r *http.Request, verb, dtab string) (string, error) { return a.authorize(mode, r, verb, dtab) }
}

// authorize returns who sent the request, for logs and histories, or an error with a method StatusCode() int if that one
// may not do verb (get, list, watch, create, update, delete) to a dtab; the name is empty for all of them. Without a verb
// it says who it is and no more; another question follows, which is the one that counts.
func (a *Rules) authorize(mode string, r *http.Request, verb, dtab string) (by string, err error) {
	result := resultAllowed
	defer func() {
		if err != nil || verb != "" {
			a.requests.WithLabelValues(result).Inc()
		}
	}()
	peer, _ := netip.ParseAddrPort(r.RemoteAddr)
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	token = strings.TrimSpace(token)
	switch {
	case strings.EqualFold(scheme, "Bearer") && token != "" && mode == RBAC:
		// Even from loopback: it names the caller.
	case r.Header.Get("Origin") != "":
		// Any page in the browser of somebody with a port-forward could.
		result = resultUnknown
		return "", &refusal{http.StatusForbidden, resultUnknown, "a web page may not use the namer's API without a token"}
	case peer.Addr().Unmap().IsLoopback() && mode != Open && !namer.PlainHost(r.Host):
		// A name that a page had resolve to loopback makes the page one of ours to the browser.
		result = resultUnknown
		return "", &refusal{http.StatusForbidden, resultUnknown, "from this machine the namer's API is reached as localhost or by an address, not as " + strconv.Quote(r.Host)}
	case peer.Addr().Unmap().IsLoopback():
		result = resultLocal
		return "local", nil
	case mode == Open:
		return peer.Addr().Unmap().String(), nil
	case mode == Local:
		result = resultUnknown
		return "", &refusal{http.StatusForbidden, resultUnknown, "only callers on the namer's own machine may use this port"}
	default:
		result = resultUnknown
		return "", &refusal{http.StatusUnauthorized, resultUnknown, "there is no bearer token in the Authorization header; " +
			"send one (kubectl create token NAME --audience " + Audience + "), or come through kubectl port-forward"}
	}
	found := a.ask(r.Context(), question{sha256.Sum256([]byte(token)), verb, dtab}, token)
	if found.err != nil {
		result = found.err.result
		return "", found.err
	}
	return found.user, nil
}

// ask answers from memory or asks the API server.
func (a *Rules) ask(ctx context.Context, q question, token string) answer {
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
			text := "the API server could not be asked about the token: try again"
			if apierrors.IsForbidden(err) {
				text = "the namer may not ask the API server about tokens: its log says which rights it lacks"
				a.lacks(err)
			}
			fresh.err = &refusal{http.StatusServiceUnavailable, resultFailed, text}
		}
		a.log.Info("refuse a caller of the namer API", "user", fresh.user, "verb", q.verb, "dtab", q.dtab, "reason", err)
		if fresh.err.result == resultFailed {
			return fresh // The next one asks again.
		}
	}
	now := time.Now()
	fresh.good = now.Add(trust)
	a.mu.Lock()
	defer a.mu.Unlock()
	if q.verb != "" && (fresh.err == nil || fresh.err.result == resultDenied) { // for which both questions were answered
		a.lacking = false
	}
	if len(a.answers) >= maxAnswers {
		maps.DeleteFunc(a.answers, func(_ question, old answer) bool { return now.After(old.good) })
	}
	if len(a.answers) >= maxAnswers {
		clear(a.answers)
	}
	a.answers[q] = fresh
	return fresh
}

// lacks says that the namer may not ask, unless it has and could not since.
func (a *Rules) lacks(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.lacking {
		a.lacking = true
		a.log.Warn("the namer lacks rights in Kubernetes, so that nobody with a token is let in: it must be allowed to create "+
			"tokenreviews.authentication.k8s.io and subjectaccessreviews.authorization.k8s.io", "error", err)
	}
}

// review asks the API server whose the token is and, if there is a verb, whether that user may. The user may be known with an error, too.
func (a *Rules) review(ctx context.Context, token, verb, dtab string) (user string, err error) {
	who, err := a.client.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{Audience}},
	}, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("review the token: %w", err)
	}
	// A token for the API server itself is refused: whoever receives one could act as its user there.
	if !who.Status.Authenticated || !slices.Contains(who.Status.Audiences, Audience) {
		text := "the token is not accepted: " + cmp.Or(who.Status.Error, "it is not made for the audience "+Audience)
		return who.Status.User.Username, &refusal{http.StatusUnauthorized, resultUnknown, text}
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
	return u.Username, &refusal{http.StatusForbidden, resultDenied,
		fmt.Sprintf("%s may not %s %s in the namespace %s; grant it with a Role, see docs/namer.md", u.Username, verb, what, a.namespace)}
}
