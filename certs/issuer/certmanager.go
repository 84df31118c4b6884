package issuer

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"time"

	"github.com/cert-manager/cert-manager/pkg/api/util"
	cmapi "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	cmmeta "github.com/cert-manager/cert-manager/pkg/apis/meta/v1"
	"github.com/cert-manager/cert-manager/pkg/client/clientset/versioned"
	client "github.com/cert-manager/cert-manager/pkg/client/clientset/versioned/typed/certmanager/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	apiwatch "k8s.io/apimachinery/pkg/watch"
)

const (
	// defaultWait is how long a request may take in cert-manager. An issuer in the cluster needs less than
	// a second; one outside some seconds.
	defaultWait = 30 * time.Second
	// inFlight bounds the requests in cert-manager at a time, so that a cluster which starts all at
	// once does not push thousands of objects and watches into the API server.
	inFlight = 50
	// deleteTimeout bounds the removal of a request whose caller is no longer waiting.
	deleteTimeout = 5 * time.Second
)

// Labels and annotations of the requests that this package makes.
const (
	labelManagedBy           = "app.kubernetes.io/managed-by"
	managedBy                = "tulle-controller"
	annotationNamespace      = "tulle.dev/namespace"
	annotationServiceAccount = "tulle.dev/service-account"
	annotationPod            = "tulle.dev/pod"
	annotationNode           = "tulle.dev/node"
)

// CertManagerConfig says which issuer of cert-manager signs.
type CertManagerConfig struct {
	Client versioned.Interface
	// Namespace is where the requests are made, and where an issuer of kind Issuer must be.
	Namespace string
	// Issuer names the issuer; empty fields mean what cert-manager takes them for.
	Issuer cmmeta.IssuerReference
	// Wait bounds one signature; 0 means 30 s.
	Wait time.Duration
	// Logger gets a line when a used request could not be deleted. Nil discards it.
	Logger *slog.Logger
}

// CertManager signs by a CertificateRequest for each certificate, which it deletes when it has served.
type CertManager struct {
	cfg      CertManagerConfig
	requests client.CertificateRequestInterface
	slots    chan struct{}
}

// NewCertManager does no I/O.
func NewCertManager(cfg CertManagerConfig) *CertManager {
	cfg.Wait = cmp.Or(cfg.Wait, defaultWait)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &CertManager{
		cfg:      cfg,
		requests: cfg.Client.CertmanagerV1().CertificateRequests(cfg.Namespace),
		slots:    make(chan struct{}, inFlight),
	}
}

// Sign implements [Signer]. It returns within the configured wait and some seconds for the removal.
func (c *CertManager) Sign(ctx context.Context, order Order) ([]byte, error) {
	limit := fmt.Errorf("issuer %s gave no answer within %s", c.issuer(), c.cfg.Wait)
	ctx, cancel := context.WithTimeoutCause(ctx, c.cfg.Wait, limit)
	defer cancel()
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for a turn behind %d requests: %w", inFlight, context.Cause(ctx))
	}
	request := c.request(order)
	defer c.remove(ctx, request.Name)
	// The watch begins before the request exists, so that no state of it can be missed.
	for create := true; ; create = false {
		chain, done, err := c.follow(ctx, request, create)
		if err == nil && !done {
			continue // The API server ends every watch sooner or later.
		}
		return chain, err
	}
}

