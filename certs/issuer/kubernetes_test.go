package issuer_test

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	cmapi "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	cmmeta "github.com/cert-manager/cert-manager/pkg/apis/meta/v1"
	cmfake "github.com/cert-manager/cert-manager/pkg/client/clientset/versioned/fake"
	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/tulle-mesh/tulle/certs/issuer"
)

func TestTokenReview(t *testing.T) {
	user := func(name string, extra map[string]authenticationv1.ExtraValue) authenticationv1.UserInfo {
		return authenticationv1.UserInfo{Username: name, Extra: extra}
	}
	bound := map[string]authenticationv1.ExtraValue{
		"authentication.kubernetes.io/pod-name":  {"web-0"},
		"authentication.kubernetes.io/node-name": {"n1"},
	}
	ours := []string{"tulle.dev"}
	for name, c := range map[string]struct {
		status authenticationv1.TokenReviewStatus
		want   issuer.Caller
		err    string
	}{
		"a pod": {
			status: authenticationv1.TokenReviewStatus{Authenticated: true, Audiences: ours, User: user("system:serviceaccount:shop:web", bound)},
			want:   webCaller,
		},
		"a bad token": {
			status: authenticationv1.TokenReviewStatus{Error: "token has expired", Audiences: ours, User: user("system:serviceaccount:shop:web", bound)},
			err:    "the token is not accepted: token has expired",
		},
		"a bad token without reason": {err: "the token is not accepted"},
		"no audience": {
			status: authenticationv1.TokenReviewStatus{Authenticated: true, User: user("system:serviceaccount:shop:web", bound)},
			err:    `the token is not accepted: it is for the audiences [], not for tulle.dev`,
		},
		"another audience": {
			status: authenticationv1.TokenReviewStatus{Authenticated: true, Audiences: []string{"vault"}, User: user("system:serviceaccount:shop:web", bound)},
			err:    `the token is not accepted: it is for the audiences ["vault"], not for tulle.dev`,
		},
		"a person": {
			status: authenticationv1.TokenReviewStatus{Authenticated: true, Audiences: ours, User: user("admin", bound)},
			err:    `the token is not accepted: it is of "admin", which is no service account`,
		},
		"bound to no pod": {
			status: authenticationv1.TokenReviewStatus{Authenticated: true, Audiences: ours, User: user("system:serviceaccount:shop:web", nil)},
			err:    "the token is not accepted: it is bound to no pod",
		},
	} {
		t.Run(name, func(t *testing.T) {
			client := fake.NewClientset()
			client.PrependReactor("create", "tokenreviews", func(action clienttesting.Action) (bool, runtime.Object, error) {
				review := action.(clienttesting.CreateAction).GetObject().(*authenticationv1.TokenReview).DeepCopy()
				if diff := cmp.Diff(authenticationv1.TokenReviewSpec{Token: "secret", Audiences: ours}, review.Spec); diff != "" {
					t.Error(diff)
				}
				review.Status = c.status
				return true, review, nil
			})
			got, err := issuer.NewTokenReview(client, "tulle.dev").Authenticate(t.Context(), "secret")
			switch {
			case c.err == "" && (err != nil || got != c.want):
				t.Errorf("got %+v, %v", got, err)
			case c.err != "" && (err == nil || err.Error() != c.err || !errors.Is(err, issuer.ErrUnauthenticated)):
				t.Errorf("got %v, want %s", err, c.err)
			}
		})
	}
}

func TestTokenReviewThatCannotBeMade(t *testing.T) {
	client := fake.NewClientset()
	client.PrependReactor("create", "tokenreviews", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewServiceUnavailable("etcd is away")
	})
	_, err := issuer.NewTokenReview(client, "tulle.dev").Authenticate(t.Context(), "secret")
	if err == nil || errors.Is(err, issuer.ErrUnauthenticated) || !strings.Contains(err.Error(), "etcd is away") {
		t.Errorf("got %v", err)
	}
}

