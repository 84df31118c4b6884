package issuer

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// reviewTimeout bounds one question to the API server.
const reviewTimeout = 10 * time.Second

// Keys of the extra information that the API server gives about a token bound to a pod.
const (
	extraPod  = "authentication.kubernetes.io/pod-name"
	extraNode = "authentication.kubernetes.io/node-name"
)

// TokenReview authenticates projected service-account tokens by asking the API server. There is no cache: a
// proxy comes once at its start and then every few hours, and the token of a deleted pod is dead at once.
type TokenReview struct {
	client   kubernetes.Interface
	audience string
}

// NewTokenReview returns an authenticator that takes tokens made for audience and bound to a pod.
func NewTokenReview(client kubernetes.Interface, audience string) *TokenReview {
	return &TokenReview{client, audience}
}

// Authenticate implements [Authenticator].
func (t *TokenReview) Authenticate(ctx context.Context, token string) (Caller, error) {
	ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
	defer cancel()
	review, err := t.client.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{t.audience}},
	}, metav1.CreateOptions{})
	if err != nil {
		return Caller{}, fmt.Errorf("review token: %w", err)
	}
	status := review.Status
	// An authenticator that knows nothing of audiences answers with none, and the token may be
	// for anyone: it is not for us unless the answer says so.
	switch {
	case !status.Authenticated && status.Error != "":
		return Caller{}, fmt.Errorf("%w: %s", ErrUnauthenticated, status.Error)
	case !status.Authenticated:
		return Caller{}, ErrUnauthenticated
	case !slices.Contains(status.Audiences, t.audience):
		return Caller{}, fmt.Errorf("%w: it is for the audiences %q, not for %s", ErrUnauthenticated, status.Audiences, t.audience)
	}
	account, ok := strings.CutPrefix(status.User.Username, "system:serviceaccount:")
	namespace, name, found := strings.Cut(account, ":")
	if !ok || !found || namespace == "" || name == "" {
		return Caller{}, fmt.Errorf("%w: it is of %q, which is no service account", ErrUnauthenticated, status.User.Username)
	}
	caller := Caller{Namespace: namespace, ServiceAccount: name}
	if values := status.User.Extra[extraPod]; len(values) == 1 {
		caller.Pod = values[0]
	} else {
		return Caller{}, fmt.Errorf("%w: it is bound to no pod", ErrUnauthenticated)
	}
	if values := status.User.Extra[extraNode]; len(values) == 1 {
		caller.Node = values[0]
	}
	return caller, nil
}

// StaticTokens authenticates tokens from a fixed list: for a mesh on one machine, and for tests.
type StaticTokens struct {
	// By digest, so that the time of a look-up says nothing about a token.
	callers map[[sha256.Size]byte]Caller
}

// NewStaticTokens returns an authenticator for these tokens.
func NewStaticTokens(tokens map[string]Caller) *StaticTokens {
	s := &StaticTokens{make(map[[sha256.Size]byte]Caller, len(tokens))}
	for token, caller := range tokens {
		s.callers[sha256.Sum256([]byte(token))] = caller
	}
	return s
}

// Authenticate implements [Authenticator].
func (s *StaticTokens) Authenticate(_ context.Context, token string) (Caller, error) {
	caller, ok := s.callers[sha256.Sum256([]byte(token))]
	if !ok {
		return Caller{}, fmt.Errorf("%w: it is not in the list", ErrUnauthenticated)
	}
	return caller, nil
}