// follow watches the request until it is decided or the watch ends.
func (c *CertManager) follow(ctx context.Context, request *cmapi.CertificateRequest, create bool) (chain []byte, done bool, err error) {
	watch, err := c.requests.Watch(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, request.Name).String(),
	})
	if err != nil {
		return nil, false, fmt.Errorf("watch CertificateRequest %s/%s: %w", c.cfg.Namespace, request.Name, err)
	}
	defer watch.Stop()
	if create {
		_, err = c.requests.Create(ctx, request, metav1.CreateOptions{})
		// The name stands for the key: what exists already is the same request, sent twice.
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return nil, false, fmt.Errorf("create CertificateRequest %s/%s: %w", c.cfg.Namespace, request.Name, err)
		}
	}
	last := "no condition yet"
	events := watch.ResultChan()
	for {
		select {
		case event, ok := <-events:
			if !ok && ctx.Err() == nil {
				return nil, false, nil
			} else if !ok {
				events = nil // It ended because ctx did, which says why.
				continue
			}
			current, ok := event.Object.(*cmapi.CertificateRequest)
			if !ok {
				return nil, false, fmt.Errorf("watch CertificateRequest %s/%s: %w", c.cfg.Namespace, request.Name, apierrors.FromObject(event.Object))
			}
			if current.Name != request.Name {
				continue
			}
			if chain, done, err := c.decided(current); done || err != nil {
				return chain, done, err
			}
			if event.Type == apiwatch.Deleted {
				return nil, false, fmt.Errorf("wait for CertificateRequest %s/%s (%s): somebody deleted it", c.cfg.Namespace, request.Name, last)
			}
			if ready := util.GetCertificateRequestCondition(current, cmapi.CertificateRequestConditionReady); ready != nil {
				last = ready.Reason + ": " + ready.Message
			} else if util.CertificateRequestIsApproved(current) {
				last = "approved"
			}
		case <-ctx.Done():
			return nil, false, fmt.Errorf("wait for CertificateRequest %s/%s (%s): %w", c.cfg.Namespace, request.Name, last, context.Cause(ctx))
		}
	}
}

// decided returns the chain of a signed request, or why it will never be signed.
func (c *CertManager) decided(r *cmapi.CertificateRequest) (chain []byte, done bool, err error) {
	message := func(kind cmapi.CertificateRequestConditionType) string {
		if condition := util.GetCertificateRequestCondition(r, kind); condition != nil {
			return condition.Message
		}
		return "no reason was given"
	}
	switch reason := util.CertificateRequestReadyReason(r); {
	case util.CertificateRequestIsDenied(r):
		return nil, false, fmt.Errorf("%w by cert-manager's approver: %s", ErrDenied, message(cmapi.CertificateRequestConditionDenied))
	case reason == cmapi.CertificateRequestReasonDenied:
		return nil, false, fmt.Errorf("%w by cert-manager: %s", ErrDenied, message(cmapi.CertificateRequestConditionReady))
	case util.CertificateRequestHasInvalidRequest(r):
		return nil, false, fmt.Errorf("issuer %s finds the request invalid: %s", c.issuer(), util.CertificateRequestInvalidRequestMessage(r))
	case reason == cmapi.CertificateRequestReasonFailed:
		return nil, false, fmt.Errorf("issuer %s failed: %s", c.issuer(), message(cmapi.CertificateRequestConditionReady))
	case reason == cmapi.CertificateRequestReasonIssued && len(r.Status.Certificate) > 0:
		return r.Status.Certificate, true, nil
	}
	return nil, false, nil
}

// request is what cert-manager is asked for. Its status.ca is never used: what an issuer puts there is
// its own affair, and trust comes from the controller's settings.
func (c *CertManager) request(order Order) *cmapi.CertificateRequest {
	digest := sha256.Sum256(order.CSR.Raw)
	return &cmapi.CertificateRequest{
		ObjectMeta: metav1.ObjectMeta{
			Name:      "tulle-" + hex.EncodeToString(digest[:16]),
			Namespace: c.cfg.Namespace,
			Labels:    map[string]string{labelManagedBy: managedBy},
			Annotations: map[string]string{
				annotationNamespace:      order.Caller.Namespace,
				annotationServiceAccount: order.Caller.ServiceAccount,
				annotationPod:            order.Caller.Pod,
				annotationNode:           order.Caller.Node,
			},
		},
		Spec: cmapi.CertificateRequestSpec{
			Request:   order.CSRPEM,
			Duration:  &metav1.Duration{Duration: order.Duration},
			IssuerRef: c.cfg.Issuer,
			Usages:    []cmapi.KeyUsage{cmapi.UsageDigitalSignature, cmapi.UsageClientAuth, cmapi.UsageServerAuth},
		},
	}
}

func (c *CertManager) issuer() string {
	return cmp.Or(c.cfg.Issuer.Kind, "Issuer") + " " + c.cfg.Issuer.Name
}

// remove deletes a request, also for a caller who is gone.
func (c *CertManager) remove(ctx context.Context, name string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), deleteTimeout)
	defer cancel()
	err := c.requests.Delete(ctx, name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		c.cfg.Logger.Warn("could not delete CertificateRequest", "namespace", c.cfg.Namespace, "name", name, "error", err)
	}
}