// order is a checked request for the identity of the tests.
func order(t *testing.T) issuer.Order {
	t.Helper()
	content := []byte(newCSR(t, newKey(t), x509.CertificateRequest{URIs: []*url.URL{webID.URL()}}))
	block, _ := pem.Decode(content)
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return issuer.Order{CSR: csr, CSRPEM: content, ID: webID, Caller: webCaller, Duration: time.Hour}
}

func condition(kind cmapi.CertificateRequestConditionType, status cmmeta.ConditionStatus, reason, message string) cmapi.CertificateRequestCondition {
	return cmapi.CertificateRequestCondition{Type: kind, Status: status, Reason: reason, Message: message}
}

// step is what cert-manager does to a request: one update of its status.
type step func(*cmapi.CertificateRequest)

func conditions(cs ...cmapi.CertificateRequestCondition) step {
	return func(r *cmapi.CertificateRequest) { r.Status.Conditions = append(r.Status.Conditions, cs...) }
}

// certManager plays cert-manager's controllers on a fake API server: it does the steps to every request.
// Tests run it in a bubble, which ends it.
func certManager(t *testing.T, client *cmfake.Clientset, steps ...step) {
	t.Helper()
	requests := client.CertmanagerV1().CertificateRequests("tulle")
	ctx, cancel := context.WithCancel(context.Background())
	watch, err := requests.Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for event := range watch.ResultChan() {
			if event.Type != "ADDED" {
				continue
			}
			for _, step := range steps {
				r, err := requests.Get(ctx, event.Object.(*cmapi.CertificateRequest).Name, metav1.GetOptions{})
				if err != nil {
					return
				}
				step(r)
				if _, err := requests.UpdateStatus(ctx, r, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
					t.Error(err)
				}
			}
		}
	}()
	t.Cleanup(func() { watch.Stop(); cancel(); <-done })
}

func newCertManager(client *cmfake.Clientset) *issuer.CertManager {
	return issuer.NewCertManager(issuer.CertManagerConfig{
		Client: client, Namespace: "tulle",
		Issuer: cmmeta.IssuerReference{Name: "mesh", Kind: "ClusterIssuer", Group: "cert-manager.io"},
	})
}

var (
	approved = conditions(condition(cmapi.CertificateRequestConditionApproved, cmmeta.ConditionTrue, "cert-manager.io", "approved"))
	pending  = conditions(condition(cmapi.CertificateRequestConditionReady, cmmeta.ConditionFalse, cmapi.CertificateRequestReasonPending, "waiting for the vault"))
)

func TestCertManagerSigns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := cmfake.NewClientset()
		var seen *cmapi.CertificateRequest
		certManager(t, client, approved, func(r *cmapi.CertificateRequest) {
			seen = r.DeepCopy()
			r.Status.Certificate = []byte("the chain")
			r.Status.CA = []byte("not to be used")
			conditions(condition(cmapi.CertificateRequestConditionReady, cmmeta.ConditionTrue, cmapi.CertificateRequestReasonIssued, ""))(r)
		})
		order := order(t)
		chain, err := newCertManager(client).Sign(t.Context(), order)
		if err != nil || string(chain) != "the chain" {
			t.Fatalf("got %q, %v", chain, err)
		}
		want := cmapi.CertificateRequestSpec{
			Request: order.CSRPEM, Duration: &metav1.Duration{Duration: time.Hour},
			IssuerRef: cmmeta.IssuerReference{Name: "mesh", Kind: "ClusterIssuer", Group: "cert-manager.io"},
			Usages:    []cmapi.KeyUsage{"digital signature", "client auth", "server auth"},
		}
		if diff := cmp.Diff(want, seen.Spec); diff != "" {
			t.Error(diff)
		}
		if seen.Annotations["tulle.dev/pod"] != "web-0" || seen.Labels["app.kubernetes.io/managed-by"] != "tulle-controller" {
			t.Errorf("labels %v, annotations %v", seen.Labels, seen.Annotations)
		}
		left, err := client.CertmanagerV1().CertificateRequests("tulle").List(t.Context(), metav1.ListOptions{})
		if err != nil || len(left.Items) != 0 {
			t.Errorf("left behind: %v, %v", left.Items, err)
		}
	})
}

func TestCertManagerRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		steps  []step
		denied bool
		want   string
	}{
		"denied": {
			steps:  []step{conditions(condition(cmapi.CertificateRequestConditionDenied, cmmeta.ConditionTrue, "policy", "no policy approved this request"))},
			denied: true,
			want:   "the certificate request was denied by cert-manager's approver: no policy approved this request",
		},
		"denied by reason": {
			steps:  []step{conditions(condition(cmapi.CertificateRequestConditionReady, cmmeta.ConditionFalse, "Denied", "not here"))},
			denied: true,
			want:   "the certificate request was denied by cert-manager: not here",
		},
		"failed": {
			steps: []step{approved, pending, func(r *cmapi.CertificateRequest) {
				r.Status.Conditions[1] = condition(cmapi.CertificateRequestConditionReady, cmmeta.ConditionFalse, "Failed", "the vault is sealed")
			}},
			want: "issuer ClusterIssuer mesh failed: the vault is sealed",
		},
		"invalid": {
			steps: []step{conditions(condition(cmapi.CertificateRequestConditionInvalidRequest, cmmeta.ConditionTrue, "BadUsage", "usages are not allowed"))},
			want:  "issuer ClusterIssuer mesh finds the request invalid: usages are not allowed",
		},
		"never": {
			steps: []step{approved, pending},
			want:  "(Pending: waiting for the vault): issuer ClusterIssuer mesh gave no answer within 30s",
		},
		"not even seen": {
			want: "(no condition yet): issuer ClusterIssuer mesh gave no answer within 30s",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client := cmfake.NewClientset()
				certManager(t, client, c.steps...)
				start := time.Now()
				_, err := newCertManager(client).Sign(t.Context(), order(t))
				if err == nil || !strings.Contains(err.Error(), c.want) || errors.Is(err, issuer.ErrDenied) != c.denied {
					t.Errorf("got %v, want %s", err, c.want)
				}
				if waited := time.Since(start); waited > 31*time.Second {
					t.Errorf("it took %v", waited)
				}
				left, err := client.CertmanagerV1().CertificateRequests("tulle").List(t.Context(), metav1.ListOptions{})
				if err != nil || len(left.Items) != 0 {
					t.Errorf("left behind: %v, %v", left.Items, err)
				}
			})
		})
	}
}

func TestCertManagerDeletedByOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := cmfake.NewClientset()
		certManager(t, client, func(r *cmapi.CertificateRequest) {
			err := client.CertmanagerV1().CertificateRequests("tulle").Delete(context.Background(), r.Name, metav1.DeleteOptions{})
			if err != nil {
				t.Error(err)
			}
		})
		_, err := newCertManager(client).Sign(t.Context(), order(t))
		if err == nil || !strings.Contains(err.Error(), "somebody deleted it") {
			t.Errorf("got %v", err)
		}
	})
}

func TestCertManagerWatchesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := cmfake.NewClientset()
		certManager(t, client, approved, func(r *cmapi.CertificateRequest) {
			<-time.After(time.Second) // Until the first watch is over; this is virtual time.
			r.Status.Certificate = []byte("the chain")
			conditions(condition(cmapi.CertificateRequestConditionReady, cmmeta.ConditionTrue, cmapi.CertificateRequestReasonIssued, ""))(r)
		})
		watches := 0
		client.PrependWatchReactor("certificaterequests", func(clienttesting.Action) (bool, apiwatch.Interface, error) {
			watches++
			if watches > 1 {
				return false, nil, nil
			}
			short := apiwatch.NewFake()
			time.AfterFunc(time.Millisecond, short.Stop)
			return true, short, nil
		})
		chain, err := newCertManager(client).Sign(t.Context(), order(t))
		if err != nil || string(chain) != "the chain" || watches != 2 {
			t.Errorf("got %q, %v after %d watches", chain, err, watches)
		}
	})
}
